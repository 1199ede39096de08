"""Sparse convolutions on bit planes against numpy: shapes, layouts, instruction sets, both kinds of weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tvm.ir import IRModule
from tvm_ffi import structural_equal

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.counters import counting as plane_counting
from sbnn_tvm.schedules.counters.conv2d import cuts, sparse_conv2d
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import IntegerThreshold, WindowThreshold
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.bit_planes import ROW_BITS, PlaneLayout, plane_layout
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.conv2d_shapes import SHAPES
from tests.support.epilogues import integer_threshold, rich_program
from tests.support.grids import diagonals
from tests.support.kernel_execution import run, target_for
from tests.support.paths import ROOT
from tests.support.plane_layouts import layouts_of
from tests.support.random_arrays import bits_and_signs
from tests.support.reference.convolution import conv2d

PADDED = Conv2dShape(3, 9, 9, 20, 18, (3, 3), (1, 1), (1, 1, 1, 1))
MORE = {
    **SHAPES,
    "images side by side": PADDED,
    "halved": Conv2dShape(2, 20, 20, 17, 9, (3, 3), (2, 2), (1, 1, 1, 1)),
    "stride 3, wide": Conv2dShape(1, 5, 70, 4, 6, (1, 3), (3, 3), (0, 2, 0, 1)),
    "two column phases": Conv2dShape(1, 20, 90, 5, 7, (3, 3), (1, 1), (1, 1, 1, 1)),
    "shrinks": Conv2dShape(1, 4, 66, 3, 4, (3, 3)),
    "grows": Conv2dShape(1, 3, 64, 2, 3, (1, 2), (1, 1), (1, 3, 2, 3)),
    "counts of two bytes": Conv2dShape(1, 9, 11, 150, 70, (3, 3), (1, 1), (1, 1, 1, 1)),
}


def sparse_layer(
    rng: np.random.Generator, shape: Conv2dShape, density: float, domain: BinaryDomain, pad_value: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activation bits, weight bits whose density rises from channel to channel, and the sums of products."""
    x_bits, x = bits_and_signs(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    densities = np.linspace(0, 2 * density, shape.out_channels)[:, None, None, None]
    w_bits = rng.random((shape.out_channels, shape.group_in_channels, *shape.kernel)) < densities
    w = np.where(w_bits, 1, -1 if domain == SIGN else 0)
    return x_bits, w_bits, conv2d(x, w, shape, pad_value)


def source_of(shape: Conv2dShape, isa: Isa) -> PlaneLayout:
    """The layout of a layer's input."""
    return plane_layout(shape.batch, shape.height, shape.width, shape.in_channels, isa)


def target_of(shape: Conv2dShape, isa: Isa) -> PlaneLayout:
    """The layout of a layer's output."""
    return plane_layout(shape.batch, shape.out_height, shape.out_width, shape.out_channels, isa)


def check_threshold(
    rng: np.random.Generator,
    shape: Conv2dShape,
    pad_value: int,
    name: str,
    domain: BinaryDomain,
    density: float = 0.2,
    layouts: tuple[PlaneLayout, PlaneLayout] | None = None,
) -> None:
    cpu = target_for(name)
    x_bits, w_bits, sums = sparse_layer(rng, shape, density, domain, pad_value)
    threshold, bits = integer_threshold(rng, sums)
    source, target = layouts or (source_of(shape, cpu.isa), target_of(shape, cpu.isa))
    kernel = sparse_conv2d(
        shape, w_bits, pad_value, threshold, cpu.isa, weight_domain=domain, source=source, target=target
    )
    (planes,) = run(kernel, cpu, source.encode(x_bits))
    np.testing.assert_array_equal(planes, target.encode(bits))


@pytest.mark.parametrize("domain", [SIGN, BIT], ids=str)
@pytest.mark.parametrize("shape", MORE.values(), ids=MORE.keys())
def test_threshold(shape: Conv2dShape, domain: BinaryDomain, rng: np.random.Generator) -> None:
    for pad_value in (0, 1 if domain == SIGN else -1) if any(shape.padding) else (0,):
        check_threshold(rng, shape, pad_value, "x86-64-v4", domain)


@pytest.mark.parametrize(
    ("name", "pad_value", "target", "shift", "factor"),
    [
        ("plain", 0, "x86-64-v4", 3, 5),
        ("plain", 1, "x86-64-v3", 2, -1),
        ("3 odd groups", 0, "x86-64-v4", 10, -700),
        ("images side by side", 0, "arm", 5, 33),
    ],
)
def test_two_sums(name: str, pad_value: int, target: str, shift: int, factor: int, rng: np.random.Generator) -> None:
    shape, cpu = MORE[name], target_for(target)
    x_bits, w_bits, of_set = sparse_layer(rng, shape, 0.2, BIT, pad_value)
    of_all = conv2d(np.where(x_bits, 1, -1), np.ones(w_bits.shape, np.int64), shape, pad_value)
    sums = of_set.astype(np.int64) * (1 << shift) + of_all.astype(np.int64) * factor
    least = np.median(sums, axis=(0, 1, 2)).astype(np.int64)
    least[:2] = 2**31, -(2**31)
    threshold = WindowThreshold(shift, factor, least, rng.integers(0, 2, shape.out_channels).astype(bool))
    kernel = sparse_conv2d(shape, w_bits, pad_value, threshold, cpu.isa, weight_domain=BIT)
    (planes,) = run(kernel, cpu, source_of(shape, cpu.isa).encode(x_bits))
    bits = (sums >= least) ^ threshold.inverted
    np.testing.assert_array_equal(planes, target_of(shape, cpu.isa).encode(bits))
    with pytest.raises(ValueError, match="WindowThreshold"):
        sparse_conv2d(shape, w_bits, pad_value, threshold, cpu.isa, weight_domain=SIGN)


@pytest.mark.parametrize(
    ("target", "name"),
    diagonals(
        2,
        ["x86-64-v3", "x86-64", "arm", "armv7"],
        ["strided 5x5", "3 odd groups", "images side by side", "shrinks"],
    ),
)
def test_threshold_of_other_targets(name: str, target: str, rng: np.random.Generator) -> None:
    check_threshold(rng, MORE[name], 0, target, SIGN)
    check_threshold(rng, MORE[name], 1, target, BIT)


@pytest.mark.parametrize("density", [0.0, 0.02, 0.5, 1.0])
def test_densities(density: float, rng: np.random.Generator) -> None:
    shape = Conv2dShape(1, 5, 9, 34, 66, (3, 3), (1, 1), (1, 1, 1, 1))
    for domain in (SIGN, BIT):
        check_threshold(rng, shape, 0, "x86-64-v4", domain, density)


@pytest.mark.parametrize("name", ["plain", "3 odd groups", "strided 5x5"])
def test_slices_of_the_input_channels(name: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator) -> None:
    monkeypatch.setattr(plane_counting, "_CACHED", 512)
    monkeypatch.setattr(plane_counting, "_SLICED", 3)
    for target, domain in (("x86-64-v4", SIGN), ("x86-64-v3", BIT), ("arm", SIGN)):
        check_threshold(rng, MORE[name], 0, target, domain)


@pytest.mark.parametrize("domain", [SIGN, BIT], ids=str)
def test_cuts(domain: BinaryDomain, rng: np.random.Generator) -> None:
    shape, cpu = MORE["plain"], target_for("x86-64-v4")
    x_bits, w_bits, sums = sparse_layer(rng, shape, 0.3, domain, 0)
    threshold, bits = integer_threshold(rng, sums)
    every = cuts(shape, w_bits, cpu.isa, domain)
    assert len(set(every)) == len(every) == 6
    for cut in every:
        kernel = sparse_conv2d(shape, w_bits, 0, threshold, cpu.isa, weight_domain=domain, cut=cut)
        (planes,) = run(kernel, cpu, source_of(shape, cpu.isa).encode(x_bits))
        np.testing.assert_array_equal(planes, target_of(shape, cpu.isa).encode(bits))


def test_equal_layers_share_a_function(rng: np.random.Generator) -> None:
    shape, isa = MORE["plain"], isas.AVX512
    threshold = IntegerThreshold(np.zeros(64, np.int64), np.zeros(64, bool))
    one, other = (sparse_conv2d(shape, rng.random((64, 64, 3, 3)) < 0.05, 0, threshold, isa) for _ in range(2))
    assert one.constants[2].shape != other.constants[2].shape
    assert structural_equal(one.func, other.func)


@pytest.mark.parametrize("row_bits", ROW_BITS)
def test_any_layouts(row_bits: int, rng: np.random.Generator) -> None:
    shape = Conv2dShape(2, 10, 11, 5, 6, (3, 3), (1, 1), (1, 1, 1, 1))
    sources = [layout for layout in layouts_of(2, 10, 11, 5) if layout.row_bits == row_bits]
    targets = layouts_of(2, 10, 11, 6)
    for i, source in enumerate(sources):
        same = PlaneLayout(**{**source.__dict__, "channels": 6})
        for target in (same, targets[(5 * i + row_bits // 8) % len(targets)]):
            check_threshold(rng, shape, i % 3 - 1, "x86-64-v4", BIT, layouts=(source, target))


@pytest.mark.parametrize(("target", "flip", "domain"), [("x86-64-v3", 0, "SIGN"), ("x86-64-v4", 1, "BIT")])
def test_two_threads_agree(target: str, flip: int, domain: str, tmp_path: Path) -> None:
    target_for(target)  # skips
    script = tmp_path / "threads.py"
    script.write_text(
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import numpy as np\n"
        "import tests.schedules.counters.test_conv2d as tests\n"
        "from sbnn_tvm.schedules.counters import conv2d\n"
        "from sbnn_tvm.schedules.tir import loops\n"
        "loops.GRAIN = conv2d.GRAIN = -1 << 40\n"  # threads for everything
        "rng = np.random.default_rng(9)\n"
        "shape = tests.Conv2dShape(2, 13, 70, 20, 130, (3, 3), (1, 1), (1, 1, 1, 1))\n"
        f"tests.check_threshold(rng, shape, {flip}, {target!r}, tests.{domain})\n"
    )
    for threads in ("1", "2"):
        environment = {**os.environ, "TVM_NUM_THREADS": threads}
        subprocess.run([sys.executable, script, ROOT], env=environment, check=True)


@pytest.mark.parametrize(
    ("domain", "target", "name"),
    diagonals(
        2,
        [SIGN, BIT],
        ["x86-64-v4", "x86-64-v3", "arm"],
        ["channel tails", "strided 5x5", "3 odd groups", "images side by side", "counts of two bytes"],
    ),
    ids=str,
)
def test_program(name: str, target: str, domain: BinaryDomain, rng: np.random.Generator) -> None:
    shape, cpu = MORE[name], target_for(target)
    x_bits, w_bits, sums = sparse_layer(rng, shape, 0.4, domain, 0)
    program, tensors = rich_program(rng, shape)
    kernel = sparse_conv2d(shape, w_bits, 0, program, cpu.isa, weight_domain=domain)
    outputs = run(kernel, cpu, source_of(shape, cpu.isa).encode(x_bits), *tensors)
    expected = evaluate(program, sums, tensors, cpu.isa, shape.border_classes())
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference)


def test_errors_name_what_does_not_fit() -> None:
    shape, isa = MORE["plain"], isas.AVX2
    bits = np.ones((64, 64, 3, 3), bool)
    threshold = IntegerThreshold(np.zeros(64, np.int64), np.zeros(64, bool))
    with pytest.raises(ValueError, match="bits of a sparse convolution"):
        sparse_conv2d(shape, bits[:63], 0, threshold, isa)
    with pytest.raises(ValueError, match="pads with -1, 0 or"):
        sparse_conv2d(shape, bits, 2, threshold, isa)
    with pytest.raises(ValueError, match="weights of a sparse convolution"):
        sparse_conv2d(shape, bits, 0, threshold, isa, weight_domain=BinaryDomain(-1, 2))
    with pytest.raises(ValueError, match="cannot have the layout"):
        sparse_conv2d(shape, bits, 0, threshold, isa, source=plane_layout(1, 9, 9, 63, isa))
    with pytest.raises(ValueError, match="flip of an integer threshold"):
        sparse_conv2d(shape, bits, 0, IntegerThreshold(np.zeros(64, np.int64), np.zeros(63, bool)), isa)


def test_few_instructions_on_arm(rng: np.random.Generator) -> None:
    shape, cpu = Conv2dShape(1, 28, 28, 128, 128, (3, 3), (1, 1), (1, 1, 1, 1)), target_for("arm")
    layout = plane_layout(1, 28, 28, 128, cpu.isa)
    for density, domain, limit in ((0.05, BIT, 0.5), (0.5, SIGN, 3.2)):
        bits = rng.random((128, 128, 3, 3)) < density
        threshold = IntegerThreshold(np.zeros(128, np.int64), np.zeros(128, bool))
        kernel = sparse_conv2d(shape, bits, 0, threshold, cpu.isa, weight_domain=domain)
        emulator = Emulator(IRModule({"sparse": kernel.func}), cpu)
        arrays = [np.zeros(layout.shape, np.uint64), *kernel.constants, np.zeros(layout.shape, np.uint64)]
        assert emulator.instructions("sparse", arrays) / (shape.macs / 128) < limit
