"""Convolutions and matrix products of integers of 8 bits, in int32, which is exact."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, as_expr, dtype_of, rank_of, shape_of
from .convolutions import convolve
from .quantization import along, cast, centred, computed, number, reshaped, saturated


def conv_integer(node: Node) -> relax.Expr:
    """``conv(x - x_zero_point, w - w_zero_point)`` in int32; padding counts as zero points."""
    return _integer_convolution(node, node.required(1), node.value(2), node.value(3))


def _integer_convolution(
    node: Node, weight: Value, x_zero_point: Value | None, weight_zero_point: Value | None
) -> relax.Expr:
    x = centred(node, node.expr(0), number(node, x_zero_point))
    rank = rank_of(weight)
    weight_zero_point = along(node, weight_zero_point, 0, rank)
    if isinstance(weight, np.ndarray) and (weight_zero_point is None or isinstance(weight_zero_point, np.ndarray)):
        weight = weight.astype(np.int32) - np.int32(0 if weight_zero_point is None else weight_zero_point)
    else:
        weight = centred(node, weight, weight_zero_point)
    return convolve(node, x, weight)


def qlinear_conv(node: Node) -> relax.Expr:
    """A convolution of quantised values, quantised again."""
    weight = node.required(3)
    y = node.emit(_integer_convolution(node, weight, node.required(2), node.required(5)))
    rank = rank_of(y)
    bias = along(node, node.value(8), 1, rank)
    if bias is not None:
        y = node.emit(relax.op.add(y, as_expr(bias)))
    return _requantized(node, y, along(node, node.required(4), 1, rank), node.required(1), 6)


def matmul_integer(node: Node) -> relax.Expr:
    """``(a - a_zero_point) @ (b - b_zero_point)`` in int32."""
    return integer_product(node, node.expr(0), node.expr(1), node.value(2), node.value(3))


def integer_product(
    node: Node, a: Value, b: Value, a_zero_point: Value | None, b_zero_point: Value | None
) -> relax.Expr:
    """``(a - a_zero_point) @ (b - b_zero_point)`` in int32; zero points of rows of a and of columns of b broadcast."""
    left = centred(node, a, _of_rows(node, a_zero_point))
    return relax.op.matmul(left, centred(node, b, b_zero_point), out_dtype="int32")


def qlinear_matmul(node: Node) -> relax.Expr:
    """A matrix product of quantised values, quantised again."""
    y = node.emit(integer_product(node, node.expr(0), node.expr(3), node.required(2), node.required(5)))
    return _requantized(node, y, node.required(4), _of_rows(node, node.required(1)), 6)


def _requantized(node: Node, y: relax.Expr, scale: Value, other_scale: Value, index: int) -> relax.Expr:
    """``y * (scale * other_scale / y_scale)`` in float32, rounded; inputs ``index`` and ``index + 1`` describe it."""
    y_scale, zero_point = number(node, node.required(index)), number(node, node.required(index + 1))
    assert y_scale is not None
    scale, other_scale, y_scale = (cast(node, value, "float32") for value in (scale, other_scale, y_scale))
    factor = computed(node, "divide", computed(node, "multiply", other_scale, scale), y_scale)
    y = node.emit(relax.op.multiply(node.emit(relax.op.astype(y, "float32")), as_expr(factor)))
    return saturated(node, y, zero_point, dtype_of(node.required(index + 1)))


def _of_rows(node: Node, value: Value | None) -> Value | None:
    """One number, or one per row of a matrix: [..., M] becomes [..., M, 1]."""
    if value is None or int(np.prod(shape_of(value))) == 1:
        return number(node, value)
    shape = shape_of(value)
    return value if len(shape) > 1 and shape[-1] == 1 else reshaped(node, value, (*shape, 1))


CONVERTERS: dict[str, Converter] = {
    "ConvInteger": conv_integer,
    "MatMulInteger": matmul_integer,
    "QLinearConv": qlinear_conv,
    "QLinearMatMul": qlinear_matmul,
}
