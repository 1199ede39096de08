"""Recognise circular shifts of two-valued channels over the image, written as slices and concatenations."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.domains import domains
from ..relax.graph import Graph, Writer, constant, drop_dead, op_name, shape
from ..relax.shifts import shifts_of

_MOVING = ("concat", "strided_slice", "take")


def shift_pixels(mod: IRModule) -> IRModule:
    """Replace a circular shift of two-valued channels by one gather, which one kernel computes on packed bits.

    ``torch.roll`` of groups of channels, each in its own direction, is exported as slices and concatenations along
    channels, rows and columns.

    1. Trace every element of such a value to its source and its index there (``_trace``).
    2. Check that every channel is a circular shift of one channel of a single source of the same size.
    3. Write the shift as ``reshape(take(reshape(x), indices))``. If the order of channels changes, a ``take`` of
       channels comes first.

    Example: ``concat(x[..., 3:], x[..., :3])`` of rows with 4 pixels has the source columns [3, 0, 1, 2]. This is a
    shift by one column to the right.
    """
    graph = Graph(mod["main"])
    known = domains(graph)
    writer = Writer(graph)
    for var, value in graph.bindings:
        shift = _shift(graph, var) if var in known and _ends(graph, var) else None
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


def _shift(graph: Graph, var: Var) -> tuple[Var, np.ndarray, np.ndarray] | None:
    """The source of a shifted map, the source channel of each channel, int64 [C], and its shift, int64 [C, 2]."""
    traced = _trace(graph, var, {})
    if traced is None or shape(traced[0]) != shape(var):
        return None
    source, indices = traced
    found = shifts_of(indices)
    if found is None:
        return None
    channels, shifts = found
    return (source, channels, shifts) if shifts.any() else None


def _trace(graph: Graph, var: Expr, known: dict[Expr, tuple[Var, np.ndarray] | None]) -> tuple[Var, np.ndarray] | None:
    """The source of moving operations, and for each element of one sample its flat index there, [C, H, W]."""
    if not isinstance(var, Var) or len(shape(var)) != 4:
        return None
    if var not in known:
        known[var] = _trace_value(graph, var, known)
    return known[var]


def _trace_value(
    graph: Graph, var: Var, known: dict[Expr, tuple[Var, np.ndarray] | None]
) -> tuple[Var, np.ndarray] | None:
    value = graph.values.get(var)
    if not isinstance(value, Call) or (name := op_name(value)) not in _MOVING:
        return var, np.arange(int(np.prod(shape(var)[1:]))).reshape(shape(var)[1:])
    if name == "concat":
        axis = int(value.attrs.axis) % 4
        fields = value.args[0].fields if isinstance(value.args[0], relax.Tuple) else []
        parts = [_trace(graph, field, known) for field in fields]
        found = [part for part in parts if part is not None]
        if axis == 0 or not found or len(found) < len(parts) or len({part[0] for part in found}) > 1:
            return None
        return found[0][0], np.concatenate([part[1] for part in found], axis=axis - 1)
    source = _trace(graph, value.args[0], known)
    if source is None:
        return None
    if name == "take":
        indices = constant(value.args[1])
        axis = int(value.attrs.axis) % 4 if value.attrs.axis is not None else 0
        if axis == 0 or indices is None or indices.ndim != 1:
            return None
        return source[0], np.take(source[1], indices, axis=axis - 1)
    numbers = [[int(each.value) for each in arg.fields] for arg in value.args[1:]]
    axes, begins, ends = numbers[:3]
    strides = numbers[3] if len(numbers) > 3 else [1] * len(axes)
    cut = source[1]
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        if axis % 4 == 0:
            return None
        at = [slice(None)] * 3
        at[axis % 4 - 1] = slice(begin, end, stride)
        cut = cut[tuple(at)]
    return (source[0], cut) if cut.shape == shape(var)[1:] else None


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
