"""The Relax operators that become functions and reductions of epilogues."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

from tvm.relax import Expr

from sbnn_tvm.schedules.epilogue.program import Reduction
from sbnn_tvm.schedules.tir.functions import Function

from .graph import channel_axis, op_name, shape

FUNCTIONS: Mapping[str, Function] = {name: name for name in get_args(Function)}
"""By the name of the operator (without ``relax.``), a function of one number, which has a known error."""

REDUCTIONS: Mapping[str, Reduction] = {"sum": "row_sum", "mean": "row_mean", "max": "row_max", "min": "row_min"}
"""By the name of the operator, a reduction over the channels."""


def reduces_channels(value: Expr) -> bool:
    """Whether a value is a reduction of a tensor of 2 to 4 axes over its channels, which stay as an axis of size 1."""
    if op_name(value) not in REDUCTIONS or value.attrs.axis is None or not value.attrs.keepdims:
        return False
    extent = shape(value.args[0])
    axes = [int(axis) % len(extent) for axis in value.attrs.axis]
    return 2 <= len(extent) <= 4 and axes == [channel_axis(extent)] and str(value.args[0].ty.dtype) == "float32"
