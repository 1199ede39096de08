"""Quantisers: what makes an activation of n bits, in the one form that the passes know.

    column   = expand_dims(x, -1)
    above    = greater(column, thresholds)          thresholds [..., 2^n - 1], ascending
    counted  = where(above, 1, 0)
    code     = sum(counted, -1)
    value    = add(multiply(code, step), lo)        or any arithmetic with numbers that keeps the levels evenly spaced

That is the body of ai.sbnn's Quantize. ``normalize_quantisers`` brings roundings of standard operators into it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var, op

from sbnn_tvm.algebra.domain import MOST_BITS, Levels

from .graph import Graph, Writer, channel_axis, constant, op_name, shape

_ARITHMETIC: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
}


@dataclass(frozen=True, eq=False)
class Quantiser:
    """The level whose code is the number of thresholds that x exceeds.

    Attributes:
        x: What is quantised.
        thresholds: float32 [2^n - 1, C] or [2^n - 1, 1], ascending.
        levels: The values.
        chain: The variables between x and the result; nothing else reads them.
    """

    x: Var
    thresholds: np.ndarray
    levels: Levels
    chain: tuple[Var, ...]


def quantisers(graph: Graph) -> dict[Var, Quantiser]:
    """The quantisers of a function, by their results."""
    found = {var: quantiser(graph, value) for var, value in graph.bindings}
    return {var: each for var, each in found.items() if each is not None}


def quantiser(graph: Graph, value: Expr) -> Quantiser | None:
    """The quantiser whose result is a bound value; None for anything else."""
    chain: list[Var] = []

    def before(call: Expr | None) -> Expr | None:
        """What computes the only variable that a call reads, if nobody else reads that."""
        variables = [arg for arg in call.args if isinstance(arg, Var)] if isinstance(call, Call) else []
        if len(variables) != 1 or len(graph.users[variables[0]]) > 1 or variables[0] in graph.results:
            return None
        chain.insert(0, variables[0])
        return graph.values.get(variables[0])

    total: Expr | None = value
    arithmetic: list[Callable[[np.ndarray], np.ndarray]] = []
    while (step := arithmetic_with_number(total)) is not None:
        arithmetic.insert(0, step)
        total = before(total)
    if not isinstance(total, Call) or op_name(total) != "sum" or not _sums_last_axis(total):
        return None
    counted = before(total)
    above = before(counted)
    column = before(above)
    if [op_name(each) for each in (counted, above, column)] != ["where", "greater", "expand_dims"]:
        return None
    assert isinstance(counted, Call) and isinstance(above, Call) and isinstance(column, Call)
    x, thresholds = column.args[0], constant(above.args[1])
    if not isinstance(x, Var) or thresholds is None or shape(above.args[0]) != (*shape(x), 1):
        return None
    rows = _by_channel(thresholds, shape(x))
    if [_number(each) for each in counted.args[1:]] != [1, 0] or rows is None or not (rows[1:] >= rows[:-1]).all():
        return None
    values = np.arange(len(rows) + 1, dtype=np.float32)
    with np.errstate(all="ignore"):
        for step in arithmetic:
            values = step(values)
    try:
        return Quantiser(x, rows, Levels(tuple(values.tolist())), tuple(chain))
    except ValueError:  # not evenly spaced, or falling
        return None


def arithmetic_with_number(call: Expr | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """What an operation of one tensor and a number does, in float32 numpy; None for others."""
    function = _ARITHMETIC.get(op_name(call)) if call is not None else None
    if function is None:
        return None
    assert isinstance(call, Call)
    numbers = [_number(arg) for arg in call.args]
    if (numbers[0] is None) == (numbers[1] is None):
        return None
    first, second = numbers
    if second is not None:
        return lambda x: function(x, second)
    return lambda x: function(first, x)


def emit_quantiser(writer: Writer, x: Expr, thresholds: np.ndarray, name: str) -> Expr:
    """Write the codes of x, which is of the new function; thresholds are float32 [2^n - 1, C] or [.., 1], n > 1."""
    last, rank = np.ascontiguousarray(thresholds.T), len(shape(x))
    if len(last) == 1:
        thresholds = last.reshape(-1)
    else:
        thresholds = last.reshape(-1, *[1] * (rank - 1 - channel_axis(shape(x))), last.shape[-1])
    column = writer.emit(op.expand_dims(x, -1), f"{name}_column")
    above = writer.emit(op.greater(column, relax.const(thresholds)), f"{name}_above")
    counted = writer.emit(op.where(above, relax.const(np.float32(1)), relax.const(np.float32(0))), f"{name}_counted")
    return op.sum(counted, axis=-1)


def _sums_last_axis(call: Call) -> bool:
    rank, axes = len(shape(call.args[0])), call.attrs.axis
    return axes is not None and not call.attrs.keepdims and [int(axis) % rank for axis in axes] == [rank - 1]


def _by_channel(thresholds: np.ndarray, extent: tuple[int, ...]) -> np.ndarray | None:
    """Thresholds [..., L] as [L, C] or [L, 1], if there are at most C of them for each level."""
    count = thresholds.shape[-1]
    if count not in [(1 << bits) - 1 for bits in range(2, MOST_BITS + 1)] or len(extent) < 2:
        return None
    leading = (1,) * (len(extent) + 1 - thresholds.ndim) + thresholds.shape[:-1]
    channels = extent[channel_axis(extent)]
    size = int(np.prod(leading))
    if size not in (1, channels) or (size > 1 and leading[channel_axis(extent)] != channels):
        return None
    return np.ascontiguousarray(thresholds.reshape(size, count).T)


def _number(expr: Expr) -> np.float32 | None:
    values = constant(expr)
    if values is None or values.size > 1 or values.dtype != np.float32:
        return None
    return np.float32(values.item())
