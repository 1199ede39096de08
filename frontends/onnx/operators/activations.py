"""Elementwise functions of one tensor that networks use between layers."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, aligned, as_expr, dtype_of, rank_of, shape_of


def prelu(node: Node) -> relax.Expr:
    """``x if x > 0 else slope * x``; as Relax's PReLU if the slope is one number per channel."""
    x, slope = node.expr(0), node.required(1)
    rank = rank_of(x)
    if isinstance(slope, np.ndarray) and rank >= 2:
        channels = shape_of(x)[1]
        if slope.size == 1:
            return relax.op.nn.prelu(x, as_expr(np.full(channels, slope.reshape(()), slope.dtype)), axis=1)
        full = slope.reshape((1,) * (rank - slope.ndim) + slope.shape)
        if full.shape == (1, channels) + (1,) * (rank - 2):
            return relax.op.nn.prelu(x, as_expr(full.reshape(channels)), axis=1)
    scaled = node.emit(relax.op.multiply(x, node.aligned(1, rank)))
    below = node.emit(relax.op.less(x, aligned(np.zeros((), dtype_of(x)), rank)))
    return relax.op.where(below, scaled, x)


def relu(node: Node) -> relax.Expr:
    """``max(x, 0)``."""
    return relax.op.nn.relu(node.expr(0))


def leaky_relu(node: Node) -> relax.Expr:
    """``x if x > 0 else alpha * x``."""
    return relax.op.nn.leakyrelu(node.expr(0), float(node.attributes.get("alpha", 0.01)))


def clip(node: Node) -> relax.Expr | None:
    """``min(max(x, low), high)``; without one of the bounds only the other operation."""
    x = node.expr(0)
    if node.opset < 11:
        low, high = (node.attributes.get(name) for name in ("min", "max"))
    else:
        bounds = [node.value(index) for index in (1, 2)]
        if not all(bound is None or isinstance(bound, np.ndarray) for bound in bounds):
            return None
        low, high = (None if bound is None else bound.item() for bound in bounds)
    if low is not None and high is not None:
        return relax.op.clip(x, min(low, high), high)  # bounds in the wrong order give the upper bound
    dtype, rank = dtype_of(x), rank_of(x)
    if low is not None:
        return relax.op.maximum(x, aligned(np.array(low, dtype), rank))
    if high is not None:
        return relax.op.minimum(x, aligned(np.array(high, dtype), rank))
    return x


def sign(node: Node) -> relax.Expr:
    """-1, 0 or 1."""
    return relax.op.sign(node.expr(0))


CONVERTERS: dict[str, Converter] = {
    "PRelu": prelu,
    "Relu": relu,
    "LeakyRelu": leaky_relu,
    "Clip": clip,
    "Sign": sign,
}
