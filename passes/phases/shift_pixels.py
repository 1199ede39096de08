"""Recognise circular shifts of two-valued channels over the image, written as slices and concatenations."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import IRModule
from tvm.relax import Expr, Var, op

from ..relax.domains import domains
from ..relax.graph import Graph, Writer, drop_dead, op_name, shape
from ..relax.moves import Moves, Origin
from ..relax.shifts import shifts_of

_MOVING = ("concat", "strided_slice", "take")


def shift_pixels(mod: IRModule) -> IRModule:
    """Replace a circular shift of two-valued channels by one gather, which one kernel computes on packed bits.

    ``torch.roll`` of groups of channels, each in its own direction, is exported as slices and concatenations along
    channels, rows and columns.

    1. Trace every element of such a value to its source and its index there (relax/moves.py).
    2. Check that every channel is a circular shift of one channel of a single source of the same size.
    3. Write the shift as ``reshape(take(reshape(x), indices))``. If the order of channels changes, a ``take`` of
       channels comes first.

    Example: ``concat(x[..., 3:], x[..., :3])`` of rows with 4 pixels has the source columns [3, 0, 1, 2]. This is a
    shift by one column to the right.
    """
    graph = Graph(mod["main"])
    known = domains(graph)
    writer, moves = Writer(graph), Moves(graph)
    for var, value in graph.bindings:
        shift = _shift(moves.origin(var), shape(var)) if var in known and _ends(graph, var) else None
        if shift is None:
            writer.keep(var, value)
        else:
            writer.bind(var, _gather(writer, var, *shift))
    return drop_dead(writer.module(mod))


def _ends(graph: Graph, var: Var) -> bool:
    """Whether a value is the last one of a sequence of moving operations."""
    moves = op_name(graph.values[var]) in _MOVING and len(shape(var)) == 4
    others = any(op_name(graph.values[user]) not in _MOVING for user in graph.users[var])
    return moves and (others or var in graph.results)


def _shift(moved: Origin | None, extent: tuple[int, ...]) -> tuple[Var, np.ndarray, np.ndarray] | None:
    """The source of a shifted map, the source channel of each channel, int64 [C], and its shift, int64 [C, 2]."""
    if moved is None or moved.fill is not None or len(moved.sources) != 1 or shape(moved.sources[0]) != extent:
        return None
    found = shifts_of(moved.index)
    if found is None:
        return None
    channels, shifts = found
    return (moved.sources[0], channels, shifts) if shifts.any() else None


def _gather(writer: Writer, var: Var, source: Var, channels: np.ndarray, shifts: np.ndarray) -> Expr:
    batch, count, height, width = shape(var)
    x = writer[source]
    if not np.array_equal(channels, np.arange(count)):
        x = writer.emit(op.take(x, relax.const(channels), axis=1), f"{var.name}_channels")
    rows = (np.arange(height)[:, None] - shifts[:, 0, None, None]) % height
    columns = (np.arange(width) - shifts[:, 1, None, None]) % width
    indices = np.arange(count)[:, None, None] * (height * width) + rows * width + columns
    flat = writer.emit(op.reshape(x, (batch, count * height * width)), f"{var.name}_flat")
    taken = writer.emit(op.take(flat, relax.const(indices.reshape(-1)), axis=1), f"{var.name}_taken")
    return op.reshape(taken, shape(var))
