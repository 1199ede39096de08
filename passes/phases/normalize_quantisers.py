"""Rewrite roundings to a few levels to the one form of a quantiser (relax/quantisers.py)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from sbnn_tvm.algebra.domain import MOST_BITS

from ..relax.graph import Graph, Writer, constant, drop_dead, op_name
from ..relax.quantisers import arithmetic_with_number, emit_quantiser

_BOUNDS = ("clip", "nn.relu", "maximum", "minimum")


def normalize_quantisers(mod: IRModule) -> IRModule:
    """Replace roundings between clips by comparisons with thresholds.

    1. ``round(clip(x * s, 0, 3))``, or the clip after the rounding, is a monotone function of x with a few values.
    2. The threshold of a level is the last float32 number below the step to it. It is found by bisection over all
       float32 numbers, with the reference's own operations. So ties to even are right.
    3. The value is the lowest level plus the number of thresholds that x exceeds.

    Example: ``round(clip(x, 0, 3))`` has the thresholds 0.5, 1.5 less one unit in the last place, and 2.5. The ties 0.5
    and 2.5 round down to even, the tie 1.5 rounds up.
    """
    graph = Graph(mod["main"])
    roundings = {var: each for var, value in graph.bindings if (each := _rounding(graph, value)) is not None}
    if not roundings:
        return mod
    writer = Writer(graph)
    for var, value in graph.bindings:
        if var in roundings:
            writer.bind(var, _written(writer, roundings[var], var.name))
        else:
            writer.keep(var, value)
    return drop_dead(writer.module(mod))


@dataclass(frozen=True, eq=False)
class _Rounding:
    """A rounding as ``lo`` plus the number of thresholds that x exceeds.

    Attributes:
        x: The input.
        thresholds: float32 [1, 3, 7 or 15, 1].
        lo: The lowest value.
    """

    x: Var
    thresholds: np.ndarray
    lo: float


def _written(writer: Writer, rounding: _Rounding, name: str) -> Expr:
    x, lo = writer[rounding.x], np.float32(rounding.lo)
    if len(rounding.thresholds) == 1:
        above = writer.emit(op.greater(x, relax.const(rounding.thresholds.reshape(()))), f"{name}_above")
        return op.where(above, relax.const(lo + np.float32(1)), relax.const(lo))
    codes = emit_quantiser(writer, x, rounding.thresholds, name)
    return op.add(writer.emit(codes, f"{name}_code"), relax.const(lo)) if lo else codes


def _rounding(graph: Graph, value: Expr) -> _Rounding | None:
    """Match one rounding, with bounds and rising arithmetic before or after it; None for any other value."""
    if op_name(value) not in ("round", *_BOUNDS):
        return None
    chain: list[Callable[[np.ndarray], np.ndarray]] = []
    roundings, x = 0, None
    call: Expr | None = value
    while isinstance(call, Call) and (step := _step(call)) is not None:
        chain.insert(0, step)
        roundings += op_name(call) == "round"
        x = next(arg for arg in call.args if isinstance(arg, Var))
        read_elsewhere = len(graph.users[x]) > 1 or x in graph.results
        call = None if read_elsewhere else graph.values.get(x)
    return _thresholds(x, chain) if x is not None and roundings == 1 else None


def _thresholds(x: Var, chain: Sequence[Callable[[np.ndarray], np.ndarray]]) -> _Rounding | None:
    """Find the thresholds of a chain of rising operations; None if it has too many levels or skips one."""

    def function(values: np.ndarray) -> np.ndarray:
        with np.errstate(all="ignore"):
            for step in chain:
                values = step(values)
        return values

    largest = float(np.finfo(np.float32).max)
    least, most = function(np.array([-largest, largest], np.float32))
    steps = float(most) - float(least)
    if not (np.isfinite([least, most]).all() and 0 < steps < 1 << MOST_BITS and steps == int(steps)):
        return None
    targets = least + np.arange(1, int(steps) + 1, dtype=np.float32)
    # Bisection over all float32 numbers in order finds the last one whose value is below each target.
    below = np.full(len(targets), _ordinal(-largest), np.int64)
    above = np.full(len(targets), _ordinal(largest), np.int64)
    while (above - below > 1).any():
        middle = (below + above) // 2
        reached = function(_float(middle)) >= targets
        above, below = np.where(reached, middle, above), np.where(reached, below, middle)
    if not np.array_equal(function(_float(above)), targets):
        return None  # a step skips a level
    bits = len(targets).bit_length()
    missing = (1 << bits) - 1 - len(targets)
    thresholds = np.concatenate([_float(below), np.full(missing, np.inf, np.float32)])[:, None]
    return _Rounding(x, thresholds, float(least))


def _ordinal(value: float) -> int:
    """The position of a float32 number in the order of all float32 numbers; 0 for both zeros."""
    bits = int(np.float32(value).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF)


def _float(ordinals: np.ndarray) -> np.ndarray:
    magnitude = np.abs(ordinals).astype(np.int32).view(np.float32)
    return np.where(ordinals < 0, -magnitude, magnitude).astype(np.float32)


def _step(call: Call) -> Callable[[np.ndarray], np.ndarray] | None:
    """An operation of one tensor and numbers as a numpy function of float32; None if it can fall."""
    name = op_name(call)
    if name == "round":
        return np.rint
    if name == "nn.relu":
        return lambda x: np.maximum(x, np.float32(0))
    if name == "clip":
        low, high = (np.float32(bound.value) for bound in call.args[1:])
        return lambda x: np.minimum(np.maximum(x, low), high)
    step = arithmetic_with_number(call)
    if step is None and name in ("maximum", "minimum"):
        numbers = [
            values.reshape(()) for arg in call.args if (values := constant(arg)) is not None and values.size == 1
        ]
        bound, function = numbers[0] if numbers else None, np.maximum if name == "maximum" else np.minimum
        return None if bound is None else lambda x: function(x, bound)
    # A falling operation would need other thresholds. No known network rounds after a negative scale.
    rising = step is not None and bool(np.diff(step(np.array([1, 2], np.float32)))[0] > 0)
    return step if rising else None
