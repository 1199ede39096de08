"""Write choices between a value and a constant bound as minima and maxima."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.graph import Graph, Writer, constant, drop_dead, op_name, shape

_UPPER = {"greater": True, "greater_equal": True, "less": False, "less_equal": False}
"""Whether a value that compares so with a bound is cut from above."""


def choices_to_extrema(mod: IRModule) -> IRModule:
    """Replace ``where(x > c, c, x)`` by ``minimum(x, c)`` and ``where(x < c, c, x)`` by ``maximum(x, c)``.

    Both sides are equal for every number, and NaN stays NaN in both, so that a clamp which is written as two choices
    joins the layer before it like any other. Only constants c without NaN are bounds.
    """
    graph = Graph(mod["main"])
    writer = Writer(graph)
    for var, value in graph.bindings:
        extremum = _extremum(graph, writer, var, value) if op_name(value) == "where" else None
        writer.bind(var, writer[value] if extremum is None else extremum)
    return drop_dead(writer.module(mod))


def _extremum(graph: Graph, writer: Writer, var: Var, where: Call) -> Expr | None:
    condition, bound, x = graph.values.get(where.args[0]), constant(where.args[1]), where.args[2]
    if condition is None or op_name(condition) not in _UPPER or bound is None:
        return None
    if not isinstance(x, Var) or str(x.ty.dtype) != "float32":
        return None
    a, b = condition.args
    upper = _UPPER[op_name(condition)]
    if constant(a) is not None:  # c < x equals x > c
        a, b, upper = b, a, not upper
    compared = constant(b)
    if a != x or compared is None or np.isnan(bound).any() or shape(x) != shape(var):
        return None
    if compared.size != bound.size or not np.array_equal(compared.reshape(bound.shape), bound):
        return None
    limit = relax.const(compared)
    return op.minimum(writer[x], limit) if upper else op.maximum(writer[x], limit)
