"""Recognise and write the one form in which the passes quantise to integers, and numbers that are integers provably.

The form is that of ONNX's QuantizeLinear, after its division::

    rounded = round(x)
    shifted = add(rounded, zero_point)         left out if it is 0; astype(point, float32) if known only at run time
    above   = greater(shifted, low)            low, high: the limits of the type
    limited = where(above, shifted, low)       low for NaN
    capped  = minimum(limited, high)
    code    = astype(capped, dtype)

``phases/integer_values.py`` brings other compositions into this form. An epilogue stores such a value as a
``CodesOutput``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var, op

from sbnn_tvm.schedules.epilogue.program import Element

from .graph import Graph, Writer, constant, op_name, shape

STORED: tuple[Element, ...] = ("int8", "uint8", "int16", "uint16")
"""The element types of quantised values."""


@dataclass(frozen=True, eq=False)
class Rounded:
    """A value that is ``limit(round(x) + zero_point)``, an integer.

    Attributes:
        x: What is rounded, halves to even.
        zero_point: What is added then.
        point: An integer that is added as well, whose variable has no dimensions; None for 0.
        low: The least result, which NaN becomes as well; -inf if there is no limit.
        high: The largest result.
        chain: The variables between x and the value, in order.
        keeps_nan: Whether a NaN stays one.
    """

    x: Expr
    zero_point: int = 0
    low: float = -np.inf
    high: float = np.inf
    chain: tuple[Var, ...] = ()
    keeps_nan: bool = True
    point: Var | None = None

    def fits(self, dtype: str) -> bool:
        """Whether all results are numbers of an integer type."""
        limits = np.iinfo(dtype)
        return limits.min <= self.low and self.high <= limits.max

    def shifted(self, by: int) -> Rounded:
        """The same plus an integer."""
        return replace(self, zero_point=self.zero_point + by, low=self.low + by, high=self.high + by)

    @property
    def type(self) -> Element | None:
        """The smallest integer type that holds all results; None if there is none."""
        return next((dtype for dtype in STORED if self.fits(dtype)), None)


def rounded(graph: Graph, expr: Expr) -> Rounded | None:
    """Match a float32 or integer value that is rounded, shifted and limited by numbers; None for any other."""
    value = graph.values.get(expr) if isinstance(expr, Var) else None
    if not isinstance(value, Call):
        return None
    name = op_name(value)
    if name == "round":
        return Rounded(value.args[0], chain=(expr,)) if str(expr.ty.dtype) == "float32" else None
    if name == "astype":
        inner = rounded(graph, value.args[0])
        to = str(value.attrs.dtype)
        known = inner is not None and (to == "float32" or (to in (*STORED, "int32", "int64") and inner.fits(to)))
        return replace(inner, chain=(*inner.chain, expr)) if inner is not None and known else None
    if name == "where":
        return _limited_below(graph, expr)
    if name == "clip":
        inner = rounded(graph, value.args[0])
        if inner is None:
            return None
        return _limited(inner, float(value.args[1].value), float(value.args[2].value), expr)
    if name == "nn.relu":
        inner = rounded(graph, value.args[0])
        return None if inner is None else _limited(inner, 0.0, np.inf, expr)
    if name not in ("add", "subtract", "maximum", "minimum"):
        return None
    first, second = value.args
    if name != "subtract" and not isinstance(first, Var):
        first, second = second, first
    number, inner = _integer(second), rounded(graph, first)
    if name == "add" and inner is not None and number is None:
        return _shifted_at_run_time(graph, expr, inner, second)
    if inner is None or number is None:
        return None
    if name == "maximum":
        return _limited(inner, number, np.inf, expr)
    if name == "minimum":
        return _limited(inner, -np.inf, number, expr)
    if (np.isinf(max(-inner.low, inner.high)) and abs(number) > 2**20) or inner.point is not None:
        return None
    shifted = inner.shifted(int(number if name == "add" else -number))
    return replace(shifted, chain=(*inner.chain, expr))


def _shifted_at_run_time(graph: Graph, var: Var, inner: Rounded, shift: Expr) -> Rounded | None:
    """A value that is rounded, plus a number of 8 or 16 bits that is known only at run time."""
    cast = graph.producer(shift, "astype")
    if cast is None or not isinstance(cast.args[0], Var) or shape(shift) or str(cast.args[0].ty.dtype) not in STORED:
        return None
    if np.isfinite([inner.low, inner.high]).any() or inner.zero_point or inner.point is not None:
        return None
    return replace(inner, point=cast.args[0], chain=(*inner.chain, shift, var))


def _integer(expr: Expr) -> float | None:
    values = constant(expr)
    if values is None or values.size != 1 or not float(values.item()).is_integer():
        return None
    return float(values.item())


def _limited(inner: Rounded, low: float, high: float, var: Var) -> Rounded | None:
    if not all(limit.is_integer() or np.isinf(limit) for limit in (low, high)) or low > high:
        return None
    new_low, new_high = min(max(inner.low, low), high), max(min(inner.high, high), low)
    return replace(inner, low=new_low, high=new_high, chain=(*inner.chain, var))


def _limited_below(graph: Graph, var: Var) -> Rounded | None:
    """Match ``where(greater(y, low), y, low)``, a maximum that is ``low`` for NaN."""
    condition, chosen, other = graph.values[var].args
    compare, low = graph.producer(condition, "greater"), _integer(other)
    if compare is None or low is None or not isinstance(chosen, Var):
        return None
    if compare.args[0] != chosen or _integer(compare.args[1]) != low:
        return None
    inner = rounded(graph, chosen)
    if inner is None:
        return None
    limited = _limited(replace(inner, chain=(*inner.chain, condition)), low, np.inf, var)
    return None if limited is None else replace(limited, keeps_nan=False)


@dataclass(frozen=True, eq=False)
class Codes:
    """A value of an integer type in the form that ``emit_codes`` writes.

    Attributes:
        x: What is quantised.
        dtype: The type.
        zero_point: The code of 0; a variable without dimensions if it is known only at run time.
        chain: The variables between x and the value, in order; nothing else reads them.
    """

    x: Expr
    dtype: Element
    zero_point: int | Var
    chain: tuple[Var, ...]


def codes(graph: Graph) -> dict[Var, Codes]:
    """All quantised values of a function that have the form of ``emit_codes``, single numbers apart."""
    found = {}
    for var, value in graph.bindings:
        casts = op_name(value) == "astype" and str(value.attrs.dtype) in STORED
        if casts and shape(var) and (each := _codes(graph, var)) is not None:
            found[var] = each
    return found


def _codes(graph: Graph, var: Var) -> Codes | None:
    dtype, matched = str(var.ty.dtype), rounded(graph, var)
    if matched is None or matched.keeps_nan:
        return None
    limits, inner = np.iinfo(dtype), matched.chain[:-1]
    if (matched.low, matched.high) != (limits.min, limits.max):
        return None
    alone = all(set(graph.users[each]) <= set(matched.chain) and each not in graph.results for each in inner)
    whole = isinstance(matched.x, Var) and alone
    zero_point = matched.zero_point if matched.point is None else matched.point
    return Codes(matched.x, dtype, zero_point, inner) if whole else None  # type: ignore[arg-type]


def emit_codes(writer: Writer, x: Expr, dtype: str, zero_point: int | Expr, name: str) -> Expr:
    """Write the quantisation of a float32 value; its last step is returned, to be bound by the caller.

    Args:
        writer: The new function.
        x: The value.
        dtype: The type of the codes.
        zero_point: The code of 0; a variable of the new function if it is known only at run time.
        name: The name of the result.
    """
    limits = np.iinfo(dtype)
    low, high = (relax.const(np.float32(limit)) for limit in (limits.min, limits.max))
    y = writer.emit(op.round(x), f"{name}_rounded")
    if not isinstance(zero_point, int):
        point = writer.emit(op.astype(zero_point, "float32"), f"{name}_point")
        y = writer.emit(op.add(y, point), f"{name}_shifted")
    elif zero_point:
        y = writer.emit(op.add(y, relax.const(np.float32(zero_point))), f"{name}_shifted")
    above = writer.emit(op.greater(y, low), f"{name}_above")
    y = writer.emit(op.where(above, y, low), f"{name}_limited")
    return op.astype(writer.emit(op.minimum(y, high), f"{name}_capped"), dtype)


@dataclass(frozen=True, eq=False)
class Dequantised:
    """A float32 value ``(codes - zero_point) * scale``, in the form that ``phases/integer_values.py`` writes.

    Attributes:
        codes: The variable that holds the codes, of an integer type.
        zero_point: The code of 0.
        scale: Positive; 1 if nothing is multiplied.
    """

    codes: Var
    zero_point: int
    scale: np.float32

    @property
    def dtype(self) -> Element:
        """The type of the codes."""
        return str(self.codes.ty.dtype)  # type: ignore[return-value]


def dequantised(graph: Graph, expr: Expr) -> Dequantised | None:
    """Match a float32 value of codes with one scale; None for any other value."""
    scale, zero_point = np.float32(1), 0.0
    if (scaled := graph.producer(expr, "multiply")) is not None:
        numbers = constant(scaled.args[1])
        if numbers is None or numbers.size != 1 or not numbers.item() > 0:
            return None
        scale, expr = np.float32(numbers.item()), scaled.args[0]
    if (centred := graph.producer(expr, "subtract")) is not None:
        point = _integer(centred.args[1])
        if point is None:
            return None
        zero_point, expr = point, centred.args[0]
    cast = graph.producer(expr, "astype")
    if cast is None or not isinstance(cast.args[0], Var) or str(cast.args[0].ty.dtype) not in STORED:
        return None
    return Dequantised(cast.args[0], int(zero_point), scale) if str(cast.attrs.dtype) == "float32" else None


def reads_integers(value: Expr) -> bool:
    """Whether a binding casts stored integers to float32."""
    return (
        op_name(value) == "astype"
        and str(value.attrs.dtype) == "float32"
        and isinstance(value.args[0], Var)
        and str(value.args[0].ty.dtype) in STORED
    )
