"""LceBconv2d against a formula on bits, over a grid; LceBMaxPool2d."""

from collections.abc import Mapping

import numpy as np
import pytest

pytest.importorskip("tflite", reason='TFLite files need pip install "sbnn-tvm[tflite]"')

import onnxruntime

from sbnn_tvm.frontends.onnx.load_model import load_model
from sbnn_tvm.frontends.tflite.to_onnx import to_onnx
from tests.support.tflite_builder import TfliteBuilder

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3


def options(channels: int, **others: int) -> dict[str, int]:
    defaults = {
        "channels_in": channels,
        "dilation_height_factor": 1,
        "dilation_width_factor": 1,
        "fused_activation_function": NONE,
        "pad_values": 1,
        "padding": SAME,
        "stride_height": 1,
        "stride_width": 1,
    }
    return defaults | others


def packed(signs: np.ndarray) -> np.ndarray:
    """Words of 32 signs of the last axis; bit 1 is -1, and unused bits are 0."""
    missing = -signs.shape[-1] % 32
    bits = np.concatenate([signs < 0, np.zeros((*signs.shape[:-1], missing), bool)], -1)
    return np.packbits(bits, axis=-1, bitorder="little").view("<i4")


def differing(x: np.ndarray, signs: np.ndarray, chosen: Mapping[str, int]) -> np.ndarray:
    """The number of differing signs of each window, [N, H, W, outputs]; a padded 0 counts half."""
    outputs, rows, columns, group_channels = signs.shape
    stride = chosen["stride_height"], chosen["stride_width"]
    dilation = chosen["dilation_height_factor"], chosen["dilation_width_factor"]
    span = (rows - 1) * dilation[0] + 1, (columns - 1) * dilation[1] + 1
    pads = [(0, 0), (0, 0)]
    if chosen["padding"] == SAME:
        for axis in (0, 1):
            size = x.shape[1 + axis]
            total = max((-(-size // stride[axis]) - 1) * stride[axis] + span[axis] - size, 0)
            pads[axis] = (total // 2, total - total // 2)
    x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=chosen["pad_values"])
    height, width = ((x.shape[1 + axis] - span[axis]) // stride[axis] + 1 for axis in (0, 1))
    counts = np.zeros((x.shape[0], height, width, outputs))
    of_group = outputs * group_channels // x.shape[3]
    for i in range(height):
        for j in range(width):
            top, left = i * stride[0], j * stride[1]
            window = x[:, top : top + span[0] : dilation[0], left : left + span[1] : dilation[1]]
            for output in range(outputs):
                first = output // of_group * group_channels
                products = window[..., first : first + group_channels] * signs[output]
                counts[:, i, j, output] = (1 - products).sum((1, 2, 3)) / 2
    return counts


def run(file: bytes, x: np.ndarray) -> np.ndarray:
    model = load_model(to_onnx(file))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


GRID = {
    "one": {},
    "zero": {"pad_values": 0},
    "valid": {"padding": VALID},
    "strides": {"stride_height": 2, "stride_width": 3},
    "zero strides": {"stride_height": 2, "stride_width": 2, "pad_values": 0},
    "dilation": {"dilation_height_factor": 2, "dilation_width_factor": 3},
    "relu": {"fused_activation_function": RELU},
    "relu6": {"fused_activation_function": RELU6},
    "relu1": {"fused_activation_function": RELU_N1_TO_1},
}


def of_activation(dots: np.ndarray, number: int) -> np.ndarray:
    limits = {NONE: (-np.inf, np.inf), RELU: (0, np.inf), RELU_N1_TO_1: (-1, 1), RELU6: (0, 6)}
    return np.clip(dots, *limits[number])


@pytest.mark.parametrize("name", GRID)
@pytest.mark.parametrize(("channels", "groups"), [(32, 1), (33, 1), (4, 1), (64, 2)])
def test_float_output(rng: np.random.Generator, name: str, channels: int, groups: int) -> None:
    chosen = options(channels, **GRID[name])
    x = rng.choice(np.float32([-2, -0.0, 0.5]), (2, 7, 6, channels))
    signs = rng.choice([-1, 1], (6, 3, 2, channels // groups))
    scale, bias = rng.normal(size=(2, 6)).astype(np.float32)
    counts = differing(np.where(x < 0, -1, 1), signs, chosen)
    dots = of_activation(signs[0].size - 2 * counts, chosen["fused_activation_function"])
    b = TfliteBuilder()
    numbers = b.tensor(x.shape), b.tensor((2, 7, 6, -(-channels // 32)), "int32"), b.tensor(counts.shape)
    constants = b.constant(packed(signs)), b.constant(scale), b.constant(bias)
    b.operator("LceQuantize", numbers[:1], numbers[1:2])
    b.operator("LceBconv2d", (numbers[1], *constants, -1), numbers[2:], chosen)
    y = run(b.file(numbers[:1], numbers[2:]), x)
    taps = signs[0].size
    shift = (bias + taps * scale.astype(np.float64)).astype(np.float32)  # where Larq rounds
    np.testing.assert_array_equal(y, (dots - taps).astype(np.float32) * scale + shift)


@pytest.mark.parametrize("name", ["one", "zero", "valid", "strides"])
@pytest.mark.parametrize("outputs", [6, 32, 35])
def test_bits_output(rng: np.random.Generator, name: str, outputs: int) -> None:
    chosen = options(32, **GRID[name])
    x = rng.normal(size=(1, 5, 6, 32)).astype(np.float32)
    signs = rng.choice([-1, 1], (outputs, 3, 3, 32))
    counts = differing(np.where(x < 0, -1, 1), signs, chosen)
    thresholds = np.median(counts, (0, 1, 2)).astype(np.int32)  # many counts are equal to it
    thresholds[:4] = np.iinfo(np.int32).min, -1, 9 * 32, np.iinfo(np.int32).max
    b = TfliteBuilder()
    words = (*counts.shape[:3], -(-outputs // 32))
    numbers = b.tensor(x.shape), b.tensor((1, 5, 6, 1), "int32"), b.tensor(words, "int32"), b.tensor(counts.shape)
    constants = b.constant(packed(signs)), -1, -1, b.constant(thresholds)
    b.operator("LceQuantize", numbers[:1], numbers[1:2])
    b.operator("LceBconv2d", (numbers[1], *constants), numbers[2:3], chosen)
    b.operator("LceDequantize", numbers[2:3], numbers[3:])
    y = run(b.file(numbers[:1], numbers[3:]), x)
    np.testing.assert_array_equal(y, np.where(counts > thresholds, -1, 1))


def test_sign_of_special_numbers() -> None:
    x = np.float32([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45, 3]).reshape(1, 8)
    b = TfliteBuilder()
    numbers = b.tensor(x.shape), b.tensor((1, 1), "int32"), b.tensor(x.shape)
    b.operator("LceQuantize", numbers[:1], numbers[1:2])
    b.operator("LceDequantize", numbers[1:2], numbers[2:])
    y = run(b.file(numbers[:1], numbers[2:]), x)
    assert y.tolist() == [[1, 1, 1, 1, -1, 1, -1, 1]]


@pytest.mark.parametrize("padding", [SAME, VALID])
def test_pooling_of_bits(rng: np.random.Generator, padding: int) -> None:
    x = rng.normal(size=(1, 7, 8, 40)).astype(np.float32)
    shape = (1, 4, 4, 40) if padding == SAME else (1, 3, 3, 40)
    b = TfliteBuilder()
    numbers = [b.tensor(x.shape), b.tensor((1, 7, 8, 2), "int32"), b.tensor((*shape[:3], 2), "int32"), b.tensor(shape)]
    sizes = {"filter_height": 2, "filter_width": 3, "stride_height": 2, "stride_width": 2, "padding": padding}
    b.operator("LceQuantize", numbers[:1], numbers[1:2])
    b.operator("LceBMaxPool2d", numbers[1:2], numbers[2:3], sizes)
    b.operator("LceDequantize", numbers[2:3], numbers[3:])
    y = run(b.file(numbers[:1], numbers[3:]), x)
    signs = np.pad(np.where(x < 0, -1, 1), [(0, 0), (0, 1), (0, 1), (0, 0)], constant_values=-1)
    for i in range(shape[1]):
        for j in range(shape[2]):
            expected = signs[0, 2 * i : 2 * i + 2, 2 * j : 2 * j + 3].max((0, 1))
            np.testing.assert_array_equal(y[0, i, j], expected)
