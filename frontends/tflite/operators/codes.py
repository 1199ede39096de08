"""Operators on quantised numbers that compute with the codes themselves.

Products add integers, and scale the sum by one float32 number per channel, as XNNPACK does, which TFLite's interpreter
runs: their codes are equal. Operators that move elements keep the codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import tflite
from onnx import TensorProto

from ..flatbuffer_file import Tensor
from ..node import Node
from ..tensor_types import dtype_of
from ..values import CHANNELS_FIRST, Value
from . import convolutions, pooling, shapes
from .elementwise import aligned
from .quantization import parameters

_BYTES = ("int8", "uint8")
_STEP = 2.0**-22
"""What a half of a code is moved by, relative to it: two units in the last place, or more."""
_MOST_TAPS = 2**13
"""Means of fewer codes that are no halves are further from one than 256 steps: 1 / (2 * taps)."""
_KIND = tflite.ActivationFunctionType
_LIMITS = {_KIND.RELU: (0.0, math.inf), _KIND.RELU_N1_TO_1: (-1.0, 1.0), _KIND.RELU6: (0.0, 6.0)}

CodesConverter: TypeAlias = "Callable[[Node], Value | list[Value] | None]"
"""Adds the ONNX nodes of an operator whose codes are computed exactly; None if it is left to floats."""


def _conv_2d(node: Node) -> Value | None:
    return _convolution(node, lambda weights: weights.transpose(0, 3, 1, 2), 0)


def _depthwise_conv_2d(node: Node) -> Value | None:
    return _convolution(node, lambda weights: weights.transpose(3, 0, 1, 2), 3)


def _convolution(node: Node, arranged: Callable[[np.ndarray], np.ndarray], axis: int) -> Value | None:
    """A convolution of codes with constant weights, whose scales differ along ``axis`` of the file, if at all."""
    if not _is_product(node, 4, axis):
        return None
    x, weights = node.graph.reordered(node.required(0), CHANNELS_FIRST), arranged(node.constant(1))
    bias = _bias(node, len(weights))
    y = node.graph.add(
        "QLinearConv",
        x,
        *_constants(node, node.read[0]),
        node.graph.constant(weights, node.name_of(1)),
        *_constants(node, node.read[1]),
        *_constants(node, node.computed[0]),
        *([] if bias is None else [node.graph.constant(bias, node.name_of(2))]),
        order=CHANNELS_FIRST,
        kernel_shape=weights.shape[2:],
        **convolutions.window_attributes(node, x, weights),
    )
    return _activated(node, y)


def _fully_connected(node: Node) -> Value | None:
    """Integers ``x @ weights.T + bias`` as float32, scaled and rounded."""
    if not _is_product(node, 2, 0) or node.option("WeightsFormat", 0):
        return None
    x, weights = node.required(0), node.constant(1)
    rows, shape = convolutions.rows_of(node, x, weights)
    (x_scale, x_zero), (scale, zero), (y_scale, y_zero) = map(_arrays, (node, node, node), _tensors(node))
    total = node.graph.add(
        "MatMulInteger",
        rows,
        node.graph.constant(np.ascontiguousarray(weights.T), node.name_of(1)),
        node.graph.constant(x_zero),
        node.graph.constant(np.broadcast_to(zero, scale.shape)),
    )
    bias = _bias(node, weights.shape[0])
    if bias is not None:
        total = node.graph.add("Add", total, node.graph.constant(bias, node.name_of(2)))
    y = node.graph.add("Cast", total, to=TensorProto.FLOAT)
    y = node.graph.add("Mul", y, node.graph.constant(np.asarray(x_scale * scale / y_scale)))
    y = node.graph.add("QuantizeLinear", y, node.graph.constant(np.array(1, np.float32)), node.graph.constant(y_zero))
    return node.graph.reshaped(_activated(node, y), shape)


def _mul(node: Node) -> Value | None:
    """``(a - a_zero) * (b - b_zero)``, scaled and rounded."""
    tensors = (*node.read, *node.computed)
    if len(tensors) != 3 or any(tensor is None or not _has_bytes(tensor) for tensor in tensors):
        return None
    operands, order = aligned(node, [node.required(0), node.required(1)])
    scales, one = [], node.graph.constant(np.array(1, np.float32))
    factors = []
    for tensor, operand in zip(node.read, operands, strict=True):
        scale, zero = _arrays(node, tensor)
        scales.append(scale)
        factors.append(node.graph.add("DequantizeLinear", operand, one, node.graph.constant(zero), order=order))
    y_scale, y_zero = _arrays(node, node.computed[0])
    product = node.graph.add("Mul", *factors, order=order)
    y = node.graph.add("Mul", product, node.graph.constant(np.asarray(scales[0] * scales[1] / y_scale)), order=order)
    y = node.graph.add("QuantizeLinear", y, one, node.graph.constant(y_zero), order=order)
    return _activated(node, y)


def _average_pool_2d(node: Node) -> Value | None:
    """The mean of the codes, whose halves TFLite rounds away from 0.

    They are divided by a little less than 1 before they are rounded to even: that moves halves away from 0, and nothing
    else past a half, since other means of so few codes are further away.
    """
    taps = node.positive("FilterHeight") * node.positive("FilterWidth")
    if not _keeps_codes(node) or taps >= _MOST_TAPS:
        return None
    x = node.graph.add("Cast", node.images_of_any_type(0), order=CHANNELS_FIRST, to=TensorProto.FLOAT)
    mean = pooling.pooled(node, x, "AveragePool")
    below_one = node.graph.constant(np.array(1 - _STEP, np.float32))
    zero = node.graph.constant(np.zeros((), node.required(0).dtype))
    return _activated(node, node.graph.add("QuantizeLinear", mean, below_one, zero, order=CHANNELS_FIRST))


def _max_pool_2d(node: Node) -> Value | None:
    if not _keeps_codes(node):
        return None
    return _activated(node, pooling.pooled(node, node.images_of_any_type(0), "MaxPool"))


def _moving(name: str) -> CodesConverter:
    """An operator that moves elements, with its converter for floats."""

    def convert(node: Node) -> Value | list[Value] | None:
        if not _keeps_codes(node) or node.option("FusedActivationFunction", _KIND.NONE) != _KIND.NONE:
            return None
        found = shapes.CONVERTERS[name](node)
        return found if isinstance(found, Value) else list(found)

    return convert


def _pad(node: Node) -> Value | None:
    """Pads with the code of 0."""
    if not _keeps_codes(node) or len(node.inputs) > 2:
        return None
    return shapes.padded(node, "constant", _arrays(node, node.computed[0])[1])


def _is_product(node: Node, rank: int, axis: int) -> bool:
    """Whether a node multiplies codes with constant codes, with scales along the axis of outputs if there are many."""
    x, weights, y = _tensors(node)
    return (
        all(tensor is not None and len(tensor.scales) and dtype_of(tensor, "") in _BYTES for tensor in (x, weights, y))
        and x is not None
        and y is not None
        and weights is not None
        and len(x.scales) == len(y.scales) == 1
        and (len(weights.scales) == 1 or weights.quantised_axis == axis)
        and node.required(1).array is not None
        and node.required(1).rank == rank
        and (rank == 2 or node.required(0).rank == rank)
    )


def _tensors(node: Node) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Data, weights and output as the file declares them."""
    data, weights = (*node.read, None, None)[:2]
    return data, weights, node.computed[0]


def _has_bytes(tensor: Tensor) -> bool:
    return len(tensor.scales) == 1 and tensor.dtype in ("INT8", "UINT8")


def _keeps_codes(node: Node) -> bool:
    """Whether all quantised tensors that a node reads and computes have the same type, scale and zero point."""
    tensors = [tensor for tensor in (*node.read, *node.computed) if tensor is not None and len(tensor.scales)]
    first = tensors[0]
    return all(
        len(tensor.scales) == 1
        and tensor.dtype == first.dtype
        and tensor.scales[0] == first.scales[0]
        and tensor.zero_points[0] == first.zero_points[0]
        for tensor in tensors
    ) and all(len(tensor.scales) for tensor in node.computed)


def _bias(node: Node, outputs: int) -> np.ndarray | None:
    if node.value(2) is None:
        return None
    bias = node.constant(2)
    if bias.dtype != np.int32 or bias.shape != (outputs,):
        raise node.error(f"needs {outputs} int32 numbers as input 2, but has {bias.dtype} of shape {list(bias.shape)}")
    return bias


def _arrays(node: Node, tensor: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Scale and zero point of a tensor: numbers, or one for each channel."""
    assert tensor is not None
    scale, zero_point, _ = parameters(node, tensor, tensor.shape)
    return scale, zero_point


def _constants(node: Node, tensor: Tensor | None) -> tuple[Value, Value]:
    scale, zero_point = _arrays(node, tensor)
    return node.graph.constant(scale), node.graph.constant(zero_point)


def _activated(node: Node, y: Value) -> Value:
    """The codes after the fused activation: limited to the codes of its bounds."""
    kind = node.option("FusedActivationFunction", _KIND.NONE)
    if kind == _KIND.NONE:
        return y
    if kind not in _LIMITS:
        raise node.error(f"has the fused activation number {kind}, which is not supported on quantised numbers")
    scale, zero = _arrays(node, node.computed[0])
    limits = np.iinfo(zero.dtype)
    low, high = (np.clip(np.rint(bound / scale) + zero, limits.min, limits.max) for bound in _LIMITS[kind])
    if (low, high) == (limits.min, limits.max):
        return y
    bounds = (node.graph.constant(np.array(bound, zero.dtype)) for bound in (low, high))
    return node.graph.add("Clip", y, *bounds, order=y.order)


_MOVING = (
    *("CONCATENATION", "DEPTH_TO_SPACE", "EXPAND_DIMS", "GATHER", "MIRROR_PAD", "PACK", "RESHAPE", "SLICE"),
    *("SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQUEEZE", "STRIDED_SLICE", "TILE", "TRANSPOSE", "UNPACK", "BROADCAST_TO"),
)

CONVERTERS: dict[str, CodesConverter] = {
    **{name: _moving(name) for name in _MOVING},
    "AVERAGE_POOL_2D": _average_pool_2d,
    "CONV_2D": _conv_2d,
    "DEPTHWISE_CONV_2D": _depthwise_conv_2d,
    "FULLY_CONNECTED": _fully_connected,
    "MAX_POOL_2D": _max_pool_2d,
    "MUL": _mul,
    "PAD": _pad,
}
"""Converters by operator name."""
