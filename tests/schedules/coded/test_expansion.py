"""Constants that are stored coded: what expands them gives the very array, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest
import tvm
import tvm_ffi

from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.passes.lowering.machine_code import MACHINE_CODE
from sbnn_tvm.schedules.coded.expansion import expansion
from tests.support.kernel_execution import target_for


def words(
    rng: np.random.Generator,
    density: float,
    shape: tuple[int, ...] = (3, 18, 32),
    dtype: str = "uint64",
    mixed: bool = False,
):
    size = np.dtype(dtype).itemsize
    bits = rng.random((*shape, size * 8)) < density
    array = np.packbits(bits, axis=-1, bitorder="little").view(dtype).reshape(shape)
    return array ^ (rng.random((shape[0], 1, shape[-1])) < 0.5) * np.array(-1).astype(dtype) if mixed else array


def codebook(rng: np.random.Generator, dtype: str, taps: int, size: int = 6) -> np.ndarray:
    patterns = rng.integers(0, 1 << taps, size)
    bits = np.dtype(dtype).itemsize * 8
    kernels = patterns[rng.integers(0, size, (20, 4, 16, bits))]  # blocks, words, lanes, bits
    packed = [np.packbits(kernels >> tap & 1, axis=-1, bitorder="little").view(dtype)[..., 0] for tap in range(taps)]
    return np.ascontiguousarray(np.stack(packed, axis=1)).reshape(20, taps * 4, 16)


def lists(rng: np.random.Generator, dtype: str, factor: int) -> np.ndarray:
    each = [np.sort(rng.choice(2000, 90, replace=False)) for _ in range(30)]
    padded = [np.append(offsets, [2000, 2000, 2000]) for offsets in each]
    return (np.concatenate(padded) * factor).astype(dtype)


def sparse_floats(rng: np.random.Generator, density: float) -> np.ndarray:
    values = np.where(rng.random((40, 5, 9)) < density, rng.standard_normal((40, 5, 9)), 0).astype(np.float32)
    values[0, 0, :2] = -0.0, np.nan
    return values


def arrays(rng: np.random.Generator) -> dict[str, tuple[str, np.ndarray]]:
    """Arrays, and the coding that is the smallest for each."""
    return {
        "sparse words": ("rice", words(rng, 0.05)),
        "sparse words of either majority": ("rice", words(rng, 0.05, mixed=True)),
        "sparse small words": ("rice", words(rng, 0.02, (4, 50, 16), "uint16", mixed=True)),
        "sparse bytes": ("rice", words(rng, 0.1, (2, 200, 32), "uint8")),
        "words without a set bit": ("rice", words(rng, 0.0)),
        "all bits set": ("rice", words(rng, 1.0)),
        "a vector of words": ("rice", words(rng, 0.03, (1, 1, 300))[0, 0]),
        "3x3 codebook": ("codebook", codebook(rng, "uint64", 9)),
        "5x5 codebook": ("codebook", codebook(rng, "uint16", 25)),
        "2x2 codebook of bytes": ("codebook", codebook(rng, "uint8", 4, 2)),
        "few values": ("table", rng.integers(0, 1 << 63, 20, dtype=np.uint64)[rng.integers(0, 20, (5, 300))]),
        "lists": ("differences", lists(rng, "uint16", 1)),
        "lists of even offsets": ("differences", lists(rng, "uint32", 8)),
        "a table of lists": (
            "differences",
            np.stack([np.arange(300) * 60 + 5, 40 - np.arange(300) // 9], 1).astype("int32"),
        ),
        "0 or all bits": ("table", (rng.integers(0, 2, 9000) * (2**32 - 1)).astype(np.uint64)),
        "a permutation": ("differences", rng.permutation(700).astype(np.int32)),
        "sparse floats": ("sparse", sparse_floats(rng, 0.1)),
        "few floats": ("table", rng.choice(np.array([-0.0, 0.0, np.nan, 1.5, -3], np.float32), (9, 64))),
        "half of the floats": ("sparse", sparse_floats(rng, 0.6)),
    }


ARRAYS = arrays(np.random.default_rng(0))


@pytest.mark.parametrize("name", ARRAYS)
def test_the_coding_that_is_taken(name: str) -> None:
    coding, array = ARRAYS[name]
    stored = expansion(array)
    assert stored is not None and stored.coding == coding
    assert stored.kernel.constant_bytes < array.nbytes
    assert (stored.shape, stored.dtype) == (array.shape, str(array.dtype))


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64", "arm", "armv7"])
def test_expanding_gives_the_array(target: str) -> None:
    """All with one library: compiling takes longer than running."""
    kernels = {name: stored.kernel for name, (_, array) in ARRAYS.items() if (stored := expansion(array))}
    functions = {kernel.name: kernel.func.with_attr("global_symbol", kernel.name) for kernel in kernels.values()}
    module, cpu = tvm.IRModule(functions), target_for(target)
    if cpu.native:
        library = tvm.compile(module, cpu.target, tir_pipeline=MACHINE_CODE)
    else:
        emulator = Emulator(module, cpu)
    for name, kernel in kernels.items():
        ((size, dtype),) = kernel.outputs
        flat = np.full(size, 77, dtype)
        if cpu.native:
            tensors = [tvm.runtime.tensor(array) for array in (*kernel.constants, flat)]
            library[kernel.name](*tensors)
            flat = tensors[-1].numpy()
        else:
            emulator.run(kernel.name, [*kernel.constants, flat])
        array = np.ascontiguousarray(ARRAYS[name][1]).reshape(-1)
        np.testing.assert_array_equal(flat.view(np.uint8), array.view(np.uint8), err_msg=name)


def dense_or_small_arrays(rng: np.random.Generator) -> list[np.ndarray]:
    """Arrays that no coding makes smaller."""
    return [
        words(rng, 0.5),
        words(rng, 0.01, (1, 1, 8)),
        rng.standard_normal((50, 50)).astype(np.float32),
        np.zeros((0, 4), np.int32),
    ]


@pytest.mark.parametrize(
    "array",
    dense_or_small_arrays(np.random.default_rng(0)),
    ids=["dense", "small", "floats", "empty"],
)
def test_what_would_not_get_smaller_stays(array: np.ndarray) -> None:
    assert expansion(array) is None


def test_code_is_shared_between_sizes(rng: np.random.Generator) -> None:
    first, second = expansion(words(rng, 0.05)), expansion(words(rng, 0.02, (7, 9, 16)))
    assert first is not None and second is not None
    assert tvm_ffi.structural_equal(first.kernel.func, second.kernel.func)


def test_the_sizes_of_codes(rng: np.random.Generator) -> None:
    sparse = words(rng, 0.05, (4, 90, 64))
    stored = expansion(sparse)
    assert stored is not None and stored.kernel.constant_bytes < 0.3 * sparse.nbytes
    book = expansion(codebook(rng, "uint64", 9))
    assert book is not None and book.kernel.constant_bytes < 3 / 9 * codebook(rng, "uint64", 9).nbytes + 64
