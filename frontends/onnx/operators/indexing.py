"""Operators that pick elements by index."""

from __future__ import annotations

from functools import reduce

import numpy as np
from tvm import relax

from ..node import Converter, Node, aligned, as_expr, dtype_of, rank_of, shape_of


def gather(node: Node) -> relax.Expr:
    """Picks elements along an axis.

    Computed indices that are out of range wrap around, so that they cannot read other memory.
    """
    x, picks = node.expr(0), node.value(1)
    axis = node.attributes.get("axis", 0)
    if not isinstance(picks, np.ndarray):
        return relax.op.take(x, node.expr(1), axis, mode="wrap")
    size = shape_of(x)[axis]
    if picks.size and not -size <= picks.min() <= picks.max() < size:
        raise node.error(f"picks elements {picks.min()} to {picks.max()} of axis {axis}, which has {size}")
    return relax.op.take(x, as_expr(picks % size), axis, mode="clip")


def one_hot(node: Node) -> relax.Expr:
    """``values[1]`` where the position along a new axis equals the index, ``values[0]`` elsewhere.

    An index from -depth on counts from the end; one outside of that range gives ``values[0]`` everywhere.
    """
    indices, depth = node.expr(0), int(node.constant(1).item())
    rank, dtype = rank_of(indices), dtype_of(indices)
    axis = node.attributes.get("axis", -1) % (rank + 1)
    positions = np.arange(depth).reshape((-1,) + (1,) * (rank - axis))
    index = node.emit(relax.op.expand_dims(indices, axis))
    first, second = (aligned(places.astype(dtype), rank + 1) for places in (positions, positions - depth))
    matches = [node.emit(relax.op.equal(index, first))]
    if not dtype.startswith("u"):
        matches.append(node.emit(relax.op.equal(index, second)))
    hit = reduce(lambda one, other: node.emit(relax.op.logical_or(one, other)), matches)
    values = node.required(2)
    if isinstance(values, np.ndarray):
        off, on = (aligned(np.array(value, values.dtype), rank + 1) for value in values)
    else:
        off, on = (
            node.emit(relax.op.reshape(node.emit(relax.op.take(values, relax.const(i, "int64"), 0)), (1,) * (rank + 1)))
            for i in (0, 1)
        )
    return relax.op.where(hit, on, off)


def compress(node: Node) -> relax.Expr:
    """The elements along an axis where a constant condition holds."""
    x, condition = node.expr(0), node.constant(1).astype(bool)
    axis = node.attributes.get("axis")
    if axis is None:
        x, axis = node.emit(relax.op.reshape(x, (-1,))), 0
    return relax.op.take(x, as_expr(np.flatnonzero(condition)), axis, mode="clip")


def reverse_sequence(node: Node) -> relax.Expr:
    """The first ``sequence_lens[b]`` elements of every sample b in reverse order, the others as they are."""
    x, lengths = node.expr(0), node.expr(1)
    batch, time = node.attributes.get("batch_axis", 1), node.attributes.get("time_axis", 0)
    shape = shape_of(x)
    if {batch, time} != {0, 1}:
        raise node.error(f"has batch_axis={batch} and time_axis={time}; expected 0 and 1, or 1 and 0")
    steps = as_expr(np.arange(shape[time], dtype=np.int64).reshape((1, -1) if time else (-1, 1)))
    ends = node.emit(relax.op.reshape(node.emit(relax.op.astype(lengths, "int64")), (-1, 1) if time else (1, -1)))
    mirrored = node.emit(relax.op.subtract(node.emit(relax.op.subtract(ends, relax.const(1, "int64"))), steps))
    places = node.emit(relax.op.where(node.emit(relax.op.less(steps, ends)), mirrored, steps))
    places = node.emit(relax.op.reshape(places, shape[:2] + (1,) * (len(shape) - 2)))
    return relax.op.gather_elements(x, node.emit(relax.op.broadcast_to(places, shape)), axis=time)


CONVERTERS: dict[str, Converter] = {
    "Compress": compress,
    "Gather": gather,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
}
