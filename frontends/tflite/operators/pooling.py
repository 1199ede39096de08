"""Poolings and reductions over axes."""

from __future__ import annotations

import numpy as np
import tflite
from onnx import TensorProto

from ..node import Converter, Node
from ..values import CHANNELS_FIRST, Value, without_axes
from .activation import activated
from .windows import padding

_REDUCTIONS = {
    "MEAN": "ReduceMean",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
    "REDUCE_PROD": "ReduceProd",
    "SUM": "ReduceSum",
}


def _pool(op_type: str) -> Converter:
    return lambda node: activated(node, pooled(node, node.image(0), op_type))


def pooled(node: Node, x: Value, op_type: str) -> Value:
    """A pooling of images that are stored as NCHW, without its activation; an average leaves out what was padded."""
    kernel = node.positive("FilterHeight"), node.positive("FilterWidth")
    strides = node.positive("StrideH"), node.positive("StrideW")
    pads = padding(node, node.option("Padding"), x.shape[1:3], kernel, strides)
    return node.graph.add(op_type, x, order=CHANNELS_FIRST, kernel_shape=kernel, strides=strides, pads=pads)


def _reduction(op_type: str) -> Converter:
    def convert(node: Node) -> Value:
        x = node.required(0)
        axes = sorted({node.axis(number, x.rank) for number in node.integers(1)})
        if not axes:
            return x
        stored = node.graph.constant(np.array(sorted(x.stored_axis(axis) for axis in axes), np.int64))
        keeps = bool(node.option("KeepDims", 0))
        order = x.order if keeps else without_axes(x.order, axes)
        return node.graph.add(op_type, x, stored, order=order, keepdims=int(keeps))

    return convert


def _position(op_type: str) -> Converter:
    """The first index of the largest or least element along an axis."""

    def convert(node: Node) -> Value:
        x = node.required(0)
        numbers = node.integers(1)
        if len(numbers) != 1:
            raise node.error(f"needs one axis, but has {list(numbers)}")
        axis = node.axis(numbers[0], x.rank)
        order = without_axes(x.order, (axis,))
        found = node.graph.add(op_type, x, order=order, axis=x.stored_axis(axis), keepdims=0)
        if node.option("OutputType") == tflite.TensorType.INT64:
            return found
        return node.graph.add("Cast", found, order=order, to=TensorProto.INT32)

    return convert


CONVERTERS: dict[str, Converter] = {
    **{name: _reduction(op_type) for name, op_type in _REDUCTIONS.items()},
    "ARG_MAX": _position("ArgMax"),
    "ARG_MIN": _position("ArgMin"),
    "AVERAGE_POOL_2D": _pool("AveragePool"),
    "MAX_POOL_2D": _pool("MaxPool"),
}
"""Converters by operator name."""
