"""Convolutions and matrix products."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, aligned, as_expr, dtype_of, per_channel, rank_of, shape_of
from ..window_attributes import Window, check_channels


def conv(node: Node) -> relax.Expr:
    """Convolution over one to three axes, with its bias as an addition."""
    weight = node.required(1)
    y = convolve(node, node.expr(0), weight)
    return biased(node, y, node.value(2))


def convolve(node: Node, x: relax.Expr, weight: Value) -> relax.Expr:
    """The convolution of a node without its bias; one over one axis becomes one of rows.

    Args:
        node: Holds the attributes of Conv.
        x: The input [N, C, ...], of the shape of the node's first input.
        weight: [outputs, inputs of a group, ...].
    """
    shape, groups = shape_of(weight), node.attributes.get("group", 1)
    if not 3 <= len(shape) <= 5:
        raise node.error(f"has weights of shape {list(shape)}; supported are 3, 4 and 5 dimensions")
    kernel = tuple(node.attributes.get("kernel_shape", shape[2:]))
    if kernel != shape[2:]:
        raise node.error(f"has kernel_shape {list(kernel)}, but weights of shape {list(shape)}")
    check_channels(node, x, shape, groups)
    return slide(node, x, weight, Window.of(node, kernel), groups)


def slide(node: Node, x: relax.Expr, weight: Value, window: Window, groups: int) -> relax.Expr:
    """A convolution over one to three axes; the weights and x have as many dimensions."""
    integer = {} if dtype_of(x).startswith("float") else {"out_dtype": "int32"}
    if rank_of(x) == 5:
        return relax.op.nn.conv3d(
            x, as_expr(weight), window.strides, window.padding, window.dilation, groups, **integer
        )
    line = rank_of(x) == 3
    if line:
        x, weight = as_expr(rows(node, x)), rows(node, weight)
        window = window.two_dimensional()
    y = relax.op.nn.conv2d(x, as_expr(weight), window.strides, window.padding, window.dilation, groups, **integer)
    if not line:
        return y
    y = node.emit(y)
    batch, channels, _, length = shape_of(y)
    return relax.op.reshape(y, (batch, channels, length))


def rows(node: Node, value: Value) -> Value:
    """A tensor [A, B, L] as [A, B, 1, L]."""
    shape = (*shape_of(value)[:2], 1, shape_of(value)[2])
    return value.reshape(shape) if isinstance(value, np.ndarray) else node.emit(relax.op.reshape(value, shape))


def biased(node: Node, y: relax.Expr, bias: Value | None) -> relax.Expr:
    """``y`` [N, C, ...] with one number added to each channel, if there is a bias."""
    if bias is None:
        return y
    y = node.emit(y)
    return relax.op.add(y, _channel_operand(bias, rank_of(y)))


def _channel_operand(value: Value, rank: int) -> relax.Expr:
    if isinstance(value, np.ndarray):
        return per_channel(value, rank)
    return relax.op.reshape(value, (1, -1) + (1,) * (rank - 2))


def gemm(node: Node) -> relax.Expr:
    """``alpha * A @ B + beta * C``; transposition and beta change the constants, an alpha other than 1 multiplies."""
    attributes = node.attributes
    a = node.expr(0)
    factors = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if not dtype_of(a).startswith("float") and any(factor % 1 or factor < 0 for factor in factors):
        raise node.error(f"multiplies {dtype_of(a)} by {factors}; expected whole numbers, or floats as inputs")
    if attributes.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a))
    b = node.required(1)
    if attributes.get("transB", 0):
        b = b.T if isinstance(b, np.ndarray) else node.emit(relax.op.permute_dims(b))
    y = relax.op.matmul(a, as_expr(b))
    dtype = dtype_of(a)
    alpha, beta = (np.array(factor, dtype) for factor in factors)
    if alpha != 1:
        y = relax.op.multiply(node.emit(y), aligned(alpha, 2))
    c = node.value(2)
    if c is None or beta == 0:
        return y
    y = node.emit(y)
    if isinstance(c, np.ndarray):
        c = c if beta == 1 else beta * c
        # a scalar or a single column is expanded, so that a bias is always [1, N]
        return relax.op.add(y, aligned(np.broadcast_to(c, (1, shape_of(y)[1])) if c.size == 1 else c, 2))
    return relax.op.add(y, c if beta == 1 else node.emit(relax.op.multiply(c, aligned(beta, rank_of(c)))))


def matmul(node: Node) -> relax.Expr:
    """Matrix product. A constant [1, ..., K, N] is written as the matrix [K, N] that it is, if the shape stays."""
    x, weight = node.expr(0), node.required(1)
    if isinstance(weight, np.ndarray) and 2 < weight.ndim <= rank_of(x) and weight.size == np.prod(weight.shape[-2:]):
        weight = weight.reshape(weight.shape[-2:])
    return relax.op.matmul(x, as_expr(weight))


CONVERTERS: dict[str, Converter] = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
}
