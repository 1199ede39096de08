"""Convolutions and matrix products."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, aligned, as_expr, dtype_of, per_channel, rank_of, shape_of
from ..window_attributes import Window2d, check_channels


def conv(node: Node) -> relax.Expr | None:
    """2-D convolution, with its bias as an addition."""
    x, weight = node.expr(0), node.required(1)
    if rank_of(weight) != 4:
        return None
    shape = shape_of(weight)
    kernel = tuple(node.attributes.get("kernel_shape", shape[2:]))
    groups = node.attributes.get("group", 1)
    if kernel != shape[2:]:
        raise node.error(f"has kernel_shape {list(kernel)}, but weights of shape {list(shape)}")
    check_channels(node, x, shape, groups)
    window = Window2d.of(node, kernel)
    y = relax.op.nn.conv2d(x, as_expr(weight), window.strides, window.padding, window.dilation, groups)
    bias = node.value(2)
    if bias is None:
        return y
    return relax.op.add(node.emit(y), _channel_operand(bias, 4))


def _channel_operand(value: relax.Expr | np.ndarray, rank: int) -> relax.Expr:
    if isinstance(value, np.ndarray):
        return per_channel(value, rank)
    return relax.op.reshape(value, (1, -1) + (1,) * (rank - 2))


def gemm(node: Node) -> relax.Expr:
    """``alpha * A @ B + beta * C``; transposition and beta change the constants, an alpha other than 1 multiplies."""
    attributes = node.attributes
    a = node.expr(0)
    if attributes.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a))
    b = node.required(1)
    if attributes.get("transB", 0):
        b = b.T if isinstance(b, np.ndarray) else node.emit(relax.op.permute_dims(b))
    y = relax.op.matmul(a, as_expr(b))
    dtype = dtype_of(a)
    alpha, beta = (np.array(attributes.get(name, 1.0), dtype) for name in ("alpha", "beta"))
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
    """Matrix product."""
    return relax.op.matmul(node.expr(0), node.expr(1))


CONVERTERS: dict[str, Converter] = {
    "Conv": conv,
    "Gemm": gemm,
    "MatMul": matmul,
}
