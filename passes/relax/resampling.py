"""Recognise the resampling of feature maps: ``take`` along rows or columns, and bilinear ``image.resize2d``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.relax import Expr, Var

from sbnn_tvm.schedules.elementwise.resampling import AxisTaps

from .graph import Graph, constant, op_name, shape


@dataclass(frozen=True, eq=False)
class Resampled:
    """A feature map whose rows and columns are taken from another.

    Attributes:
        source: The other map [N, C, H, W].
        rows, columns: What each row and column reads.
    """

    source: Var
    rows: AxisTaps
    columns: AxisTaps


def taken_pixels(value: Expr) -> tuple[int, AxisTaps] | None:
    """The axis, 2 or 3, and the indices of a ``take`` along rows or columns of a feature map of float32."""
    if op_name(value) != "take" or value.attrs.axis is None or str(value.args[0].ty.dtype) != "float32":
        return None
    extent, indices = shape(value.args[0]), constant(value.args[1])
    axis = int(value.attrs.axis) % len(extent)
    if len(extent) != 4 or axis < 2 or indices is None or indices.ndim != 1 or not indices.size:
        return None
    inside = indices.min() >= 0 and indices.max() < extent[axis]
    return (axis, AxisTaps(indices.astype(np.int32)[:, None])) if inside else None


def resampled(graph: Graph, value: Expr, first: Var | None = None) -> Resampled | None:
    """The resampling that a value computes; None for any other value.

    Args:
        graph: The function.
        value: A ``take`` or an ``image.resize2d``.
        first: A ``take`` along the other axis that belongs to it, if there is one.
    """
    if op_name(value) == "image.resize2d":
        return _bilinear(value)
    last = taken_pixels(value)
    if last is None:
        return None
    source = value.args[0]
    taps = {axis: AxisTaps.identity(shape(source)[axis]) for axis in (2, 3)}
    taps[last[0]] = last[1]
    if first is not None:
        before = taken_pixels(graph.values[first])
        if before is None:
            return None
        source = graph.values[first].args[0]
        taps[before[0]] = before[1]
    return Resampled(source, taps[2], taps[3]) if isinstance(source, Var) else None


def first_take(graph: Graph, value: Expr) -> Var | None:
    """The ``take`` along the other axis that a ``take`` reads, if nothing else reads that."""
    last = taken_pixels(value)
    source = value.args[0] if last is not None else None
    if last is None or source not in graph.values or source in graph.results or len(graph.users[source]) != 1:
        return None
    before = taken_pixels(graph.values[source])
    return source if before is not None and before[0] != last[0] else None


def _bilinear(value: Expr) -> Resampled | None:
    attrs, source = value.attrs, value.args[0]
    if str(attrs.method) != "linear" or str(attrs.layout) != "NCHW" or str(source.ty.dtype) != "float32":
        return None
    sizes = [int(size) for size in value.args[1].values]
    mode = str(attrs.coordinate_transformation_mode)
    taps = [_linear(mode, inputs, outputs) for inputs, outputs in zip(shape(source)[2:], sizes, strict=True)]
    if not isinstance(source, Var) or taps[0] is None or taps[1] is None:
        return None
    return Resampled(source, taps[0], taps[1])


def _linear(mode: str, inputs: int, outputs: int) -> AxisTaps | None:
    """The two nearest positions of each output, and their weights."""
    at = np.arange(outputs)
    if mode == "align_corners":
        x = at * ((inputs - 1) / max(outputs - 1, 1))
    elif mode == "asymmetric":
        x = at * (inputs / outputs)
    elif mode in ("half_pixel", "pytorch_half_pixel"):
        x = (at + 0.5) * (inputs / outputs) - 0.5
        x = x if outputs > 1 or mode == "half_pixel" else np.zeros(1)
    else:
        return None
    below = np.floor(x)
    above = x - below
    indices = np.clip(np.stack([below, below + 1], axis=1), 0, inputs - 1)
    return AxisTaps(indices.astype(np.int32), np.stack([1 - above, above], axis=1).astype(np.float32))
