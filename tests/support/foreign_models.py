"""Binary networks as other tools export them: standard ONNX operators only, float weights that take two values.

Each builder returns a checked model with random weights and plausible BatchNormalization statistics. The first input is
``x``, the output ``y``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 17
IR_VERSION = 8


@dataclass
class GraphBuilder:
    """Adds nodes one after another; every method returns the name of the new value."""

    seed: int = 0
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def constant(self, value: Any, name: str = "const") -> str:
        """An initialiser; numbers become float32."""
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        unique = f"{name}_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, unique))
        return unique

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name.lower()], name=f"/{name}", **attributes))
        return name.lower()

    def model(self, input_shape: Sequence[int | str], outputs: int) -> onnx.ModelProto:
        """The graph from input x to the result of the last node, [batch, outputs]."""
        self.nodes[-1].output[0] = "y"
        graph = helper.make_graph(
            self.nodes,
            "foreign",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, input_shape)],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [input_shape[0], outputs])],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model)

    def float_conv(self, x: str, inputs: int, outputs: int, kernel: int, stride: int = 1) -> str:
        """A zero-padded float convolution."""
        weight = self.rng.standard_normal((outputs, inputs, kernel, kernel)) / np.sqrt(inputs * kernel**2)
        pads = [kernel // 2] * 4
        return self.node("Conv", x, self.constant(weight, "weight"), strides=[stride] * 2, pads=pads)

    def two_valued(self, shape: tuple[int, ...], per_channel: bool, symmetric: bool, density: float) -> np.ndarray:
        """Float weights with two values per output channel (or in all), the higher one with probability ``density``."""
        columns = (shape[0] if per_channel else 1,) + (1,) * (len(shape) - 1)
        high = self.rng.uniform(0.02, 0.2, columns).astype(np.float32)
        low = -high if symmetric else self.rng.uniform(-0.05, 0.01, columns).astype(np.float32)
        bits = self.rng.random(shape) < density
        return np.where(bits, high, low).astype(np.float32)

    def batch_norm(self, x: str, channels: int, spread: float = 1.0) -> str:
        """Inference BatchNormalization of values of standard deviation about ``spread``; some scales are negative."""
        sign = np.where(self.rng.random(channels) < 0.2, -1, 1)
        scale = self.rng.uniform(0.5, 1.5, channels) * sign
        bias = self.rng.normal(0, 0.3, channels)
        mean = self.rng.normal(0, 0.2 * spread, channels)
        variance = self.rng.uniform(0.5, 1.5, channels) * spread**2
        names = ("scale", "bias", "mean", "variance")
        statistics = [self.constant(v, n) for v, n in zip((scale, bias, mean, variance), names, strict=True)]
        return self.node("BatchNormalization", x, *statistics, epsilon=1e-5)

    def binarize(self, x: str, threshold: float | np.ndarray) -> str:
        """``Where(x > threshold, 1, -1)``."""
        above = self.node("Greater", x, self.constant(np.float32(threshold), "threshold"))
        return self.node("Where", above, self.constant(np.float32(1)), self.constant(np.float32(-1)))

    def prelu(self, x: str, channels: int) -> str:
        """PReLU with a slope a channel."""
        return self.node("PRelu", x, self.constant(self.rng.uniform(0.05, 0.4, (channels, 1, 1)), "slope"))


def bireal_net(
    channels: int = 16,
    size: int = 16,
    blocks: int = 2,
    classes: int = 10,
    batch: int | str = 1,
    per_channel_threshold: bool = False,
    symmetric: bool = True,
    density: float = 0.5,
    seed: int = 0,
) -> onnx.ModelProto:
    """Bi-Real-like: float stem; blocks of Where-binarised 3x3 convolution, BN, PReLU and residual addition; float head.

    The middle block halves the map and doubles the channels, with an average pool and a float 1x1 on its shortcut.

    Args:
        channels: Channels after the stem.
        size: Height and width of the 3-channel input; the stem halves them.
        blocks: Number of binary convolutions.
        classes: Outputs of the head.
        batch: Batch size, or the name of a dynamic dimension.
        per_channel_threshold: Whether each channel has a threshold of its own; otherwise it is 0.
        symmetric: Whether weights are {-a, +a}; otherwise {lo, hi} of each channel's own.
        density: Share of the higher weight.
        seed: Of all random numbers.
    """
    g = GraphBuilder(seed)
    y = g.batch_norm(g.float_conv("x", 3, channels, 3, stride=2), channels)
    for index in range(blocks):
        down = index == blocks // 2
        outputs = channels * 2 if down else channels
        threshold = g.rng.normal(0, 0.2, (channels, 1, 1)) if per_channel_threshold else 0.0
        weight = g.two_valued((outputs, channels, 3, 3), True, symmetric, density)
        stride = 2 if down else 1
        bits = g.binarize(y, threshold)
        conv = g.node("Conv", bits, g.constant(weight, "weight"), pads=[1] * 4, strides=[stride] * 2)
        normed = g.batch_norm(conv, outputs, 0.1 * np.sqrt(channels * 9))
        if down:
            y = g.node("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])
            y = g.batch_norm(g.float_conv(y, channels, outputs, 1), outputs)
        y = g.node("Add", g.prelu(normed, outputs), y)
        channels = outputs
    y = g.node("Flatten", g.node("GlobalAveragePool", y))
    head = g.rng.standard_normal((classes, channels)) / np.sqrt(channels)
    y = g.node("Gemm", y, g.constant(head, "head"), g.constant(g.rng.normal(0, 0.1, classes)), transB=1)
    return g.model([batch, 3, size, size], classes)


def sign_net(
    channels: int = 16, size: int = 8, layers: int = 2, batch: int | str = 1, seed: int = 0
) -> onnx.ModelProto:
    """Plain ``Sign`` before each convolution, and weights that are themselves ``Sign(w) * mean(|w|)`` in the graph.

    Args:
        channels: Channels of every layer.
        size: Height and width of the 3-channel input.
        layers: Number of binary convolutions, each followed by BN and a hard tanh.
        batch: Batch size, or the name of a dynamic dimension.
        seed: Of all random numbers.
    """
    g = GraphBuilder(seed)
    y = g.batch_norm(g.float_conv("x", 3, channels, 3), channels)
    for _ in range(layers):
        latent = g.rng.standard_normal((channels, channels, 3, 3)).astype(np.float32) * 0.1
        scale = np.abs(latent).mean((1, 2, 3), keepdims=True)
        weight = g.node("Mul", g.node("Sign", g.constant(latent, "latent")), g.constant(scale, "scale"))
        y = g.node("Conv", g.node("Sign", y), weight, pads=[1] * 4)
        y = g.batch_norm(y, channels, 0.1 * np.sqrt(channels * 9))
        y = g.node("Clip", y, g.constant(np.float32(-1)), g.constant(np.float32(1)))
    y = g.node("ReduceMean", y, axes=[2, 3], keepdims=0)
    return g.model([batch, 3, size, size], channels)


def vgg(
    channels: int = 16,
    size: int = 16,
    hidden: int = 64,
    classes: int = 10,
    batch: int | str = 1,
    per_channel: bool = False,
    seed: int = 0,
) -> onnx.ModelProto:
    """VGG-like: two stages of binary convolution, MaxPool and BN, then Flatten and Gemm layers with two-valued weights.

    Args:
        channels: Channels of the first stage; the second has twice as many.
        size: Height and width of the 3-channel input, a multiple of 4.
        hidden: Features of the hidden Gemm layer.
        classes: Outputs.
        batch: Batch size, or the name of a dynamic dimension.
        per_channel: Whether each output channel has weight values of its own; otherwise all weights are {-1, +1}.
        seed: Of all random numbers.
    """
    g = GraphBuilder(seed)

    def weights(*shape: int) -> np.ndarray:
        values = g.two_valued(shape, True, True, 0.5)
        return values if per_channel else np.sign(values)

    def spread(taps: int) -> float:
        return float(np.sqrt(taps) * (0.12 if per_channel else 1))

    y = g.batch_norm(g.float_conv("x", 3, channels, 3), channels)
    inputs = channels
    for outputs in (channels, 2 * channels):
        weight = g.constant(weights(outputs, inputs, 3, 3), "weight")
        y = g.node("Conv", g.binarize(y, 0.0), weight, pads=[1] * 4)
        y = g.node("MaxPool", y, kernel_shape=[2, 2], strides=[2, 2])
        y = g.batch_norm(y, outputs, spread(inputs * 9))
        inputs = outputs
    y = g.node("Flatten", g.binarize(y, 0.0))
    features = inputs * (size // 4) ** 2
    y = g.node("Gemm", y, g.constant(weights(hidden, features), "weight"), transB=1)
    y = g.binarize(g.batch_norm(y, hidden, spread(features)), 0.0)
    y = g.node("Gemm", y, g.constant(weights(classes, hidden), "weight"), g.constant(np.zeros(classes)), transB=1)
    y = g.batch_norm(y, classes, spread(hidden))
    return g.model([batch, 3, size, size], classes)


def mlp(
    features: int = 64,
    hidden: Sequence[int] = (64, 48),
    classes: int = 10,
    batch: int | str = 1,
    symmetric: bool = True,
    seed: int = 0,
) -> onnx.ModelProto:
    """MatMul-based: binarised input and hidden layers, weights [K, N] with two values a column.

    Args:
        features: Inputs.
        hidden: Outputs of each hidden layer.
        classes: Outputs.
        batch: Batch size, or the name of a dynamic dimension.
        symmetric: Whether weights are {-a, +a}; otherwise {lo, hi} of each column's own.
        seed: Of all random numbers.
    """
    g = GraphBuilder(seed)
    y, inputs = "x", features
    for outputs in (*hidden, classes):
        weight = np.ascontiguousarray(g.two_valued((outputs, inputs), True, symmetric, 0.5).T)
        y = g.node("MatMul", g.binarize(y, 0.0), g.constant(weight, "weight"))
        y = g.node("Add", y, g.constant(g.rng.normal(0, 0.1, outputs), "bias"))
        y = g.batch_norm(y, outputs, 0.1 * np.sqrt(inputs))
        inputs = outputs
    return g.model([batch, features], classes)
