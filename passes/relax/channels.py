"""Selections of whole channels, as ``take`` and ``concat`` write them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.relax import Expr, Var

from .graph import channel_axis, constant, op_name, shape


def taken_channels(value: Expr, extent: Sequence[int]) -> np.ndarray | None:
    """The indices of a ``take`` of whole channels; None for anything else.

    Args:
        value: A bound value.
        extent: Shape of its result.
    """
    if op_name(value) != "take" or value.attrs.axis is None:
        return None
    indices = constant(value.args[1])
    if indices is None or indices.ndim != 1 or len(shape(value.args[0])) != len(extent) or len(extent) < 2:
        return None
    return indices if int(value.attrs.axis) % len(extent) == channel_axis(extent) else None


def concatenated_channels(value: Expr, extent: Sequence[int]) -> list[Var] | None:
    """What a concatenation along the channels puts together; None for anything else.

    Args:
        value: A bound value.
        extent: Shape of its result.
    """
    if op_name(value) != "concat" or len(extent) < 2 or not isinstance(value.args[0], relax.Tuple):
        return None
    fields = list(value.args[0].fields)
    axis = value.attrs.axis
    if axis is None or int(axis) % len(extent) != channel_axis(extent):
        return None
    return fields if all(isinstance(field, Var) for field in fields) else None
