"""Recognise circular shifts of channels over the image, in the one form that the phase ``shift_pixels`` writes.

The form is ``reshape(take(reshape(x, [N, C * H * W]), indices), [N, C, H, W])``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.relax import Expr, Var

from .graph import Graph, constant, op_name, shape


@dataclass(frozen=True, eq=False)
class Shift:
    """A circular shift of each channel of a feature map.

    Attributes:
        source: The feature map that is shifted.
        shifts: How many rows down and columns right each channel moves, int64 [C, 2].
    """

    source: Var
    shifts: np.ndarray


def shift_of(graph: Graph, value: Expr) -> Shift | None:
    """Match the ``reshape`` that ends a shift; None for any other value."""
    take = graph.producer(value.args[0], "take") if op_name(value) == "reshape" else None
    flat = graph.producer(take.args[0], "reshape") if take is not None else None
    if take is None or flat is None or not isinstance(flat.args[0], Var):
        return None
    extent, indices = tuple(int(size) for size in value.args[1]), constant(take.args[1])
    if len(extent) != 4 or shape(flat.args[0]) != extent or indices is None or indices.size != np.prod(extent[1:]):
        return None
    found = shifts_of(indices.reshape(extent[1:]))
    if found is None or not np.array_equal(found[0], np.arange(extent[1])):
        return None
    return Shift(flat.args[0], found[1])


def shifts_of(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Decompose a gather of elements into a source channel and a circular shift for each channel.

    For one channel of 1 x 4 pixels, the indices [3, 0, 1, 2] are a shift by 0 rows and 1 column.

    Args:
        indices: For each element of the result its flat index in a feature map of the same size, [C, H, W].

    Returns:
        The source channel of each channel, int64 [C], and how many rows down and columns right it moves, int64 [C, 2];
        None if a channel is not a circular shift of one channel.
    """
    _, height, width = indices.shape
    source, rest = np.divmod(indices, height * width)
    y, x = np.divmod(rest, width)
    dy, dx = -y[:, :1, :1] % height, -x[:, :1, :1] % width
    same = (source == source[:, :1, :1]).all()
    moved = (y == (np.arange(height)[:, None] - dy) % height).all() and (x == (np.arange(width) - dx) % width).all()
    if not same or not moved:
        return None
    return source[:, 0, 0], np.stack([dy[:, 0, 0], dx[:, 0, 0]], axis=1)
