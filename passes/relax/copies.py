"""Recognise permutations of axes, slices and single indices as strided views."""

from __future__ import annotations

from math import prod

from tvm.ir import Call
from tvm.relax import Expr, Var
from tvm.tirx import IntImm

from sbnn_tvm.schedules.elementwise.strided_copy import StridedView

from .graph import Graph, op_name, shape

_RUN = 8
"""The fewest elements that are copied at once, for a copy of a map with channels last to be worth it."""


def interleaved(graph: Graph, var: Var) -> tuple[Var, StridedView] | None:
    """A map [N, C, H, W] whose rows and columns are channels of another, as after a transposed convolution.

    It is ``reshape(permute_dims(reshape(map)))``, of which the first reshape only cuts axes and the last one only joins
    them.

    Returns:
        The other map, and the view that is copied where both are stored with their channels last. None for any other
        value, and where single elements or short runs would be copied.
    """
    permute = _operand(graph, var, "reshape", "permute_dims")
    cut = None if permute is None else _operand(graph, permute, "permute_dims", "reshape")
    source = None if cut is None else graph.values[cut].args[0]
    if cut is None or permute is None or not isinstance(source, Var) or len(shape(source)) != 4 or len(shape(var)) != 4:
        return None
    if str(var.ty.dtype) != "float32" or graph.values[permute].attrs.axes is None:
        return None
    _, channels, height, width = shape(source)
    strides = (channels * height * width, 1, width * channels, channels)
    factors = _grouped(shape(source), shape(cut))
    if factors is None:
        return None
    of_factors = []
    for group, stride in zip(factors, strides, strict=True):
        of_factors += [stride * prod(group[i + 1 :]) for i in range(len(group))]
    axes = [int(axis) for axis in graph.values[permute].attrs.axes]
    order = [(shape(cut)[axis], of_factors[axis]) for axis in axes]
    groups = _grouped(shape(var), [size for size, _ in order])
    if groups is None:
        return None
    ends = [sum(map(len, groups[: i + 1])) for i in range(4)]
    n, c, h, w = (order[end - len(group) : end] for end, group in zip(ends, groups, strict=True))
    extents, steps = zip(*n, *h, *w, *c, strict=True)
    view = StridedView(prod(shape(source)), 0, extents, steps).simplified()
    return (source, view) if view.strides[-1] == 1 and view.extents[-1] >= _RUN else None


def _operand(graph: Graph, var: Var, name: str, producer: str) -> Var | None:
    """The operand of a call of one operator that another one computes."""
    value = graph.values.get(var)
    if value is None or op_name(value) != name or graph.producer(value.args[0], producer) is None:
        return None
    return value.args[0]


def _grouped(whole: tuple[int, ...], parts: tuple[int, ...] | list[int]) -> list[list[int]] | None:
    """Consecutive parts whose products are the extents of ``whole``; None if there are none."""
    rest, groups = list(parts), []
    for extent in whole:
        group: list[int] = []
        while rest and prod(group) < extent:
            group.append(rest.pop(0))
        if prod(group) != extent:
            return None
        groups.append(group)
    while rest and rest[0] == 1:
        groups[-1].append(rest.pop(0))
    return None if rest else groups


def copied_view(value: Expr, out: tuple[int, ...]) -> StridedView | None:
    """The view that a value of shape ``out`` copies of its operand.

    That is a ``permute_dims``, a ``strided_slice``, or a ``take`` of one index; None for any other value.
    """
    if op_name(value) == "permute_dims":
        extent = shape(value.args[0])
        axes = range(len(extent))[::-1] if value.attrs.axes is None else value.attrs.axes
        return StridedView.of(extent).permuted(tuple(int(axis) % len(extent) for axis in axes))
    if op_name(value) == "strided_slice":
        return _slice(value, out)
    if op_name(value) == "take":
        return _index(value)
    return None


def _index(value: Call) -> StridedView | None:
    extent, axis, index = shape(value.args[0]), value.attrs.axis, value.args[1]
    if axis is None or not isinstance(index, IntImm):
        return None
    axis, at = int(axis) % len(extent), int(index.value)
    return StridedView.of(extent).sliced(axis, at, 1, 1) if 0 <= at < extent[axis] else None


def _slice(value: Call, out: tuple[int, ...]) -> StridedView | None:
    extent = shape(value.args[0])
    fields = [[int(each.value) for each in arg.fields] for arg in value.args[1:]]
    axes, begins = fields[:2]
    steps = fields[3] if len(fields) > 3 else [1] * len(axes)
    view = StridedView.of(extent)
    for axis, begin, step in zip(axes, begins, steps, strict=True):
        size = extent[axis]
        begin = begin + size if begin < 0 else begin
        count = out[axis % len(extent)]
        if step < 1 or begin < 0 or begin + (count - 1) * step >= size:
            return None
        view = view.sliced(axis % len(extent), begin, step, count)
    return view
