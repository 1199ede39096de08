"""Recognise selections of whole channels: a ``take`` or a ``concat`` along the channel axis."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import relax
from tvm.relax import Expr, Var

from .graph import channel_axis, constant, op_name, shape


def taken_channels(value: Expr, extent: Sequence[int]) -> np.ndarray | None:
    """The indices of a ``take`` along the channel axis.

    Args:
        value: A bound value.
        extent: Shape of its result.

    Returns:
        Channel of the source for each channel of the result, integers [C]; None for any other value.
    """
    if op_name(value) != "take" or value.attrs.axis is None:
        return None
    indices = constant(value.args[1])
    if indices is None or indices.ndim != 1 or len(shape(value.args[0])) != len(extent) or len(extent) < 2:
        return None
    return indices if int(value.attrs.axis) % len(extent) == channel_axis(extent) else None


def concatenated_channels(value: Expr, extent: Sequence[int]) -> list[Var] | None:
    """The operands of a concatenation along the channel axis.

    Args:
        value: A bound value.
        extent: Shape of its result.

    Returns:
        The operands in order; None for any other value.
    """
    if op_name(value) != "concat" or len(extent) < 2 or not isinstance(value.args[0], relax.Tuple):
        return None
    fields = list(value.args[0].fields)
    axis = value.attrs.axis
    if axis is None or int(axis) % len(extent) != channel_axis(extent):
        return None
    return fields if all(isinstance(field, Var) for field in fields) else None
