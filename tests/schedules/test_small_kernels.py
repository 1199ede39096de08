"""Poolings, depthwise convolution, packing and layout changes against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.bits.max_pooling import max_pool2d_bits
from sbnn_tvm.schedules.bits.packing import regroup, unpack, window_sum
from sbnn_tvm.schedules.elementwise.sample_mean import sample_mean
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    BitsOutput,
    Border,
    Channel,
    FloatOutput,
    Program,
    Ref,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.layouts.channels_last import nchw_to_nhwc, nhwc_to_nchw
from sbnn_tvm.schedules.layouts.words import pack_channels, pack_codes
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d
from sbnn_tvm.schedules.windows.template import window_tiles
from tests.support.kernel_execution import ARM, X86, run, target_for

SHAPES = {
    "3x3": Conv2dShape(2, 9, 7, 5, 5, (3, 3), (1, 1), (1, 1, 1, 1)),
    "wide, strided": Conv2dShape(1, 12, 41, 33, 33, (3, 3), (2, 2), (1, 1, 1, 1)),
    "2x2": Conv2dShape(1, 6, 8, 64, 64, (2, 2), (2, 2)),
    "asymmetric": Conv2dShape(1, 7, 10, 17, 17, (3, 2), (2, 1), (0, 1, 2, 0)),
    "dilated": Conv2dShape(1, 10, 11, 3, 3, (3, 3), (1, 1), (2, 2, 2, 2), (2, 2)),
    "5x5 on 3x2": Conv2dShape(1, 3, 2, 100, 100, (5, 5), (1, 1), (2, 2, 2, 2)),
    "one pixel": Conv2dShape(3, 1, 1, 16, 16),
    "several threads": Conv2dShape(1, 20, 20, 65, 65, (3, 3), (1, 1), (1, 1, 1, 1)),
}
grid = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
targets = pytest.mark.parametrize("target_name", X86 + ARM)


def image(shape: Conv2dShape, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((shape.batch, shape.height, shape.width, shape.in_channels)).astype(np.float32)


def windows(x: np.ndarray, shape: Conv2dShape, fill: float) -> np.ndarray:
    """Every tap of every window: [kh * kw, N, OH, OW, C], ``fill`` beyond the border."""
    top, left, bottom, right = shape.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    (sy, sx), (dy, dx) = shape.strides, shape.dilation
    height, width = (shape.out_height - 1) * sy + 1, (shape.out_width - 1) * sx + 1
    taps = np.ndindex(*shape.kernel)
    return np.stack([x[:, ky * dy : ky * dy + height : sy, kx * dx : kx * dx + width : sx] for ky, kx in taps])


def mean(x: np.ndarray, shape: Conv2dShape, counted: tuple[int, int, int, int]) -> np.ndarray:
    """The mean over windows where so much of the padding counts."""
    valid = np.zeros((1, shape.padded_height, shape.padded_width, 1))
    (top, left, _, _), (rows, columns) = shape.padding, (shape.height, shape.width)
    valid[:, top - counted[0] : top + rows + counted[2], left - counted[1] : left + columns + counted[3]] = 1
    padded = replace(shape, height=shape.padded_height, width=shape.padded_width, padding=(0, 0, 0, 0))
    return windows(x.astype(np.float64), shape, 0).sum(0) / windows(valid, padded, 0).sum(0)


def check_mean(output: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)


def program_for(shape: Conv2dShape) -> Program:
    """Uses the border classes and a residual, stores floats and bits."""
    rng = np.random.default_rng(7)
    table = Border(rng.standard_normal((shape.border_classes().count, shape.out_channels)).astype(np.float32))
    outputs = (FloatOutput(Ref(2)), BitsOutput(Ref(2), Channel(rng.standard_normal(shape.out_channels))))
    return Program((Step("add", Ref(0), table), Step("multiply", Ref(1), Tensor(0))), outputs)


@targets
@pytest.mark.parametrize("batch, values", [(1, 3), (2, 64), (3, 1000), (2, 20011)])
def test_sample_mean(batch: int, values: int, target_name: str) -> None:
    """To the last bit: the order of the sum is documented."""
    target = target_for(target_name)
    x = np.random.default_rng(0).standard_normal((batch, values)).astype(np.float32)
    padded = np.pad(x, [(0, 0), (0, -values % 64)]).reshape(batch, -1, 64)
    sums = np.zeros((batch, 64), np.float32)
    for run_of_values in np.moveaxis(padded, 1, 0):
        sums += run_of_values
    while sums.shape[1] > 1:
        sums = sums[:, : sums.shape[1] // 2] + sums[:, sums.shape[1] // 2 :]
    (means,) = run(sample_mean(batch, values, target.isa), target, x)
    np.testing.assert_array_equal(means, sums[:, 0] / np.float32(values))


@grid
def test_max_pool2d(shape: Conv2dShape) -> None:
    target, x = target_for("x86-64-v3"), image(shape)
    expected = windows(x, shape, -np.inf).max(0)
    np.testing.assert_array_equal(run(max_pool2d(shape, STORE, target.isa), target, x)[0], expected)
    residual = np.random.default_rng(1).standard_normal(expected.shape).astype(np.float32)
    program = program_for(shape)
    outputs = run(max_pool2d(shape, program, target.isa), target, x, residual)
    references = evaluate(program, expected, [residual], target.isa, shape.border_classes())
    for output, reference in zip(outputs, references, strict=True):
        np.testing.assert_array_equal(output, reference)


@grid
def test_avg_pool2d(shape: Conv2dShape) -> None:
    target, x = target_for("x86-64-v3"), image(shape)
    for include, counted in ((False, (0, 0, 0, 0)), (True, shape.padding)):
        (output,) = run(avg_pool2d(shape, STORE, target.isa, include), target, x)
        check_mean(output, mean(x, shape, counted))


@grid
def test_depthwise_conv2d(shape: Conv2dShape) -> None:
    target, x = target_for("x86-64-v3"), np.round(image(shape) * 4)  # small integers: exact in any order
    weight = np.round(np.random.default_rng(2).standard_normal((shape.in_channels, 1, *shape.kernel)) * 4)
    layer = replace(shape, groups=shape.in_channels)
    expected = np.einsum("tnyxc,ct->nyxc", windows(x, shape, 0), weight.reshape(shape.in_channels, -1))
    np.testing.assert_array_equal(run(depthwise_conv2d(layer, weight, STORE, target.isa), target, x)[0], expected)


@pytest.mark.parametrize("target_name", ["native", "x86-64"])
def test_window_tiles(target_name: str) -> None:
    target = target_for(target_name)
    shape = Conv2dShape(1, 5, 23, 20, 20, (3, 3), (1, 2), (1, 1, 1, 1), groups=20)
    x = np.round(image(shape) * 4)
    weight = np.round(np.random.default_rng(2).standard_normal((20, 1, 3, 3)) * 4)
    expected = np.einsum("tnyxc,ct->nyxc", windows(x, shape, 0), weight.reshape(20, -1))
    tiles = window_tiles(shape, target.isa)
    assert [tile.pixels for tile in tiles] == [6, 4, 3, 2, 1][-len(tiles) :]
    for tile in tiles:
        kernel = depthwise_conv2d(shape, weight, STORE, target.isa, tile)
        assert kernel.name == f"depthwise_conv2d {tile}"
        np.testing.assert_array_equal(run(kernel, target, x)[0], expected)


@targets
@pytest.mark.parametrize("channels", [3, 24, 65])
def test_windows_on_every_target(target_name: str, channels: int) -> None:
    target = target_for(target_name)
    shape = Conv2dShape(2, 6, 19, channels, channels, (3, 3), (1, 2), (1, 1, 1, 1))
    x = np.round(image(shape) * 4)
    taps, program = windows(x, shape, 0), program_for(shape)
    weight = np.round(np.random.default_rng(2).standard_normal((channels, 1, 3, 3)) * 4)
    expected = np.einsum("tnyxc,ct->nyxc", taps, weight.reshape(channels, -1)).astype(np.float32)
    residual = np.random.default_rng(3).standard_normal(expected.shape).astype(np.float32)
    kernel = depthwise_conv2d(replace(shape, groups=channels), weight, program, target.isa)
    outputs = run(kernel, target, x, residual)
    references = evaluate(program, expected, [residual], target.isa, shape.border_classes())
    for output, reference in zip(outputs, references, strict=True):
        np.testing.assert_array_equal(output, reference)
    (maxima,) = run(max_pool2d(shape, STORE, target.isa), target, x)
    np.testing.assert_array_equal(maxima, windows(x, shape, -np.inf).max(0))
    (means,) = run(avg_pool2d(shape, STORE, target.isa), target, x)
    check_mean(means, mean(x, shape, (0, 0, 0, 0)))


def test_windows_that_ceil_mode_lets_hang_over() -> None:
    target = target_for("x86-64-v3")
    # 3x3 at stride 2 with padding 1 over 6 pixels: ceil_mode adds a window that ends behind the padding.
    shape = Conv2dShape(1, 6, 6, 4, 4, (3, 3), (2, 2), (1, 1, 2, 2))
    x = image(shape)
    (output,) = run(avg_pool2d(shape, STORE, target.isa, count_include_pad=(1, 1, 1, 1)), target, x)
    check_mean(output, mean(x, shape, (1, 1, 1, 1)))


@targets
@pytest.mark.parametrize("shape", [(1, 7, 7, 512), (2, 3, 5, 100), (1, 1, 1, 3)], ids=str)
def test_global_avg_pool2d(target_name: str, shape: tuple[int, int, int, int]) -> None:
    target, x = target_for(target_name), np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (output,) = run(global_avg_pool2d(shape, STORE, target.isa), target, x)
    check_mean(output, x.mean((1, 2), keepdims=True, dtype=np.float64))


def random_bits(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(8).random(shape) < 0.4


def check_packed_windows(shape: Conv2dShape, target_name: str) -> None:
    target = target_for(target_name)
    bits = random_bits((shape.batch, shape.height, shape.width, shape.in_channels))
    words = pack_channels(bits, target.isa)
    (maxima,) = run(max_pool2d_bits(shape, target.isa), target, words)
    largest = windows(bits, shape, False).any(0)
    np.testing.assert_array_equal(maxima, pack_channels(largest, target.isa))
    minima = random_bits((shape.in_channels,))
    (extremes,) = run(max_pool2d_bits(shape, target.isa, minima), target, words)
    expected = np.where(minima, windows(bits, shape, True).all(0), largest)
    np.testing.assert_array_equal(extremes, pack_channels(expected, target.isa))
    for pad_value in (-1, 0, 1):
        (sums,) = run(window_sum(shape, pad_value, target.isa), target, words)
        expected = windows(np.where(bits, 1, -1), shape, pad_value).sum((0, -1))[..., None]
        np.testing.assert_array_equal(sums, expected)


@targets
@pytest.mark.parametrize("bits", [2, 3])
def test_maxima_and_minima_of_codes(target_name: str, bits: int) -> None:
    target = target_for(target_name)
    for shape in (SHAPES["several threads"], Conv2dShape(2, 7, 9, 17, 17, (3, 2), (2, 1), (1, 0, 1, 1), (1, 2))):
        extent = (shape.batch, shape.height, shape.width, shape.in_channels)
        codes = np.random.default_rng(bits).integers(0, 1 << bits, extent)
        minima = random_bits((shape.in_channels,))
        (largest,) = run(max_pool2d_bits(shape, target.isa, bits=bits), target, pack_codes(codes, bits, target.isa))
        expected = windows(codes, shape, 0).max(0)
        np.testing.assert_array_equal(largest, pack_codes(expected, bits, target.isa))
        packed = pack_codes(codes, bits, target.isa)
        (extremes,) = run(max_pool2d_bits(shape, target.isa, minima, bits), target, packed)
        expected = np.where(minima, windows(codes, shape, (1 << bits) - 1).min(0), expected)
        np.testing.assert_array_equal(extremes, pack_codes(expected, bits, target.isa))


@grid
def test_packed_windows(shape: Conv2dShape) -> None:
    check_packed_windows(shape, "x86-64-v3")


@targets
@pytest.mark.parametrize("channels", [17, 128])
def test_packed_windows_on_every_target(target_name: str, channels: int) -> None:
    check_packed_windows(Conv2dShape(2, 7, 9, channels, channels, (3, 3), (2, 1), (1, 1, 1, 1)), target_name)


def test_packed_windows_of_many_rows() -> None:
    check_packed_windows(Conv2dShape(2, 60, 60, 300, 300, (3, 3), (1, 1), (1, 1, 1, 1)), "x86-64-v3")


@targets
@pytest.mark.parametrize("shape", [(2, 3, 5, 1), (1, 4, 4, 65), (1, 30, 20, 100), (7, 63)], ids=str)
def test_unpack(target_name: str, shape: tuple[int, ...]) -> None:
    target, bits = target_for(target_name), random_bits(shape)
    (output,) = run(unpack(shape, BinaryDomain(-0.5, 0.25), target.isa), target, pack_channels(bits, target.isa))
    np.testing.assert_array_equal(output, np.where(bits, 0.25, -0.5))


@targets
@pytest.mark.parametrize("channels, groups", [(64, 2), (100, 4), (65, 5), (34, 2), (300, 3), (21, 21), (128, 1)])
def test_regroup(target_name: str, channels: int, groups: int) -> None:
    target, shape = target_for(target_name), (2, 3, 4, channels)
    bits = random_bits(shape)
    (output,) = run(regroup(shape, channels, groups, target.isa), target, pack_channels(bits, target.isa))
    parts = [pack_channels(part, target.isa) for part in np.split(bits, groups, axis=-1)]
    np.testing.assert_array_equal(output, np.concatenate(parts, axis=-1))


@targets
@pytest.mark.parametrize("shape", [(1, 3, 10, 13), (2, 1, 3, 3), (1, 4, 2, 2), (1, 37, 7, 7), (2, 64, 12, 12)], ids=str)
def test_layouts(target_name: str, shape: tuple[int, int, int, int]) -> None:
    target, first = target_for(target_name), np.random.default_rng(9).standard_normal(shape).astype(np.float32)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(run(nchw_to_nhwc(shape, target.isa), target, first)[0], last)
    np.testing.assert_array_equal(run(nhwc_to_nchw(shape, target.isa), target, last)[0], first)


def test_what_the_kernels_refuse() -> None:
    isa = isas.AVX2
    with pytest.raises(ValueError, match=r"window of \(2, 2\) with padding \(2, 0, 0, 0\) lies outside the 4x4 input"):
        max_pool2d(Conv2dShape(1, 4, 4, 8, 8, (2, 2), (1, 1), (2, 0, 0, 0)), STORE, isa)
    with pytest.raises(ValueError, match="has 8 inputs, 16 outputs and 8 groups; use the direct convolution"):
        depthwise_conv2d(Conv2dShape(1, 4, 4, 8, 16, groups=8), np.zeros((16, 1, 1, 1)), STORE, isa)
    with pytest.raises(ValueError, match=r"is \(8, 1, 3, 3\), not \(8, 1, 1, 1\)"):
        depthwise_conv2d(Conv2dShape(1, 4, 4, 8, 8, groups=8), np.zeros((8, 1, 3, 3)), STORE, isa)
    with pytest.raises(ValueError, match="10 channels into 4 groups"):
        regroup((1, 1, 1, 10), 10, 4, isa)
    with pytest.raises(ValueError, match="has 2 groups"):
        window_sum(Conv2dShape(1, 4, 4, 8, 8, groups=2), 0, isa)
    with pytest.raises(ValueError, match="-1, 0 or \\+1 in a window sum, not 2"):
        window_sum(Conv2dShape(1, 4, 4, 8, 8), 2, isa)
