"""Layers of QONNX and FINN whose channels are the last axis: the standard layer between two transposes.

Source: https://github.com/fastmachinelearning/qonnx, qonnx/custom_op/channels_last and general.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import helper

from .dialect_node import DialectNode, Operand
from .rounding import rounded


def conv(node: DialectNode) -> str:
    """A convolution of an NHWC tensor with weights [O, kh, kw, I]; also in one dimension."""
    rank = _rank(node)
    weights = node.emit("Transpose", node.input(1), part="weights", perm=_to_first(rank))
    bias = [node.input(2)] if len(node.proto.input) > 2 and node.proto.input[2] else []
    return _between(node, "Conv", rank, weights, *bias)


def max_pool(node: DialectNode) -> str:
    """A max pooling of an NHWC tensor."""
    return _between(node, "MaxPool", _rank(node))


def batch_normalization(node: DialectNode) -> str:
    """A batch norm of the last axis."""
    rank = node.rank(node.input(0))
    if rank is None:
        raise node.error("has an input of unknown rank; infer shapes first")
    return _between(node, "BatchNormalization", rank, *(node.input(index) for index in range(1, 5)))


def quant_avg_pool(node: DialectNode) -> str:
    """``QuantAvgPool2d``: the sum over a window of integers, without its lowest bits."""
    kernel, stride = node.attribute("kernel", 1), node.attribute("stride", 1)
    layout = node.attribute("data_layout", "NCHW")
    if layout not in ("NCHW", "NHWC"):
        raise node.error(f"has the data_layout {layout!r}; expected NCHW or NHWC")
    last, x = layout == "NHWC", node.input(0)
    x = node.emit("Transpose", x, part="first", perm=_to_first(4)) if last else x
    window = kernel * kernel
    mean = node.emit("AveragePool", x, part="mean", main=True, kernel_shape=[kernel] * 2, strides=[stride] * 2)
    total = node.emit("Mul", mean, np.array(window, np.float32), part="scaled")
    total = rounded(node, total, "ROUND", np.dtype(np.float32))
    largest = window * (2 ** node.attribute("ibits", 1) - 1)
    shift = max(largest.bit_length() - node.attribute("obits", 1), 0)
    shifted = node.emit("Mul", total, np.array(2.0**-shift, np.float32), part="shifted")
    y = node.emit("Floor", shifted, part="floor")
    return node.emit("Transpose", y, part="last", perm=_to_last(4)) if last else y


def debug_marker(node: DialectNode) -> str:
    """``DebugMarker`` passes its input through."""
    return node.input(0)


def columns_product(node: DialectNode, columns: DialectNode) -> str:
    """A product of the columns that ``Im2Col`` makes of an NHWC tensor: a convolution.

    Args:
        node: The ``MatMul`` or ``XnorPopcountMatMul``. Its weights [kh * kw * I, O] are constant.
        columns: The ``Im2Col``.
    """
    weights = node.constant(1, "weights").astype(np.float32)
    height, width = _pair(columns, "kernel_size", [1, 1])
    if weights.ndim != 2 or len(weights) % (height * width):
        raise node.error(f"has weights of shape {list(weights.shape)} for windows of {height} x {width}")
    kernel = weights.reshape(height, width, -1, weights.shape[1]).transpose(3, 2, 0, 1)
    x = node.emit("Transpose", columns.input(0), part="first", perm=_to_first(4))
    pads, value = columns.attribute("pad_amount", [0, 0, 0, 0]), float(columns.attribute("pad_value", 0))
    of_bits = node.proto.op_type == "XnorPopcountMatMul"
    if value and any(pads):
        x, pads = _padded(node, x, pads, value), [0, 0, 0, 0]
    attributes = {"strides": _pair(columns, "stride", [1, 1]), "dilations": _pair(columns, "dilations", [1, 1])}
    kernel = kernel * 2 - 1 if of_bits else kernel
    y = node.emit("Conv", x, kernel, part="conv", main=True, kernel_shape=[height, width], pads=pads, **attributes)
    y = node.emit("Transpose", y, part="last", perm=_to_last(4))
    return _agreements(node, y, weights) if of_bits else y


def xnor_popcount(node: DialectNode) -> str:
    """``XnorPopcountMatMul``: how many bits of a row and a column agree, of operands 0 and 1."""
    weights = node.constant(1, "weights").astype(np.float32)
    if weights.ndim != 2:
        raise node.error(f"has weights of shape {list(weights.shape)}; expected a matrix")
    return _agreements(node, node.emit("MatMul", node.input(0), weights * 2 - 1, part="product", main=True), weights)


def _agreements(node: DialectNode, product: str, weights: np.ndarray) -> str:
    """Bits x and w agree in ``sum(x * (2 w - 1)) + sum(1 - w)`` places; the product is the first sum."""
    return node.emit("Add", product, (1 - weights).sum(0, dtype=np.float32), part="agreements")


def _padded(node: DialectNode, x: str, pads: list[int], value: float) -> str:
    amounts = [0, 0, *pads[:2], 0, 0, *pads[2:]]
    if node.opset < 11:
        return node.emit("Pad", x, part="padded", pads=amounts, value=value)
    return node.emit("Pad", x, np.array(amounts, np.int64), np.array(value, np.float32), part="padded")


def _pair(node: DialectNode, name: str, default: list[int]) -> list[int]:
    value: list[int] = node.attribute(name, default)
    if len(value) != 2 or min(value) < 1:
        raise node.error(f"has {name}={value}; expected two positive numbers")
    return value


def _between(node: DialectNode, operator: str, rank: int, *others: Operand) -> str:
    """The standard operator with the node's own attributes, on channels first."""
    x = node.emit("Transpose", node.input(0), part="first", perm=_to_first(rank))
    attributes: dict[str, Any] = {each.name: helper.get_attribute_value(each) for each in node.proto.attribute}
    y = node.emit(operator, x, *others, part=operator.lower(), main=True, **attributes)
    return node.emit("Transpose", y, part="last", perm=_to_last(rank))


def _rank(node: DialectNode) -> int:
    kernel: list[int] = node.attribute("kernel_shape", [])
    rank = len(kernel) + 2 if kernel else node.rank(node.input(0))
    if rank is None:
        raise node.error("has neither kernel_shape nor a known input shape; infer shapes first")
    return rank


def _to_first(rank: int) -> list[int]:
    return [0, rank - 1, *range(1, rank - 1)]


def _to_last(rank: int) -> list[int]:
    return [0, *range(2, rank), 1]
