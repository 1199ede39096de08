"""Recognise and write quantisers, which compute activations of n bits, in the one form that the passes use.

The code of x is the number of thresholds that x exceeds. In Relax::

    column   = expand_dims(x, -1)
    above    = greater(column, thresholds)          thresholds [..., 2^n - 1], ascending
    counted  = where(above, 1, 0)
    code     = sum(counted, -1)
    value    = add(multiply(code, step), lo)        or other arithmetic with numbers, if the levels stay evenly spaced

For example, thresholds [0.5, 1.5, 2.5] map x = 1.7 to code 2. With step 0.1 and lo -0.1 the value is 0.1.

This is the body of the ai.sbnn operator Quantize. ``step_functions`` brings other functions of few
values into this form.
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
    """A quantiser: its result is ``levels[k]``, where x exceeds k of the thresholds.

    Attributes:
        x: The input.
        thresholds: float32 [2^n - 1, C] or [2^n - 1, 1], ascending along the first axis.
        levels: The values of the result, one per code.
        chain: The variables between x and the result, in order; nothing else reads them.
    """

    x: Var
    thresholds: np.ndarray
    levels: Levels
    chain: tuple[Var, ...]


def quantisers(graph: Graph) -> dict[Var, Quantiser]:
    """All quantisers of a function, keyed by the variable of the result."""
    found = {var: quantiser(graph, value) for var, value in graph.bindings}
    return {var: each for var, each in found.items() if each is not None}


def quantiser(graph: Graph, value: Expr) -> Quantiser | None:
    """Match the quantiser that computes a bound value; None if the value is not the result of one."""
    chain: list[Var] = []

    def before(call: Expr | None) -> Call | None:
        """The call that computes the only variable that ``call`` reads, if that variable has no other reader."""
        variables = [arg for arg in call.args if isinstance(arg, Var)] if isinstance(call, Call) else []
        if len(variables) != 1 or len(graph.users[variables[0]]) > 1 or variables[0] in graph.results:
            return None
        chain.insert(0, variables[0])
        producer = graph.values.get(variables[0])
        return producer if isinstance(producer, Call) else None

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
    if counted is None or above is None or column is None:
        return None
    if [op_name(each) for each in (counted, above, column)] != ["where", "greater", "expand_dims"]:
        return None
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
    except ValueError:  # the levels are not evenly spaced, or they fall
        return None


def arithmetic_with_number(call: Expr | None) -> Callable[[np.ndarray], np.ndarray] | None:
    """An operation of one tensor and one number as a numpy function of float32; None for any other call."""
    if not isinstance(call, Call) or (function := _ARITHMETIC.get(op_name(call))) is None:
        return None
    numbers = [_number(arg) for arg in call.args]
    if (numbers[0] is None) == (numbers[1] is None):
        return None
    first, second = numbers
    if second is not None:
        return lambda x: function(x, second)
    return lambda x: function(first, x)


def emit_quantiser(writer: Writer, x: Expr, thresholds: np.ndarray, name: str) -> Expr:
    """Write the quantiser that computes the codes of x.

    Args:
        writer: The writer of the new function.
        x: A value of the new function.
        thresholds: float32 [2^n - 1, C] or [2^n - 1, 1], n > 1, ascending along the first axis.
        name: Prefix of the names of the new variables.

    Returns:
        The codes, not yet bound to a variable.
    """
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
    """Thresholds [..., L] as [L, C] or [L, 1]; None unless there is one per level, or one per level and channel."""
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
