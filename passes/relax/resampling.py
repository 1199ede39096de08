"""Recognise the linear and cubic resampling of feature maps. Nearest pixels are selections (selections.py)."""

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


def resampled(value: Expr) -> Resampled | None:
    """The resampling that an ``image.resize2d`` computes, if it is linear or cubic; None for any other value."""
    if op_name(value) != "image.resize2d":
        return None
    attrs, source = value.attrs, value.args[0]
    method = str(attrs.method)
    if method not in ("linear", "cubic") or str(attrs.layout) != "NCHW" or str(source.ty.dtype) != "float32":
        return None
    alpha = float(attrs.cubic_alpha) if method == "cubic" else None
    sizes = [int(size) for size in value.args[1].values]
    mode = str(attrs.coordinate_transformation_mode)
    taps = [_taps(mode, inputs, outputs, alpha) for inputs, outputs in zip(shape(source)[2:], sizes, strict=True)]
    if not isinstance(source, Var) or taps[0] is None or taps[1] is None:
        return None
    return Resampled(source, taps[0], taps[1])


def _taps(mode: str, inputs: int, outputs: int, alpha: float | None) -> AxisTaps | None:
    """The two nearest positions of each output and their weights; the four nearest with a coefficient of cubics."""
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
    past = x - below
    if alpha is None:
        first, weights = 0, [1 - past, past]
    else:
        first = -1
        weights = [_far(1 + past, alpha), _near(past, alpha), _near(1 - past, alpha), _far(2 - past, alpha)]
    indices = np.clip(np.stack([below + first + tap for tap in range(len(weights))], axis=1), 0, inputs - 1)
    return AxisTaps(indices.astype(np.int32), np.stack(weights, axis=1).astype(np.float32))


def _near(distance: np.ndarray, alpha: float) -> np.ndarray:
    """The cubic kernel for distances up to 1."""
    return ((alpha + 2) * distance - (alpha + 3)) * distance**2 + 1


def _far(distance: np.ndarray, alpha: float) -> np.ndarray:
    """The cubic kernel for distances from 1 to 2."""
    return ((distance - 5) * distance + 8) * distance * alpha - 4 * alpha
