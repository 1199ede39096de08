"""Elementwise functions of one tensor that networks use between layers."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, aligned, as_expr, dtype_of, rank_of, shape_of


def prelu(node: Node) -> relax.Expr:
    """``x if x > 0 else slope * x``; as Relax's PReLU if the slope is one number per channel."""
    x, slope = node.expr(0), node.required(1)
    rank = rank_of(x)
    if isinstance(slope, np.ndarray) and rank >= 2 and dtype_of(x).startswith("float"):
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


def thresholded_relu(node: Node) -> relax.Expr:
    """``x if x > alpha else 0``."""
    x = node.expr(0)
    alpha, zero = (
        aligned(np.array(value, dtype_of(x)), rank_of(x)) for value in (node.attributes.get("alpha", 1.0), 0.0)
    )
    return relax.op.where(node.emit(relax.op.greater(x, alpha)), x, zero)


def clip(node: Node) -> relax.Expr:
    """``min(max(x, low), high)``; without one of the bounds only the other operation."""
    x = node.expr(0)
    if node.opset < 11:
        low, high = (node.attributes.get(name) for name in ("min", "max"))
    else:
        bounds = [node.value(index) for index in (1, 2)]
        if not all(bound is None or isinstance(bound, np.ndarray) for bound in bounds):
            return _computed_clip(node, x)
        low, high = (None if bound is None else bound.item() for bound in bounds)
    if low is not None and high is not None:
        return relax.op.clip(x, min(low, high), high)  # bounds in the wrong order give the upper bound
    dtype, rank = dtype_of(x), rank_of(x)
    if low is not None:
        return relax.op.maximum(x, aligned(np.array(low, dtype), rank))
    if high is not None:
        return relax.op.minimum(x, aligned(np.array(high, dtype), rank))
    return x


def _computed_clip(node: Node, x: relax.Expr) -> relax.Expr:
    operators = ((1, relax.op.maximum), (2, relax.op.minimum))
    for index, operator in (each for each in operators if node.value(each[0]) is not None):
        bound = node.emit(relax.op.reshape(node.expr(index), (1,) * rank_of(x)))
        x = node.emit(operator(x, bound))
    return x


def sign(node: Node) -> relax.Expr:
    """-1, 0 or 1."""
    x = node.expr(0)
    if dtype_of(x).startswith("u"):
        return relax.op.minimum(x, aligned(np.array(1, dtype_of(x)), rank_of(x)))
    return relax.op.sign(x)


def elu(node: Node, x: relax.Expr, alpha: float) -> relax.Expr:
    """``x if x > 0 else alpha * (exp(x) - 1)``; a NaN stays one.

    It is ``max(x, 0) + alpha * (exp(min(x, 0)) - 1)``, which gives the same numbers: one of the terms is 0.
    """
    dtype, rank = dtype_of(x), rank_of(x)
    zero, one, factor = (aligned(np.array(value, dtype), rank) for value in (0, 1, alpha))
    below = node.emit(relax.op.subtract(node.emit(relax.op.exp(node.emit(relax.op.minimum(x, zero)))), one))
    scaled = node.emit(relax.op.multiply(below, factor))
    return relax.op.add(node.emit(relax.op.maximum(x, zero)), scaled)


def _elu(node: Node) -> relax.Expr:
    return elu(node, node.expr(0), node.attributes.get("alpha", 1.0))


def selu(node: Node) -> relax.Expr:
    """``gamma * elu(x)``."""
    x = node.expr(0)
    alpha = node.attributes.get("alpha", 1.67326319217681884765625)
    gamma = node.attributes.get("gamma", 1.05070102214813232421875)
    scale = aligned(np.array(gamma, dtype_of(x)), rank_of(x))
    return relax.op.multiply(node.emit(elu(node, x, alpha)), scale)


def celu(node: Node) -> relax.Expr:
    """``max(x, 0) + min(alpha * (exp(x / alpha) - 1), 0)``."""
    x, alpha = node.expr(0), node.attributes.get("alpha", 1.0)
    dtype, rank = dtype_of(x), rank_of(x)
    zero, one, factor = (aligned(np.array(value, dtype), rank) for value in (0, 1, alpha))
    power = node.emit(relax.op.exp(node.emit(relax.op.divide(x, factor))))
    below = node.emit(relax.op.multiply(node.emit(relax.op.subtract(power, one)), factor))
    return relax.op.add(node.emit(relax.op.maximum(x, zero)), node.emit(relax.op.minimum(below, zero)))


def hard_sigmoid(node: Node) -> relax.Expr:
    """``min(max(alpha * x + beta, 0), 1)``."""
    x = node.expr(0)
    dtype, rank, attributes = dtype_of(x), rank_of(x), node.attributes
    alpha, beta = (aligned(np.array(attributes.get(*each), dtype), rank) for each in (("alpha", 0.2), ("beta", 0.5)))
    line = node.emit(relax.op.add(node.emit(relax.op.multiply(x, alpha)), beta))
    return relax.op.clip(line, 0, 1)


def shrink(node: Node) -> relax.Expr:
    """``x - bias if x > lambd else x + bias if x < -lambd else 0``."""
    x = node.expr(0)
    dtype, rank, attributes = dtype_of(x), rank_of(x), node.attributes
    if not dtype.startswith("float"):
        raise node.error(f"reads {dtype}, which is not supported; cast it to float32 before")
    edge, bias = attributes.get("lambd", 0.5), attributes.get("bias", 0.0)
    upper, lower, shift, zero = (aligned(np.array(value, dtype), rank) for value in (edge, -edge, bias, 0))
    above, below = (node.emit(operator(x, shift)) for operator in (relax.op.subtract, relax.op.add))
    inner = node.emit(relax.op.where(node.emit(relax.op.less(x, lower)), below, zero))
    return relax.op.where(node.emit(relax.op.greater(x, upper)), above, inner)


def softplus(node: Node, x: relax.Expr) -> relax.Expr:
    """``log(1 + exp(x))``, without overflow and exact for very negative x.

    It is ``max(x, 0) + log1p(u)`` with ``u = exp(-abs(x))``. ``log1p(u)`` is ``log(w) + (u - (w - 1)) / w`` with
    ``w = 1 + u`` in floating point: the quotient makes up for the rounding of w.
    """
    dtype, rank = dtype_of(x), rank_of(x)
    zero, one = (aligned(np.array(value, dtype), rank) for value in (0, 1))
    u = node.emit(relax.op.exp(node.emit(relax.op.negative(node.emit(relax.op.abs(x))))))
    w = node.emit(relax.op.add(u, one))
    lost = node.emit(relax.op.subtract(u, node.emit(relax.op.subtract(w, one))))
    log1p = node.emit(relax.op.add(node.emit(relax.op.log(w)), node.emit(relax.op.divide(lost, w))))
    return relax.op.add(node.emit(relax.op.maximum(x, zero)), log1p)


def mish(node: Node) -> relax.Expr:
    """``x * tanh(softplus(x))``."""
    x = node.expr(0)
    return relax.op.multiply(x, node.emit(relax.op.tanh(node.emit(softplus(node, x)))))


CONVERTERS: dict[str, Converter] = {
    "PRelu": prelu,
    "Mish": mish,
    "Relu": relu,
    "LeakyRelu": leaky_relu,
    "Clip": clip,
    "Sign": sign,
    "Shrink": shrink,
    "ThresholdedRelu": thresholded_relu,
    "Softplus": lambda node: softplus(node, node.expr(0)),
    "Celu": celu,
    "Elu": _elu,
    "HardSigmoid": hard_sigmoid,
    "Selu": selu,
}
