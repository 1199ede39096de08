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
    """The first ``sequence_lens[b]`` elements of every sample b in reverse order, the others as they are.

    A length at run time that the sequence does not have counts as 0 or as the whole sequence.
    """
    x, lengths = node.expr(0), node.value(1)
    batch, time = node.attributes.get("batch_axis", 1), node.attributes.get("time_axis", 0)
    shape = shape_of(x)
    if {batch, time} != {0, 1}:
        raise node.error(f"has batch_axis={batch} and time_axis={time}; expected 0 and 1, or 1 and 0")
    size = np.int64(shape[time])
    if isinstance(lengths, np.ndarray) and (lengths.min(initial=0) < 0 or lengths.max(initial=0) > size):
        raise node.error(f"has sequence_lens {lengths.tolist()}; expected numbers from 0 to {size}")
    steps = as_expr(np.arange(shape[time], dtype=np.int64).reshape((1, -1) if time else (-1, 1)))
    wide = node.emit(relax.op.astype(node.expr(1), "int64"))
    inside = node.emit(relax.op.maximum(wide, relax.const(np.int64(0), "int64")))
    inside = node.emit(relax.op.minimum(inside, relax.const(size, "int64")))
    ends = node.emit(relax.op.reshape(inside, (-1, 1) if time else (1, -1)))
    mirrored = node.emit(relax.op.subtract(node.emit(relax.op.subtract(ends, relax.const(1, "int64"))), steps))
    places = node.emit(relax.op.where(node.emit(relax.op.less(steps, ends)), mirrored, steps))
    places = node.emit(relax.op.reshape(places, shape[:2] + (1,) * (len(shape) - 2)))
    return relax.op.gather_elements(x, node.emit(relax.op.broadcast_to(places, shape)), axis=time)


def slice_(node: Node) -> relax.Expr:
    """A part of each axis: from a start to an end, forwards or backwards by a step."""
    x = node.expr(0)
    shape = shape_of(x)
    if node.opset < 10:
        starts, ends = list(node.attribute("starts")), list(node.attribute("ends"))
        axes, steps = node.attributes.get("axes"), None
    else:
        starts, ends = (node.constant(index).reshape(-1).tolist() for index in (1, 2))
        axes, steps = (
            None if node.value(index) is None else node.constant(index).reshape(-1).tolist() for index in (3, 4)
        )
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise node.error(
            f"has starts {starts}, ends {ends}, axes {axes} and steps {steps}; expected as many of each, no step of 0"
        )
    if any(not -len(shape) <= axis < len(shape) for axis in axes):
        raise node.error(f"slices the axes {axes} of an input with {len(shape)} dimensions")
    picked = {}  # by axis, what Python's slices make of starts and ends out of range
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        last = None if step < 0 and end < -shape[axis] else end
        picked[axis % len(shape)] = range(shape[axis])[slice(start, last, step)]
    parts = {axis: part for axis, part in picked.items() if part != range(shape[axis])}
    if not parts:
        return x
    if any(len(part) == 0 for part in parts.values()):
        return as_expr(np.empty([len(picked.get(axis, range(dim))) for axis, dim in enumerate(shape)], dtype_of(x)))
    backwards = [axis for axis, part in parts.items() if part.step < 0]
    for axis in backwards:
        picks = as_expr(np.array(parts.pop(axis)))
        x = relax.op.take(x if not isinstance(x, relax.Call) else node.emit(x), picks, axis, mode="clip")
    if not parts:
        return x
    x = node.emit(x) if backwards else x
    begin, stop, stride = zip(*((part.start, part.stop, part.step) for part in parts.values()), strict=True)
    return relax.op.strided_slice(x, list(parts), list(begin), list(stop), list(stride), assume_inbound=True)


CONVERTERS: dict[str, Converter] = {
    "Compress": compress,
    "Gather": gather,
    "OneHot": one_hot,
    "ReverseSequence": reverse_sequence,
    "Slice": slice_,
}
