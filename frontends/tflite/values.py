"""A value of the graph under conversion: which ONNX value holds it, and with its axes in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CHANNELS_FIRST = (0, 3, 1, 2)
"""How images are stored in ONNX, NCHW: the axis of the file, NHWC, that each axis of the ONNX value is."""


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the file as an ONNX value.

    Attributes:
        name: The ONNX value; for a constant, the name that its initialisers begin with.
        dtype: The element type, as numpy names it.
        shape: The sizes in the file's order of axes.
        order: Axis ``i`` of the ONNX value is axis ``order[i]`` of the file's tensor.
        array: The elements of a constant, in the file's order of axes.
        packed: Whether the file packs the value into words of 32 bits along the last axis. Here its elements are
            float32 -1 and +1, and ``shape`` counts them.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    order: tuple[int, ...]
    array: np.ndarray | None = None
    packed: bool = False

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """The shape of the ONNX value."""
        return tuple(self.shape[axis] for axis in self.order)

    def stored_axis(self, axis: int) -> int:
        """Where the ONNX value has an axis of the file's tensor."""
        return self.order.index(axis)


def plain(rank: int) -> tuple[int, ...]:
    """The order of axes of the file itself."""
    return tuple(range(rank))


def without_axes(order: Sequence[int], axes: Sequence[int]) -> tuple[int, ...]:
    """The order of the axes that are left, numbered anew."""
    left = [axis for axis in order if axis not in axes]
    return tuple(sorted(left).index(axis) for axis in left)


def moves_elements(order: Sequence[int], other: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether a tensor of this shape lies differently in memory in two orders of axes; those of size 1 do not count."""
    return [axis for axis in order if shape[axis] != 1] != [axis for axis in other if shape[axis] != 1]
