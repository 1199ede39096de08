"""Recognise scales and zero points that the range of a tensor gives at run time, in the form that the importer writes.

In Relax, for the whole tensor x::

    high       = maximum(max(x), 0)
    low        = minimum(min(x), 0)
    extent     = subtract(high, low)
    scale      = where(equal(extent, 0), 1, divide(extent, 255))
    zero_point = astype(limited(round(divide(subtract(0, low), scale))), uint8)      limited as in codes.py
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from tvm.relax import Expr, Var

from .codes import rounded
from .graph import Graph, constant, op_name, shape

_Pattern: TypeAlias = str | int | tuple[Any, ...]
"""A form: the name of a variable, a number, or an operator and its operands."""

_FORM: dict[str, _Pattern] = {
    "shift": ("divide", ("subtract", 0, "low"), "scale"),
    "scale": ("where", ("equal", "extent", 0), 1, ("divide", "extent", 255)),
    "extent": ("subtract", "high", "low"),
    "high": ("maximum", ("max", "x"), 0),
    "low": ("minimum", ("min", "x"), 0),
}


@dataclass(frozen=True, eq=False)
class QuantisationRange:
    """A scale and a zero point.

    Attributes:
        x: The tensor, float32.
        scale: The variable of the scale, a number.
        zero_point: The variable of the zero point, a number of uint8.
        chain: The variables between them; nothing else reads these.
    """

    x: Var
    scale: Var
    zero_point: Var
    chain: tuple[Var, ...]


def quantisation_ranges(graph: Graph) -> list[QuantisationRange]:
    """All of a function, in order."""
    found = []
    for var, value in graph.bindings:
        casts = op_name(value) == "astype" and str(value.attrs.dtype) == "uint8" and not shape(var)
        if casts and (each := _range(graph, var)) is not None:
            found.append(each)
    return found


def _range(graph: Graph, zero_point: Var) -> QuantisationRange | None:
    matched = rounded(graph, zero_point)
    if matched is None or matched.keeps_nan or (matched.zero_point, matched.low, matched.high) != (0, 0, 255):
        return None
    named: dict[str, Expr] = {"shift": matched.x}
    between = set(matched.chain[:-1])
    for name, pattern in _FORM.items():
        if not _matches(graph, named[name], pattern, named, between):
            return None
    x, scale = named["x"], named["scale"]
    if not isinstance(x, Var) or not shape(x) or 0 in shape(x) or str(x.ty.dtype) != "float32":
        return None
    between -= {scale, x}
    inside = {*between, scale, zero_point}
    alone = all(inside.issuperset(graph.users[each]) and each not in graph.results for each in between)
    return QuantisationRange(x, scale, zero_point, tuple(between)) if alone else None


def _matches(graph: Graph, expr: Expr, pattern: _Pattern, named: dict[str, Expr], between: set[Var]) -> bool:
    """Whether an expression has a form. The variables that it names, and all others on the way, are collected."""
    if isinstance(pattern, str):
        return isinstance(expr, Var) and named.setdefault(pattern, expr) == expr
    if isinstance(pattern, int):
        values = constant(expr)
        return values is not None and values.size == 1 and float(values.item()) == pattern
    operator, *operands = pattern
    call = graph.producer(expr, operator)
    if call is None or shape(expr):
        return False
    between.add(expr)
    return all(_matches(graph, arg, part, named, between) for arg, part in zip(call.args, operands, strict=False))
