"""Makes quantised.npz: files of quantised operators, with what TFLite's interpreter (with XNNPACK) computes.

Run it from the root of a checkout, in an environment that also has the interpreter:

    pip install "ai-edge-litert==2.3.0"
    python -m tests.frontends.tflite.cases.make_quantised_cases
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

from tests.support.tflite_builder import TfliteBuilder

RNG = np.random.default_rng(0)
CODES = RNG.integers(-128, 128, 4096).astype(np.int8)
IMAGES = (2, 9, 8, 6)
SCALE, ZERO = np.float32(0.037), 7
WINDOW = {"StrideH": 2, "StrideW": 2, "FilterHeight": 2, "FilterWidth": 3}
STEPS = {"StrideH": 1, "StrideW": 1, "DilationHFactor": 1, "DilationWFactor": 1}
SAME, VALID = 0, 1
RELU, RELU6 = 1, 3


class Graph:
    """A file under construction: its input is codes; operators are added one after the other."""

    def __init__(self, shape: Sequence[int], dtype: str = "int8") -> None:
        self.builder, self.dtype = TfliteBuilder(), dtype
        self.input = self.tensor(shape, SCALE, ZERO)

    def tensor(self, shape: Sequence[int], scale: float, zero_point: int) -> int:
        return self.builder.tensor(shape, self.dtype, scales=[scale], zero_points=[zero_point])

    def weights(
        self, shape: Sequence[int], axis: int, data_scale: float, scale: float | None = None, with_bias: bool = True
    ) -> tuple[int, int]:
        """Constant int8 weights, with a scale for each index of an axis or one for all, and a bias."""
        scales = RNG.uniform(0.002, 0.01, shape[axis]) if scale is None else np.array([scale])
        array = RNG.integers(-127, 128, shape).astype(np.int8)
        number = self.builder.constant(array, scales=list(scales), axis=axis)
        if not with_bias:
            return number, -1
        bias = RNG.integers(-3000, 3000, shape[axis]).astype(np.int32)
        return number, self.builder.constant(bias, scales=list(scales * data_scale))

    def operator(self, name: str, inputs: Sequence[int], output: int, kind: str | None = None, **options: float) -> int:
        self.builder.operator(name, inputs, [output], options, kind)
        return output

    def convolution(
        self,
        x: int,
        channels: int,
        shape: Sequence[int],
        scale: float,
        zero: int,
        data_scale: float = SCALE,
        **options: int,
    ) -> int:
        outputs = self.tensor(shape, scale, zero)
        inputs = [x, *self.weights((shape[-1], 3, 3, channels), 0, data_scale)]
        return self.operator("CONV_2D", inputs, outputs, "Conv2DOptions", **STEPS | options)

    def file(self, output: int) -> bytes:
        return self.builder.file([self.input], [output])


def conv(padding: int, size: tuple[int, int], zero: int = -11, **options: int) -> bytes:
    g = Graph(IMAGES)
    return g.file(g.convolution(g.input, 6, (2, *size, 5), 0.21, zero, Padding=padding, **options))


def depthwise() -> bytes:
    g = Graph(IMAGES)
    inputs = [g.input, *g.weights((1, 3, 3, 6), 3, SCALE)]
    y = g.tensor((2, 9, 8, 6), 0.1, -30)
    options = STEPS | {"Padding": SAME, "DepthMultiplier": 1, "FusedActivationFunction": RELU6}
    return g.file(g.operator("DEPTHWISE_CONV_2D", inputs, y, "DepthwiseConv2DOptions", **options))


def dense(scale: float | None, with_bias: bool) -> bytes:
    g = Graph((30, 40))
    inputs = [g.input, *g.weights((50, 40), 0, SCALE, scale, with_bias)]
    return g.file(g.operator("FULLY_CONNECTED", inputs, g.tensor((30, 50), 0.21, 3), "FullyConnectedOptions"))


def halves(name: str, kind: str, scale: float) -> bytes:
    """An operator on one half of the columns, and the logistic function of the other."""
    g = Graph((40, 100))
    parts = []
    for start in (0, 50):
        begin, size = g.builder.constant(np.int32([0, start])), g.builder.constant(np.int32([40, 50]))
        parts.append(g.operator("SLICE", [g.input, begin, size], g.tensor((40, 50), SCALE, ZERO), "SliceOptions"))
    parts[1] = g.operator("LOGISTIC", parts[1:], g.tensor((40, 50), 1 / 256, -128))
    return g.file(g.operator(name, parts, g.tensor((40, 50), scale, 3), kind))


def pool(name: str, padding: int) -> bytes:
    g = Graph(IMAGES)
    y = g.tensor((2, 5, 4, 6) if padding == SAME else (2, 4, 3, 6), SCALE, ZERO)
    return g.file(g.operator(name, [g.input], y, "Pool2DOptions", **WINDOW, Padding=padding))


def mean() -> bytes:
    g = Graph(IMAGES)
    axes = g.builder.constant(np.int32([1, 2]))
    return g.file(g.operator("MEAN", [g.input, axes], g.tensor((2, 6), 0.012, -4), "ReducerOptions", KeepDims=0))


def function(name: str, scale: float, zero: int, kind: str | None = None, **options: float) -> bytes:
    g = Graph((8, 64))
    return g.file(g.operator(name, [g.input], g.tensor((8, 64), scale, zero), kind, **options))


def moves() -> bytes:
    """Concatenation, padding, a transposition, a slice and a reshape."""
    g = Graph(IMAGES)
    joined = g.tensor((2, 9, 8, 12), SCALE, ZERO)
    g.operator("CONCATENATION", [g.input, g.input], joined, "ConcatenationOptions", Axis=3)
    sides = g.builder.constant(np.int32([[0, 0], [1, 2], [0, 1], [0, 0]]))
    padded = g.operator("PAD", [joined, sides], g.tensor((2, 12, 9, 12), SCALE, ZERO), "PadOptions")
    order = g.builder.constant(np.int32([0, 2, 1, 3]))
    turned = g.operator("TRANSPOSE", [padded, order], g.tensor((2, 9, 12, 12), SCALE, ZERO), "TransposeOptions")
    begin, size = g.builder.constant(np.int32([0, 1, 0, 3])), g.builder.constant(np.int32([1, 4, 12, 5]))
    cut = g.operator("SLICE", [turned, begin, size], g.tensor((1, 4, 12, 5), SCALE, ZERO), "SliceOptions")
    shape = g.builder.constant(np.int32([8, 30]))
    return g.file(g.operator("RESHAPE", [cut, shape], g.tensor((8, 30), SCALE, ZERO), "ReshapeOptions"))


def to_floats_and_back() -> bytes:
    g = Graph((8, 64))
    floats = g.operator("DEQUANTIZE", [g.input], g.builder.tensor((8, 64)))
    codes = g.operator("QUANTIZE", [floats], g.tensor((8, 64), 0.05, -3))
    return g.file(g.operator("DEQUANTIZE", [codes], g.builder.tensor((8, 64))))


def network() -> bytes:
    """What a converted classifier has: convolutions with ReLU, poolings, a dense layer, softmax."""
    g = Graph((1, 12, 12, 6))
    x = g.convolution(g.input, 6, (1, 12, 12, 8), 0.12, -128, Padding=SAME, FusedActivationFunction=RELU)
    pooled = g.tensor((1, 6, 6, 8), 0.12, -128)
    options = {"StrideH": 2, "StrideW": 2, "FilterHeight": 2, "FilterWidth": 2, "Padding": VALID}
    x = g.operator("MAX_POOL_2D", [x], pooled, "Pool2DOptions", **options)
    x = g.convolution(x, 8, (1, 6, 6, 16), 0.3, -128, 0.12, Padding=SAME, FusedActivationFunction=RELU6)
    options |= {"StrideH": 6, "StrideW": 6, "FilterHeight": 6, "FilterWidth": 6}
    x = g.operator("AVERAGE_POOL_2D", [x], g.tensor((1, 1, 1, 16), 0.3, -128), "Pool2DOptions", **options)
    flat = g.builder.constant(np.int32([1, 16]))
    x = g.operator("RESHAPE", [x, flat], g.tensor((1, 16), 0.3, -128), "ReshapeOptions")
    x = g.operator("FULLY_CONNECTED", [x, *g.weights((10, 16), 0, 0.3)], g.tensor((1, 10), 0.05, 5))
    return g.file(g.operator("SOFTMAX", [x], g.tensor((1, 10), 1 / 256, -128), "SoftmaxOptions", Beta=1.0))


CASES: dict[str, Callable[[], bytes]] = {
    "conv_same": lambda: conv(SAME, (9, 8)),
    "conv_valid": lambda: conv(VALID, (7, 6), FusedActivationFunction=RELU),
    "conv_strides": lambda: conv(SAME, (5, 4), -128, StrideH=2, StrideW=2, FusedActivationFunction=RELU),
    "conv_dilated": lambda: conv(SAME, (9, 8), DilationHFactor=2, DilationWFactor=2),
    "depthwise": depthwise,
    "dense": lambda: dense(0.005, True),
    "dense_by_channel": lambda: dense(None, False),
    "add": lambda: halves("ADD", "AddOptions", 0.04),
    "sub": lambda: halves("SUB", "SubOptions", 0.04),
    "mul": lambda: halves("MUL", "MulOptions", 0.02),
    "average_pool_same": lambda: pool("AVERAGE_POOL_2D", SAME),
    "average_pool_valid": lambda: pool("AVERAGE_POOL_2D", VALID),
    "max_pool_same": lambda: pool("MAX_POOL_2D", SAME),
    "max_pool_valid": lambda: pool("MAX_POOL_2D", VALID),
    "mean": mean,
    "logistic": lambda: function("LOGISTIC", 1 / 256, -128),
    "tanh": lambda: function("TANH", 1 / 128, 0),
    "softmax": lambda: function("SOFTMAX", 1 / 256, -128, "SoftmaxOptions", Beta=1.0),
    "hard_swish": lambda: function("HARD_SWISH", 0.03, -5),
    "relu": lambda: function("RELU", 0.03, -5),
    "relu6": lambda: function("RELU6", 0.03, -100),
    "leaky_relu": lambda: function("LEAKY_RELU", 0.03, -5, "LeakyReluOptions", Alpha=0.1),
    "other_scale": lambda: function("QUANTIZE", 0.05, 3),
    "moves": moves,
    "to_floats_and_back": to_floats_and_back,
    "network": network,
}


def interpreted(file: bytes) -> np.ndarray:
    """The output of the interpreter for the first of CODES."""
    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    declared = interpreter.get_input_details()[0]
    interpreter.set_tensor(declared["index"], CODES[: np.prod(declared["shape"])].reshape(declared["shape"]))
    interpreter.invoke()
    y: Any = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    return y


if __name__ == "__main__":
    files = {name: make() for name, make in CASES.items()}
    results = [interpreted(file) for file in files.values()]
    for name, y in zip(files, results, strict=True):
        print(name, y.dtype, y.shape, y.min(), y.max())
    np.savez_compressed(
        Path(__file__).parent / "quantised.npz",
        names=np.array(list(files)),
        numbers=CODES,
        files=np.concatenate([np.frombuffer(file, np.uint8) for file in files.values()]),
        file_sizes=[len(file) for file in files.values()],
        results=np.concatenate([y.astype(np.float32).reshape(-1) for y in results]),
        shapes=np.array([(*y.shape, *[0] * (4 - y.ndim)) for y in results]),
    )
