"""Convolutions and dense layers of floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..node import Converter, Node
from ..values import CHANNELS_FIRST, Value
from .activation import activated
from .windows import padding, spans


def _conv_2d(node: Node) -> Value:
    return _convolution(node, _weights(node, 1).transpose(0, 3, 1, 2))


def _depthwise_conv_2d(node: Node) -> Value:
    weights = _weights(node, 1)
    if weights.shape[0] != 1:
        raise node.error(f"has weights of shape {list(weights.shape)}; expected 1 as the first size")
    return _convolution(node, weights.transpose(3, 0, 1, 2))


def _convolution(node: Node, weights: np.ndarray) -> Value:
    """A convolution with weights [outputs, inputs of a group, rows, columns]."""
    x = node.image(0)
    bias = [] if node.value(2) is None else [node.graph.constant(node.per_channel(2, len(weights)), node.name_of(2))]
    return activated(node, convolved(node, x, weights, *bias, **window_attributes(node, x, weights)))


def window_attributes(node: Node, x: Value, weights: np.ndarray) -> dict[str, Any]:
    """How weights [outputs, inputs of a group, rows, columns] slide over images: attributes of ONNX's convolutions."""
    outputs, group_channels, *kernel = weights.shape
    groups = x.shape[3] // max(group_channels, 1)
    if not groups or group_channels * groups != x.shape[3] or outputs % groups:
        raise node.error(f"has weights of shape {list(node.constant(1).shape)}, which do not fit {x.shape[3]} channels")
    strides = node.positive("StrideH"), node.positive("StrideW")
    dilations = node.positive("DilationHFactor", 1), node.positive("DilationWFactor", 1)
    pads = padding(node, node.option("Padding"), x.shape[1:3], spans(tuple(kernel), dilations), strides)
    return {"strides": strides, "dilations": dilations, "pads": pads, "group": groups}


def convolved(node: Node, x: Value, weights: np.ndarray, *bias: Value, **attributes: Any) -> Value:
    """ONNX's Conv of images with constant weights [outputs, inputs of a group, rows, columns]: input 1 of the node."""
    constant = node.graph.constant(weights, node.name_of(1))
    return node.graph.add(
        "Conv", x, constant, *bias, order=CHANNELS_FIRST, kernel_shape=weights.shape[2:], **attributes
    )


def _transpose_conv(node: Node) -> Value:
    """The gradient of a convolution: output sizes, weights [outputs, rows, columns, inputs], images, bias."""
    sizes, weights, x = node.integers(0), _weights(node, 1), node.image(2)
    outputs, *kernel, channels = weights.shape
    if len(sizes) != 4 or sizes[3] != outputs or channels != x.shape[3] or sizes[0] != x.shape[0]:
        raise node.error(f"makes {list(sizes)} of {list(x.shape)} with weights of shape {list(weights.shape)}")
    strides = node.positive("StrideH"), node.positive("StrideW")
    pads = padding(node, node.option("Padding"), sizes[1:3], tuple(kernel), strides)
    full = [(size - 1) * stride + taps for size, stride, taps in zip(x.shape[1:3], strides, kernel, strict=True)]
    missing = [size + pads[i] + pads[i + 2] - full[i] for i, size in enumerate(sizes[1:3])]
    if any(not 0 <= pixels < stride for pixels, stride in zip(missing, strides, strict=True)):
        raise node.error(f"makes {list(sizes)} of {list(x.shape)}, which its strides and padding contradict")
    bias = [] if node.value(3) is None else [node.graph.constant(node.per_channel(3, outputs), node.name_of(3))]
    result = node.graph.add(
        "ConvTranspose",
        x,
        node.graph.constant(weights.transpose(3, 0, 1, 2), node.name_of(1)),
        *bias,
        order=CHANNELS_FIRST,
        strides=strides,
        pads=pads,
        output_padding=missing,
        kernel_shape=kernel,
    )
    return activated(node, result)


def _fully_connected(node: Node) -> Value:
    """``x @ weights.T + bias`` on rows, the last axis or whatever the weights take."""
    x, weights = node.floats(0), node.constant(1)
    if weights.ndim != 2 or weights.dtype != np.float32 or node.option("WeightsFormat", 0):
        raise node.error(f"has {weights.dtype} weights of shape {list(weights.shape)}; expected a float32 matrix")
    outputs = weights.shape[0]
    rows, shape = rows_of(node, x, weights)
    matrix = node.graph.constant(weights, node.name_of(1))
    bias = [] if node.value(2) is None else [node.graph.constant(node.per_channel(2, outputs), node.name_of(2))]
    return node.graph.reshaped(activated(node, node.graph.add("Gemm", rows, matrix, *bias, transB=1)), shape)


def rows_of(node: Node, x: Value, weights: np.ndarray) -> tuple[Value, tuple[int, ...]]:
    """The rows that a dense layer multiplies by weights [outputs, inputs], and the shape of its result."""
    outputs, inputs = weights.shape
    keeps_axes = bool(node.option("KeepNumDims", 0)) and x.rank > 2
    if not inputs or math.prod(x.shape) % inputs or (keeps_axes and x.shape[-1] != inputs):
        raise node.error(f"multiplies a tensor of shape {list(x.shape)} by weights of shape {list(weights.shape)}")
    count = math.prod(x.shape) // inputs
    return node.graph.reshaped(x, (count, inputs)), (*x.shape[:-1], outputs) if keeps_axes else (count, outputs)


def _batch_matmul(node: Node) -> Value:
    factors = []
    for index, name in enumerate(("AdjX", "AdjY")):
        value = node.in_file_order(index)
        node.floats(index)
        if value.rank < 2:
            raise node.error(f"multiplies a tensor of shape {list(value.shape)}, which is no matrix")
        if node.option(name, 0):
            axes = (*range(value.rank - 2), value.rank - 1, value.rank - 2)
            value = node.graph.add("Transpose", value, perm=axes)
        factors.append(value)
    return node.graph.add("MatMul", *factors)


def _weights(node: Node, index: int) -> np.ndarray:
    weights = node.constant(index)
    if weights.ndim != 4 or weights.dtype != np.float32:
        raise node.error(
            f"has weights of shape {list(weights.shape)} and type {weights.dtype}; expected float32 with four axes"
        )
    return weights


CONVERTERS: dict[str, Converter] = {
    "BATCH_MATMUL": _batch_matmul,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "TRANSPOSE_CONV": _transpose_conv,
}
"""Converters by operator name."""
