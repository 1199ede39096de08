"""Numbers of fewer bits: constants that are stored in them, and values that are rounded to them and back."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import TensorProto

from ..flatbuffer_file import Tensor
from ..node import Converter, Node
from ..tensor_types import dtype_of
from ..values import Value


def _dequantize(node: Node) -> Value:
    """``(q - zero_point) * scale`` as float32, or float32 of float16."""
    x = node.required(0)
    if x.dtype == "float16":
        return node.graph.add("Cast", x, order=x.order, to=TensorProto.FLOAT)
    return _as_floats(node, 0)


def _quantize(node: Node) -> Value:
    """Codes of floats, or of other codes."""
    return quantised(node, dequantised(node, 0), 0)


def is_quantised(node: Node) -> bool:
    """Whether a node reads or computes a tensor that has scales."""
    return any(tensor is not None and len(tensor.scales) for tensor in (*node.read, *node.computed))


def dequantised(node: Node, index: int) -> Value:
    """Input ``index`` as float32 numbers, if it has scales."""
    declared, x = node.read[index], node.required(index)
    if declared is None or not len(declared.scales) or x.dtype.startswith("float"):
        return x
    return node.graph.once((x.name, "as floats", x.shape, x.order), lambda: _as_floats(node, index))


def _as_floats(node: Node, index: int) -> Value:
    x, declared = node.required(index), node.read[index]
    assert declared is not None
    scale, zero_point, axis = parameters(node, declared, x.shape)
    if x.array is not None:
        shape = [-1 if position == axis else 1 for position in range(x.rank)] if scale.ndim else []
        distance = x.array.astype(np.float32) - zero_point.astype(np.float32).reshape(shape)
        with np.errstate(all="ignore"):  # a product may be infinite
            return node.graph.constant(distance * scale.reshape(shape), x.name)
    numbers = (node.graph.constant(array) for array in (scale, zero_point))
    attributes = {"axis": x.stored_axis(axis)} if scale.ndim else {}
    return node.graph.add("DequantizeLinear", x, *numbers, order=x.order, **attributes)


def quantised(node: Node, value: Value, index: int) -> Value:
    """A float32 value in the codes of output ``index``, halves rounded to even; as it is if that has no scales."""
    declared = node.computed[index]
    if not len(declared.scales) or value.dtype != "float32":
        return value
    scale, zero_point, axis = parameters(node, declared, value.shape)
    if zero_point.dtype == np.int32:
        raise node.error(f"quantises to int32 in {declared.name!r}, which is not supported")
    numbers = (node.graph.constant(array) for array in (scale, zero_point))
    attributes = {"axis": value.stored_axis(axis)} if scale.ndim else {}
    return node.graph.add("QuantizeLinear", value, *numbers, order=value.order, **attributes)


def parameters(node: Node, declared: Tensor, sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray, int]:
    """Scale and zero point of a tensor with these sizes: numbers, or one for each index of the axis."""
    dtype = np.dtype(dtype_of(declared, node.graph.where))
    count, axis = len(declared.scales), declared.quantised_axis
    if dtype not in (np.int8, np.uint8, np.int16, np.int32) or len(declared.zero_points) != count or not count:
        raise node.error(f"needs integers with scales and zero points, but {declared.name!r} has {declared.dtype}")
    if not np.isfinite(declared.scales).all() or declared.scales.min() <= 0:
        raise node.error(f"has scales that are not above 0 in {declared.name!r}")
    limits = np.iinfo(dtype)
    if declared.zero_points.min() < limits.min or declared.zero_points.max() > limits.max:
        raise node.error(f"has zero points outside of {dtype} in {declared.name!r}")
    scale, zero_point = declared.scales.astype(np.float32), declared.zero_points.astype(dtype)
    if count == 1:
        return scale.reshape(()), zero_point.reshape(()), 0
    axis = node.axis(axis, len(sizes))
    if sizes[axis] != count:
        raise node.error(f"has {count} scales for {sizes[axis]} indices in {declared.name!r}")
    return scale, zero_point, axis


CONVERTERS: dict[str, Converter] = {"DEQUANTIZE": _dequantize, "QUANTIZE": _quantize}
"""Converters by operator name."""
