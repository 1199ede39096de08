"""Convolutions of bytes against integers in numpy: equal over a grid of shapes, types, zero points and epilogues."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.direct.tiles import Tile, tiles
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Channel,
    CodesOutput,
    Element,
    FloatOutput,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.int8 import products
from sbnn_tvm.schedules.int8.conv2d import int8_conv2d
from sbnn_tvm.schedules.int8.products import fitting_pairs
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.tir.llvm import LlvmFunction
from sbnn_tvm.schedules.tir.vectors import VectorType
from tests.support.conv2d_shapes import SHAPES
from tests.support.kernel_execution import TARGETS, run, target_for
from tests.support.paths import ROOT
from tests.support.random_arrays import normal
from tests.support.random_integers import integer_data, integer_weights
from tests.support.reference.convolution import conv2d


def sums_of(x: np.ndarray, weight: np.ndarray, shape: Conv2dShape, zero_point: int, bias: np.ndarray) -> np.ndarray:
    """Exact sums: far below 2^53, so that float64 holds them."""
    return conv2d(x.astype(np.int64) - zero_point, weight.astype(np.int64), shape).astype(np.int64) + bias


def check(
    rng: np.random.Generator, shape: Conv2dShape, name: str, dtype: Element, zero_point: int, most: int = 127
) -> None:
    """Floats, bits and codes of the same sums, with a residual of int8."""
    target, channels = target_for(name), shape.out_channels
    x, weight = integer_data(rng, dtype, shape), integer_weights(rng, shape, most)
    bias = rng.integers(-(1 << 20), 1 << 20, channels)
    residual = rng.integers(-128, 128, (shape.batch, shape.out_height, shape.out_width, channels)).astype(np.int8)
    program = Program(
        (
            Step("multiply", Ref(0), Channel(rng.random(channels).astype(np.float32) / 400)),
            Step("add", Ref(1), Tensor(0, "int8")),
            Step("maximum", Ref(2), Scalar(-40.0)),
        ),
        (
            FloatOutput(Ref(0)),
            CodesOutput(Ref(3), "uint8", 17),
            CodesOutput(Ref(2), "int8", -3),
            BitsOutput(Ref(2), Channel(normal(rng, channels))),
        ),
    )
    kernel = int8_conv2d(shape, weight, zero_point, program, target.isa, data_dtype=dtype, bias=bias)
    sums = sums_of(x, weight, shape, zero_point, bias).astype(np.float32)
    expected = evaluate(program, sums, [residual], target.isa)
    for output, reference in zip(run(kernel, target, x, residual), expected, strict=True):
        np.testing.assert_array_equal(output, reference)


@pytest.mark.parametrize("name", SHAPES)
def test_int8_conv2d(name: str, rng: np.random.Generator) -> None:
    if list(SHAPES).index(name) % 2:
        check(rng, SHAPES[name], "native", "uint8", 131)
    else:
        check(rng, SHAPES[name], "native", "int8", -5)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "native"])
@pytest.mark.parametrize("shape", ["dilated", "stem", "3 odd groups"])
def test_every_target(shape: str, name: str, rng: np.random.Generator) -> None:
    check(rng, SHAPES[shape], name, "uint8", 128)


@pytest.mark.parametrize("dtype, zero_point", [("uint8", 0), ("int8", -128)])
@pytest.mark.parametrize("shape", ["asymmetric", "stem"])
@pytest.mark.parametrize("most", [63, 255])
def test_weights_of_seven_and_nine_bits(
    most: int, shape: str, dtype: Element, zero_point: int, rng: np.random.Generator
) -> None:
    check(rng, SHAPES[shape], "native", dtype, zero_point, most)


def test_pairs_of_bytes_become_pairs_that_fit_16_bits() -> None:
    values = np.arange(-128, 128, dtype=np.int16)
    pairs = np.stack(np.meshgrid(values, values), axis=-1)
    kept, rest = fitting_pairs(pairs)
    np.testing.assert_array_equal(kept + rest, pairs)
    assert max(np.abs(kept).max(), np.abs(rest).max()) <= 128 and kept.max() <= 127 and rest.max() <= 127
    for part in kept.astype(np.int64), rest.astype(np.int64):
        assert 255 * np.maximum(part, 0).sum(axis=-1).max() <= 32767
        assert 255 * np.minimum(part, 0).sum(axis=-1).min() >= -32768
    fit = (pairs.clip(0).sum(axis=-1) <= 128) & (pairs.clip(None, 0).sum(axis=-1) >= -128)
    np.testing.assert_array_equal(rest.any(axis=-1), ~fit)


@pytest.mark.parametrize("dtype, zero_point", [("uint8", 0), ("int8", -128)])
@pytest.mark.parametrize("name", ["asymmetric", "stem", "2 groups", "dilated", "1x1"])
def test_few_pairs_that_do_not_fit(name: str, dtype: Element, zero_point: int, rng: np.random.Generator) -> None:
    """Steps with such pairs are repeated; the data are the largest and the smallest numbers."""
    target, shape = target_for("x86-64-v3"), SHAPES[name]
    weight = integer_weights(rng, shape, 63)
    few = rng.random(weight.shape) < 0.02
    weight[few] = rng.choice([-128, 127], few.sum())
    limits, size = np.iinfo(dtype), (shape.batch, shape.height, shape.width, shape.in_channels)
    x = rng.choice(np.array([limits.min, limits.max], dtype), size)
    kernel = int8_conv2d(shape, weight, zero_point, STORE, target.isa, data_dtype=dtype)
    expected = sums_of(x, weight, shape, zero_point, np.zeros(shape.out_channels, np.int64)).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, target, x)[0], expected)


@pytest.mark.parametrize("dtype, zero_point", [("uint8", 255), ("int8", -128)])
def test_the_largest_sums(dtype: Element, zero_point: int) -> None:
    """Sums that saturate 16 bits, in both directions: every product is the largest or the smallest."""
    target, shape = target_for("native"), Conv2dShape(1, 3, 4, 40, 24, (3, 3), (1, 1), (1, 1, 1, 1))
    limits = np.iinfo(dtype)
    for extreme in (-128, 64, -65, 255):
        weight = np.full((24, 40, 3, 3), extreme, np.int16)
        weight[1::2] *= -1 if extreme != -128 else 1
        kernel = int8_conv2d(shape, weight, zero_point, STORE, target.isa, data_dtype=dtype)
        for value in (limits.min, limits.max):
            x = np.full((1, 3, 4, 40), value, dtype)
            expected = sums_of(x, weight, shape, zero_point, np.zeros(24, np.int64))
            np.testing.assert_array_equal(run(kernel, target, x)[0], expected.astype(np.float32))


def test_every_kind_of_tile(rng: np.random.Generator) -> None:
    target, shape = target_for("native"), Conv2dShape(1, 3, 9, 21, 70, (3, 3), (1, 1), (1, 1, 1, 1))
    x, weight = integer_data(rng, "uint8", shape), integer_weights(rng, shape, 127)
    expected = sums_of(x, weight, shape, 7, np.zeros(70, np.int64))
    for tile in tiles(shape, target.isa, "int8")[::6]:
        kernel = int8_conv2d(shape, weight, 7, STORE, target.isa, data_dtype="uint8", tile=tile)
        np.testing.assert_array_equal(run(kernel, target, x)[0], expected.astype(np.float32), err_msg=str(tile))


def test_sums_wrap_as_32_bits_do(rng: np.random.Generator) -> None:
    target, shape = target_for("native"), SHAPES["1x1"]
    x, weight = integer_data(rng, "uint8", shape), integer_weights(rng, shape, 127)
    bias = rng.integers(-(1 << 31), 1 << 31, shape.out_channels)
    kernel = int8_conv2d(shape, weight, 3, STORE, target.isa, data_dtype="uint8", bias=bias)
    expected = sums_of(x, weight, shape, 3, bias).astype(np.uint64).astype(np.uint32).view(np.int32)
    np.testing.assert_array_equal(run(kernel, target, x)[0], expected.astype(np.float32))


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_agree(threads: str) -> None:
    script = (
        "import numpy as np; from sbnn_tvm.schedules.shapes import Conv2dShape;"
        "from tests.schedules.int8.test_conv2d import check; rng = np.random.default_rng(3);"
        "check(rng, Conv2dShape(2, 20, 20, 30, 64, (3, 3), (1, 1), (1, 1, 1, 1)), 'native', 'int8', 4)"
    )
    environment = {**os.environ, "TVM_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, cwd=ROOT)


def test_errors_name_what_does_not_fit() -> None:
    shape, isa, weight = SHAPES["plain"], isas.AVX2, np.ones((64, 64, 3, 3), np.int16)
    with pytest.raises(ValueError, match="weight of a convolution"):
        int8_conv2d(shape, weight[:63], 0, STORE, isa, data_dtype="int8")
    with pytest.raises(ValueError, match="zero point of int8 data is from -128 to 127, not 128"):
        int8_conv2d(shape, weight, 128, STORE, isa, data_dtype="int8")
    with pytest.raises(ValueError, match="reads int8 or uint8, not int16"):
        int8_conv2d(shape, weight, 0, STORE, isa, data_dtype="int16")
    with pytest.raises(ValueError, match="from -255 to 255, not from 256 to 256"):
        int8_conv2d(shape, 256 * weight, 0, STORE, isa, data_dtype="int8")
    with pytest.raises(ValueError, match=r"bias of an integer layer is \(63,\), not \(64,\)"):
        int8_conv2d(shape, weight, 0, STORE, isa, data_dtype="int8", bias=np.zeros(63, np.int32))
    with pytest.raises(ValueError, match="does not fit a row"):
        int8_conv2d(replace(shape, width=5), weight, 0, STORE, isa, data_dtype="int8", tile=Tile(10, 2))


@pytest.fixture
def plain_dot_products(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The instructions of VNNI by instructions that every CPU has."""
    caches = products.add_quads, products.add_pairs
    monkeypatch.setattr(products, "_dot_product", plain_dot_product)
    for each in caches:
        each.cache_clear()
    yield
    for each in caches:
        each.cache_clear()


def plain_dot_product(instruction: str, lanes: int) -> LlvmFunction:
    """``vpdpbusd`` and ``vpdpwssd`` by their definitions, without saturation."""
    count, bits, extend = (4, 8, "zext") if instruction == "vpdpbusd" else (2, 16, "sext")
    vector, parts, wide = (f"<{n} x i{b}>" for n, b in ((lanes, 32), (lanes * count, bits), (lanes * count, 32)))
    lines = [f"%xp = bitcast {vector} %x to {parts}", f"%wp = bitcast {vector} %w to {parts}"]
    lines += [f"%xw = {extend} {parts} %xp to {wide}", f"%ww = sext {parts} %wp to {wide}"]
    lines += [f"%p = mul {wide} %xw, %ww", f"%s0 = bitcast {vector} %s to {vector}"]
    for i in range(count):
        order = ", ".join(f"i32 {lane * count + i}" for lane in range(lanes))
        lines.append(f"%p{i} = shufflevector {wide} %p, {wide} poison, <{lanes} x i32> <{order}>")
        lines.append(f"%s{i + 1} = add {vector} %s{i}, %p{i}")
    arguments = [f"{vector} %s", f"{vector} %x", f"{vector} %w"]
    name = f"plain_{instruction}_{lanes}"
    return LlvmFunction.of(name, VectorType("int32", lanes), arguments, [*lines, f"ret {vector} %s{count}"])


@pytest.mark.usefixtures("plain_dot_products")
@pytest.mark.parametrize("most", [127, 255])
@pytest.mark.parametrize("dtype, zero_point", [("uint8", 131), ("int8", -128)])
@pytest.mark.parametrize("shape", ["asymmetric", "stem", "2 groups"])
def test_kernels_of_vnni(shape: str, dtype: Element, zero_point: int, most: int, rng: np.random.Generator) -> None:
    """All but the instruction itself, which few machines have; their own tests run it."""
    target = replace(target_for("x86-64-v3"), isa=isas.AVX2_VNNI)
    layer = SHAPES[shape]
    x, weight = integer_data(rng, dtype, layer), integer_weights(rng, layer, most)
    bias = rng.integers(-(1 << 20), 1 << 20, layer.out_channels)
    kernel = int8_conv2d(layer, weight, zero_point, STORE, target.isa, data_dtype=dtype, bias=bias)
    expected = sums_of(x, weight, layer, zero_point, bias).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, target, x)[0], expected)


@pytest.mark.parametrize(
    "isa, most, instruction",
    [
        (isas.AVX512_VNNI, 127, "vpdpbusd"),
        (isas.AVX2, 63, "vpmaddubsw"),
        (isas.AVX2, 255, "vpmaddwd"),
        (isas.NEON, 127, "smull"),
        (isas.NEON_DOTPROD, 127, "sdot"),
        (isas.NEON_I8MM, 127, "smmla"),
    ],
    ids=str,
)
def test_the_name_of_a_kernel_has_its_instruction(
    isa: isas.Isa, most: int, instruction: str, rng: np.random.Generator
) -> None:
    """The report shows it."""
    shape = SHAPES["plain"]
    kernel = int8_conv2d(shape, integer_weights(rng, shape, most), 0, STORE, isa, data_dtype="int8")
    assert kernel.name.split()[-1] == instruction
