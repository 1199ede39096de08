"""Recognise the bilinear resampling of feature maps. Nearest pixels are selections (selections.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.relax import Expr, Var

from sbnn_tvm.schedules.elementwise.resampling import AxisTaps

from .graph import op_name, shape


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


def bilinear(value: Expr) -> Resampled | None:
    """The resampling that an ``image.resize2d`` computes, if it is bilinear; None for any other value."""
    if op_name(value) != "image.resize2d":
        return None
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
