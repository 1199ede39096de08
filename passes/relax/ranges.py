"""Find between which numbers the values of a function lie. NaN is left aside, and infinity is a number here."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var

from .graph import Graph, constant, op_name

Range = tuple[float, float]
ANYTHING: Range = (-np.inf, np.inf)
_SAME = {"reshape", "permute_dims", "nn.max_pool2d", "squeeze", "expand_dims", "take", "strided_slice", "broadcast_to"}
_UNIT = {"sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0), "sign": (-1.0, 1.0), "nn.softmax": (0.0, 1.0)}


def ranges(graph: Graph) -> dict[Var, Range]:
    """Bounds of every float32 variable for which there are any: the least and the largest value."""
    known: dict[Var, Range] = {}
    for var, value in graph.bindings:
        if isinstance(value, Call) and str(getattr(var.ty, "dtype", "")) == "float32":
            low, high = _range(value, known)
            if low > -np.inf or high < np.inf:
                known[var] = (low, high)
    return known


def _of(expr: Expr, known: Mapping[Var, Range]) -> Range:
    if isinstance(expr, Var):
        return known.get(expr, ANYTHING)
    values = constant(expr)
    if values is None or not values.size or np.isnan(values).any():
        return ANYTHING
    return float(values.min()), float(values.max())


def _range(call: Call, known: Mapping[Var, Range]) -> Range:
    name = op_name(call)
    if name in _UNIT:
        return _UNIT[name]
    if name in _SAME:
        return _of(call.args[0], known)
    if name in ("nn.avg_pool2d", "nn.adaptive_avg_pool2d", "mean"):
        low, high = _of(call.args[0], known)  # a mean is rounded; only its sign is certain
        return (0.0 if low >= 0 else -np.inf, 0.0 if high <= 0 else np.inf)
    if name == "nn.relu":
        low, high = _of(call.args[0], known)
        return max(low, 0.0), max(high, 0.0)
    if name == "abs":
        low, high = _of(call.args[0], known)
        least = low if low > 0 else -high if high < 0 else 0.0
        return least, max(abs(low), abs(high))
    if name == "clip":
        low, high = _of(call.args[0], known)
        bottom, top = (float(bound.value) for bound in call.args[1:])
        return min(max(low, bottom), top), max(min(high, top), bottom)
    if name in ("maximum", "minimum"):
        (a, b), (c, d) = (_of(arg, known) for arg in call.args)
        return (max(a, c), max(b, d)) if name == "maximum" else (min(a, c), min(b, d))
    if name == "where":
        (a, b), (c, d) = (_of(arg, known) for arg in call.args[1:])
        return min(a, c), max(b, d)
    if name == "concat" and isinstance(call.args[0], relax.Tuple):
        parts = [_of(field, known) for field in call.args[0].fields]
        return min(low for low, _ in parts), max(high for _, high in parts)
    if name == "nn.pad" and call.attrs.pad_mode == "constant":
        low, high = _of(call.args[0], known)
        value = float(call.attrs.pad_value)
        return min(low, value), max(high, value)
    return ANYTHING
