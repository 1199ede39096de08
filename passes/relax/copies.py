"""Recognise permutations of axes and slices as strided views."""

from __future__ import annotations

from tvm.ir import Call
from tvm.relax import Expr

from sbnn_tvm.schedules.elementwise.strided_copy import StridedView

from .graph import op_name, shape


def copied_view(value: Expr, out: tuple[int, ...]) -> StridedView | None:
    """The view that a ``permute_dims`` or ``strided_slice`` of shape ``out`` copies of its operand; None for others."""
    if op_name(value) == "permute_dims":
        extent = shape(value.args[0])
        axes = range(len(extent))[::-1] if value.attrs.axes is None else value.attrs.axes
        return StridedView.of(extent).permuted(tuple(int(axis) % len(extent) for axis in axes))
    if op_name(value) == "strided_slice":
        return _slice(value, out)
    return None


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
