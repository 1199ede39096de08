"""Recognise and write interleavings: maps whose rows and columns are channels of another map.

A transposed convolution with stride s is s * s convolutions whose results are interleaved, and a pixel shuffle is the
same without the convolutions. In Relax::

    cut    = reshape(map, [N, rows, columns, C, H, W])          the channels may also be in another order
    turned = permute_dims(cut, [0, 3, 4, 1, 5, 2])
    whole  = reshape(turned, [N, C, H * rows, W * columns])
    result = strided_slice(whole, ...)                          or takes of neighbours; rows and columns that are kept
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from tvm.relax import Expr, Var, op

from sbnn_tvm.schedules.layouts.interleaving import Interleaving

from .graph import Graph, Writer, constant, op_name, shape


@dataclass(frozen=True, eq=False)
class Interleaved:
    """A map [N, C, height, width] that interleaves the channels of others.

    Attributes:
        parts: The other maps, [N, ..., H, W], whose channels follow one another.
        interleaving: What is read.
        steps: The variables between the maps and the result, in order.
        axes: How the channels are cut and turned.
    """

    parts: tuple[Var, ...]
    interleaving: Interleaving
    steps: tuple[Var, ...]
    axes: Axes


@dataclass(frozen=True)
class Axes:
    """The shapes and the order of the axes of an interleaving.

    Attributes:
        cut: Shape after the first reshape.
        order: What the permutation of the axes is.
        whole: Shape after the last reshape.
    """

    cut: tuple[int, ...]
    order: tuple[int, ...]
    whole: tuple[int, ...]

    @classmethod
    def of_phases(cls, small: tuple[int, ...], interleaving: Interleaving) -> Axes:
        """Those of phases whose channels follow one another."""
        (rows, columns, channels), (batch, _, height, width) = interleaving.channels.shape, small
        whole = (batch, channels, height * rows, width * columns)
        return cls((batch, rows, columns, channels, height, width), (0, 3, 4, 1, 5, 2), whole)


def interleaved(graph: Graph, var: Var) -> Interleaved | None:
    """Match an interleaving of which nothing else reads an inner step; None for any other value."""
    if op_name(graph.values.get(var)) not in ("reshape", "strided_slice", "take"):
        return None
    steps: list[Var] = []
    first, extent, whole = [0, 0], list(shape(var)), var
    while len(extent) == 4 and (kept := _kept(graph, whole)) is not None:
        begins, inner = kept
        first = [first[0] + begins[0], first[1] + begins[1]]
        steps.insert(0, inner)
        whole = inner
    turned = _operand(graph, whole, "reshape", "permute_dims")
    cut = None if turned is None else _operand(graph, turned, "permute_dims", "reshape")
    source = None if cut is None else graph.values[cut].args[0]
    if turned is None or cut is None or not isinstance(source, Var):
        return None
    channels = _channels(graph, source, cut, turned, whole)
    if channels is None:
        return None
    steps = [cut, turned, *steps]
    parts: tuple[Var, ...] = (source,)
    joined = graph.producer(source, "concat")
    fields = () if joined is None or int(joined.attrs.axis) != 1 else tuple(joined.args[0].fields)
    different = len(set(fields)) == len(fields) > 0 and all(isinstance(each, Var) for each in fields)
    if different and graph.users[source] == [cut]:
        parts, steps = fields, [source, *steps]
    ends = [*steps[1:], var]
    if any(graph.users[step] != [end] or step in graph.results for step, end in zip(steps, ends, strict=True)):
        return None
    axes = Axes(shape(cut), tuple(int(axis) for axis in graph.values[turned].attrs.axes), shape(whole))
    interleaving = Interleaving(channels, first[0], first[1], extent[2], extent[3])
    return Interleaved(parts, interleaving, tuple(steps), axes)


def _kept(graph: Graph, var: Var) -> tuple[tuple[int, int], Var] | None:
    """The first row and column of another value whose neighbours a value keeps, and the other value."""
    value = graph.values.get(var)
    name = "" if value is None else op_name(value)
    if value is None or name not in ("take", "strided_slice") or not isinstance(value.args[0], Var):
        return None
    begins = [0, 0]
    if name == "take":
        picks, axis = constant(value.args[1]), value.attrs.axis
        if picks is None or picks.ndim != 1 or not picks.size or axis is None or int(axis) not in (2, 3):
            return None
        if picks[0] < 0 or (np.diff(picks) != 1).any():
            return None
        begins[int(axis) - 2] = int(picks[0])
        return (begins[0], begins[1]), value.args[0]
    axes, starts, _, *steps = [[int(each.value) for each in arg.fields] for arg in value.args[1:]]
    if not set(axes) <= {2, 3} or min(starts) < 0 or any(set(each) != {1} for each in steps):
        return None
    for axis, start in zip(axes, starts, strict=True):
        begins[axis - 2] = start
    return (begins[0], begins[1]), value.args[0]


def _channels(graph: Graph, source: Var, cut: Var, turned: Var, whole: Var) -> np.ndarray | None:
    """The channel of the source for each phase and channel, [rows, columns, C]; None if more than channels move."""
    if len(shape(source)) != 4 or len(shape(whole)) != 4 or graph.values[turned].attrs.axes is None:
        return None
    old = _grouped(shape(source), shape(cut))
    order = [int(axis) for axis in graph.values[turned].attrs.axes]
    new = _grouped(shape(whole), [shape(cut)[axis] for axis in order])
    if old is None or new is None:
        return None
    batch, channels, height, width = old
    uncut = ((batch, 0), (height, 2), (width, 3))
    if any(len(_long(shape(cut), each)) != int(shape(source)[axis] > 1) for each, axis in uncut):
        return None
    at = np.arange(shape(source)[1]).reshape([shape(cut)[axis] for axis in channels])
    of_channels = {axis: place for place, axis in enumerate(channels)}
    found: list[list[int]] = []
    for place, group in enumerate(new):
        axes = _long(shape(cut), [order[position] for position in group])
        own = (batch, [], height, width)[place]
        if place == 0 or place > 1:
            whole_axis = _long(shape(cut), own)
            if axes[: len(whole_axis)] != whole_axis:
                return None
            axes = axes[len(whole_axis) :]
        if any(axis not in of_channels for axis in axes) or (place == 0 and axes):
            return None
        found.append([of_channels[axis] for axis in axes])
    _, kept, rows, columns = found
    rest = [place for place in range(len(channels)) if place not in (*kept, *rows, *columns)]
    sizes = [prod(at.shape[place] for place in each) for each in (rows, columns, kept)]
    return at.transpose([*rest, *rows, *columns, *kept]).reshape(sizes)


def _long(extent: tuple[int, ...], axes: list[int]) -> list[int]:
    return [axis for axis in axes if extent[axis] > 1]


def _operand(graph: Graph, var: Var, name: str, producer: str) -> Var | None:
    """The operand of a call of one operator that another one computes."""
    value = graph.values.get(var)
    if value is None or op_name(value) != name or graph.producer(value.args[0], producer) is None:
        return None
    return value.args[0]


def _grouped(whole: tuple[int, ...], parts: tuple[int, ...] | list[int]) -> list[list[int]] | None:
    """The positions of consecutive parts whose products are the extents of ``whole``; None if there are none."""
    at, groups = 0, []
    for extent in whole:
        group: list[int] = []
        while at < len(parts) and prod(parts[place] for place in group) < extent:
            group.append(at)
            at += 1
        if prod(parts[place] for place in group) != extent:
            return None
        groups.append(group)
    while at < len(parts) and parts[at] == 1:
        groups[-1].append(at)
        at += 1
    return None if at < len(parts) else groups


def emit_interleaving(writer: Writer, parts: list[Expr], interleaving: Interleaving, axes: Axes, name: str) -> Expr:
    """Write an interleaving; its last step is returned. A single phase is a concatenation."""
    if interleaving.phases == 1:
        return op.concat(parts, 1)
    source = parts[0] if len(parts) == 1 else writer.emit(op.concat(parts, 1), f"{name}_phases")
    cut = writer.emit(op.reshape(source, axes.cut), f"{name}_cut")
    last: Expr = op.reshape(writer.emit(op.permute_dims(cut, list(axes.order)), f"{name}_turned"), axes.whole)
    kept = ((2, interleaving.top, interleaving.height), (3, interleaving.left, interleaving.width))
    for axis, begin, size in kept:
        if (begin, size) != (0, axes.whole[axis]):
            last = op.strided_slice(writer.emit(last, f"{name}_whole"), [axis], [begin], [begin + size])
    return last
