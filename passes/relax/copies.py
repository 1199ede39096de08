"""Recognise permutations of axes, slices and single indices as strided views."""

from __future__ import annotations

from tvm.ir import Call
from tvm.relax import Expr
from tvm.tirx import IntImm

from sbnn_tvm.schedules.elementwise.strided_copy import StridedView

from .graph import op_name, shape


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
