"""The direct convolutions against numpy, over a grid of shapes, paddings, instruction sets and epilogues."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.direct.dense import float_dense, popcount_dense
from sbnn_tvm.schedules.direct.tiles import Tile, tiles
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Border,
    Channel,
    FloatOutput,
    IntegerThreshold,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.words import pack_channels
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.kernel_execution import run, target_for
from tests.support.paths import ROOT

# One for each way to generate code: vector popcount (native, where the machine has it), byte shuffle, neither; NEON.
TARGETS = ["native", "x86-64-v4", "x86-64-v3", "x86-64", "arm", "armv7"]
FEWER = ["native", "x86-64-v3", "arm"]

SHAPES = {
    "plain": Conv2dShape(1, 9, 9, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)),
    "channel tails": Conv2dShape(2, 5, 7, 37, 43, (3, 3), (1, 1), (1, 1, 1, 1)),
    "no padding": Conv2dShape(1, 6, 5, 70, 24, (3, 2)),
    "asymmetric": Conv2dShape(1, 7, 6, 20, 16, (3, 3), (2, 1), (0, 2, 1, 0)),
    "strided 5x5": Conv2dShape(1, 11, 8, 9, 12, (5, 5), (2, 3), (2, 2, 2, 2)),
    "dilated": Conv2dShape(1, 9, 8, 33, 10, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "1x1": Conv2dShape(2, 4, 5, 128, 130),
    "strided 1x1": Conv2dShape(1, 7, 7, 16, 32, (1, 1), (2, 2)),
    "all border": Conv2dShape(1, 2, 1, 8, 8, (5, 3), (1, 1), (2, 1, 2, 1)),
    "1x1 of 3 words": Conv2dShape(2, 5, 9, 190, 40, (1, 1), (1, 2)),
    "row of 3 words": Conv2dShape(1, 6, 5, 20, 16, (2, 3), (1, 2), (1, 0, 0, 1), (2, 1)),
    "stem": Conv2dShape(1, 13, 13, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)),
    "2 groups": Conv2dShape(1, 5, 6, 34, 48, (3, 3), (1, 1), (1, 1, 1, 1), groups=2),
    "3 odd groups": Conv2dShape(2, 4, 5, 15, 21, (3, 3), (1, 1), (1, 0, 1, 2), (1, 2), groups=3),
    "depthwise": Conv2dShape(1, 5, 5, 19, 19, (3, 3), (1, 1), (1, 1, 1, 1), groups=19),
}


def convolve(x: np.ndarray, w: np.ndarray, shape: Conv2dShape, pad_value: float = 0) -> np.ndarray:
    """Plain convolution of NHWC data with [OC, Cin / groups, kh, kw] weights, in float64."""
    top, left, bottom, right = shape.padding
    x = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=pad_value)
    out = np.zeros((shape.batch, shape.out_height, shape.out_width, shape.out_channels))
    channels, width = shape.group_in_channels, shape.group_out_channels
    (sy, sx), (dy, dx) = shape.strides, shape.dilation
    for ky, kx, group in itertools.product(range(shape.kernel[0]), range(shape.kernel[1]), range(shape.groups)):
        rows = slice(ky * dy, ky * dy + (shape.out_height - 1) * sy + 1, sy)
        columns = slice(kx * dx, kx * dx + (shape.out_width - 1) * sx + 1, sx)
        window = x[:, rows, columns, group * channels : (group + 1) * channels]
        outs = slice(group * width, (group + 1) * width)
        out[..., outs] += window @ w[outs, :, ky, kx].T.astype(np.float64)
    return out


def pack_groups(bits: np.ndarray, groups: int, isa: Isa) -> np.ndarray:
    """Pack channels, every group from its own word on."""
    split = pack_channels(bits.reshape(*bits.shape[:-1], groups, -1), isa)
    return split.reshape(*bits.shape[:-1], -1)


def signs_of(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random bits, and the +-1 that they mean."""
    bits = rng.integers(0, 2, shape).astype(bool)
    return bits, np.where(bits, 1, -1)


def integer_threshold(rng: np.random.Generator, sums: np.ndarray) -> tuple[IntegerThreshold, np.ndarray]:
    """Thresholds that sums hit exactly, that are out of range, in both directions; and the bits they make."""
    channels = sums.shape[-1]
    flat = sums.reshape(-1, channels)
    threshold = flat[rng.integers(0, len(flat), channels), np.arange(channels)].astype(np.int64)
    threshold[1::7] += 1
    threshold[2::11] = 10**6
    threshold[3::11] = -(10**6)
    threshold[4::13] = np.iinfo(np.int64).max
    threshold[5::13] = np.iinfo(np.int64).min
    flip = rng.integers(0, 2, channels).astype(bool)
    return IntegerThreshold(threshold, flip), np.where(flip, sums <= threshold, sums >= threshold)


def rich_program(rng: np.random.Generator, shape: Conv2dShape) -> tuple[Program, list[np.ndarray]]:
    """Scale, border table, residual, PReLU; floats and bits out. Also its tensor operands."""
    channels = shape.out_channels

    def constant() -> Channel:
        return Channel(rng.standard_normal(channels).astype(np.float32))

    table = Border(rng.standard_normal((shape.border_classes().count, channels)).astype(np.float32))
    program = Program(
        (
            Step("multiply", Ref(0), constant()),
            Step("add", Ref(1), table),
            Step("add", Ref(2), Tensor(0)),
            Step("multiply", Ref(3), Pixel(1)),
            Step("prelu", Ref(4), constant()),
        ),
        (BitsOutput(Ref(3), constant()), FloatOutput(Ref(5)), BitsOutput(Ref(5), Scalar(0.25), inclusive=True)),
    )
    pixels = (shape.batch, shape.out_height, shape.out_width)
    tensors = [rng.standard_normal((*pixels, each)).astype(np.float32) for each in (channels, 1)]
    return program, tensors


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_popcount_conv2d(shape: Conv2dShape, name: str, pad_value: int = 0) -> None:
    target, rng = target_for(name), np.random.default_rng(3)
    x_bits, x = signs_of(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    w_bits, w = signs_of(rng, shape.out_channels, shape.group_in_channels, *shape.kernel)
    data, sums = pack_groups(x_bits, shape.groups, target.isa), convolve(x, w, shape, pad_value)
    threshold, bits = integer_threshold(rng, sums)

    (stored,) = run(popcount_conv2d(shape, w_bits, pad_value, STORE, target.isa), target, data)
    np.testing.assert_array_equal(stored, sums)
    (words,) = run(popcount_conv2d(shape, w_bits, pad_value, threshold, target.isa), target, data)
    np.testing.assert_array_equal(words, pack_channels(bits, target.isa))


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("pad_value", [-1, 1])
@pytest.mark.parametrize("shape", ["channel tails", "asymmetric", "dilated", "3 odd groups"])
def test_padding_with_bits(shape: str, pad_value: int, name: str) -> None:
    test_popcount_conv2d(SHAPES[shape], name, pad_value)


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_popcount_program(shape: Conv2dShape, name: str) -> None:
    target, rng = target_for(name), np.random.default_rng(4)
    x_bits, x = signs_of(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    w_bits, w = signs_of(rng, shape.out_channels, shape.group_in_channels, *shape.kernel)
    program, tensors = rich_program(rng, shape)
    kernel = popcount_conv2d(shape, w_bits, 0, program, target.isa)
    outputs = run(kernel, target, pack_groups(x_bits, shape.groups, target.isa), *tensors)
    expected = evaluate(program, convolve(x, w, shape), tensors, target.isa, shape.border_classes())
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference)


@pytest.mark.parametrize("name", [*FEWER, "x86-64"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_float_conv2d(shape: Conv2dShape, name: str) -> None:
    target, rng = target_for(name), np.random.default_rng(5)
    # Small integers: sums are exact in any order, so the epilogue's bits can be compared exactly.
    x = rng.integers(-8, 9, (shape.batch, shape.height, shape.width, shape.in_channels)).astype(np.float32)
    w = rng.integers(-8, 9, (shape.out_channels, shape.group_in_channels, *shape.kernel)).astype(np.float32)
    program, tensors = rich_program(rng, shape)
    outputs = run(float_conv2d(shape, w, program, target.isa), target, x, *tensors)
    expected = evaluate(program, convolve(x, w, shape), tensors, target.isa, shape.border_classes())
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference)


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("batch, depth, channels", [(1, 64, 10), (1, 300, 100), (5, 130, 67), (17, 33, 8)])
def test_dense(batch: int, depth: int, channels: int, name: str) -> None:
    target, rng = target_for(name), np.random.default_rng(6)
    x_bits, x = signs_of(rng, batch, depth)
    w_bits, w = signs_of(rng, channels, depth)
    sums = x @ w.T
    threshold, bits = integer_threshold(rng, sums)
    data = pack_channels(x_bits, target.isa)
    (words,) = run(popcount_dense(batch, w_bits, threshold, target.isa), target, data)
    np.testing.assert_array_equal(words, pack_channels(bits, target.isa))
    bias = Channel(rng.integers(-9, 9, channels).astype(np.float32))
    program = Program((Step("add", Ref(0), bias), Step("add", Ref(1), Tensor(0))), (FloatOutput(Ref(2)),))
    residual = rng.integers(-9, 9, sums.shape).astype(np.float32)
    for kernel, inputs in (
        (popcount_dense(batch, w_bits, program, target.isa), data),
        (float_dense(batch, w.astype(np.float32), program, target.isa), x.astype(np.float32)),
    ):
        (output,) = run(kernel, target, inputs, residual)
        np.testing.assert_array_equal(output, sums + bias.values + residual)


@pytest.mark.parametrize("name", FEWER)
def test_windows_beyond_a_narrow_counter(name: str) -> None:
    """Windows of 2^16 - 1 and more taps overflow counters of 16 bits."""
    target, rng = target_for(name), np.random.default_rng(9)
    for depth in (65534, 65535, 65600):
        x_bits, w_bits = rng.integers(0, 2, (1, depth)).astype(bool), np.zeros((8, depth), bool)
        w_bits[0], w_bits[1], w_bits[2, : depth // 2] = x_bits, ~x_bits, True
        sums = np.where(x_bits, 1, -1) @ np.where(w_bits, 1, -1).T
        data = pack_channels(x_bits, target.isa)
        (stored,) = run(popcount_dense(1, w_bits, STORE, target.isa), target, data)
        np.testing.assert_array_equal(stored, sums)
        threshold, bits = integer_threshold(rng, sums)
        (words,) = run(popcount_dense(1, w_bits, threshold, target.isa), target, data)
        np.testing.assert_array_equal(words, pack_channels(bits, target.isa))


@pytest.mark.parametrize("name", FEWER)
def test_every_kind_of_tile(name: str) -> None:
    target, rng = target_for(name), np.random.default_rng(7)
    shape = Conv2dShape(1, 3, 9, 20, 70, (3, 3), (1, 1), (1, 1, 1, 1))
    x_bits, x = signs_of(rng, 1, 3, 9, 20)
    w_bits, w = signs_of(rng, 70, 20, 3, 3)
    sums = convolve(x, w, shape)
    threshold, bits = integer_threshold(rng, sums)
    for tile in tiles(shape, target.isa, "popcount")[::5]:
        kernel = popcount_conv2d(shape, w_bits, 0, threshold, target.isa, tile=tile)
        (words,) = run(kernel, target, pack_channels(x_bits, target.isa))
        np.testing.assert_array_equal(words, pack_channels(bits, target.isa), err_msg=str(tile))
    for tile in tiles(shape, target.isa, "float32")[::5]:
        (stored,) = run(float_conv2d(shape, w, STORE, target.isa, tile=tile), target, x.astype(np.float32))
        np.testing.assert_array_equal(stored, sums, err_msg=str(tile))


@pytest.mark.parametrize("threads", ["1", "2"])
def test_threads_agree(threads: str) -> None:
    script = (
        "import tests.schedules.direct.test_conv2d as tests; from sbnn_tvm.schedules.shapes import Conv2dShape;"
        "tests.test_popcount_conv2d(Conv2dShape(1, 20, 20, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)), 'native');"
        "tests.test_float_conv2d(Conv2dShape(2, 10, 9, 30, 60, (3, 3), (1, 1), (1, 1, 1, 1), groups=15), 'x86-64-v3')"
    )
    environment = {**os.environ, "TVM_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, cwd=ROOT)


def test_errors_name_what_does_not_fit() -> None:
    shape, isa = SHAPES["plain"], isas.AVX2
    signs = np.ones((64, 64, 3, 3), bool)
    threshold = IntegerThreshold(np.zeros(64, np.int64), np.zeros(64, bool))
    with pytest.raises(ValueError, match="signs of a binary convolution"):
        popcount_conv2d(shape, signs[:63], 0, threshold, isa)
    with pytest.raises(ValueError, match="pads with 0 or an odd number"):
        popcount_conv2d(shape, signs, 2, threshold, isa)
    with pytest.raises(ValueError, match="threshold of an integer threshold"):
        popcount_conv2d(shape, signs, 0, IntegerThreshold(np.zeros(63, np.int64), np.zeros(64, bool)), isa)
    with pytest.raises(ValueError, match="does not fit a row"):
        popcount_conv2d(shape, signs, 0, threshold, isa, tile=Tile(10, 2))
    with pytest.raises(ValueError, match="weight of a convolution"):
        float_conv2d(shape, np.ones((64, 64, 3), np.float32), STORE, isa)
