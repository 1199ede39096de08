"""FINN's MultiThreshold: an activation of a few levels as the number of thresholds that are reached.

Source: https://github.com/fastmachinelearning/qonnx, qonnx/custom_op/general/multithreshold.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from .comparison import chosen
from .dialect_node import DialectNode

_MOST_COMPARED = 15
"""Most thresholds that are compared one by one: those of 4 bits. More are counted by a division, or searched."""
_LAYOUTS = {2: "NC", 3: "NWC", 4: "NCHW"}
"""The layout of a tensor that no attribute tells, by its number of dimensions."""


def multi_threshold(node: DialectNode) -> str:
    """``MultiThreshold(x, thresholds)``: ``out_scale * (number of thresholds <= x) + out_bias``.

    ``thresholds`` is [C, B], one row per channel, or [1, B]. ``data_layout`` says which axis has the channels.
    """
    x, given = node.input(0), node.constant(1, "thresholds")
    given = given.reshape(1, 1) if given.ndim == 0 else given
    if given.ndim != 2:
        raise node.error(f"has thresholds of shape {list(given.shape)}; expected one row per channel, or one row")
    if np.isnan(given).any():
        raise node.error("has a threshold that is not a number; export it again")
    thresholds = np.sort(_in_float32(given), axis=1)  # the count does not depend on their order
    if (thresholds == thresholds[:1]).all():
        thresholds = thresholds[:1]
    scale, bias = (np.float32(node.attribute(*each)) for each in (("out_scale", 1.0), ("out_bias", 0.0)))
    axes_after = 0 if len(thresholds) == 1 else _axes_after_channels(node, x)
    if thresholds.shape[1] == 1:
        hi, lo = (np.asarray(scale * np.float32(count) + bias) for count in (1, 0))
        return chosen(node, x, _by_channel(thresholds[:, 0], axes_after), hi, lo, "chosen")
    if thresholds.shape[1] <= _MOST_COMPARED:
        count = _compared(node, x, thresholds, axes_after)
    elif (grid := _grid(thresholds)) is not None:
        count = grid.write(node, x, axes_after)
    else:
        count = _searched(node, x, thresholds, axes_after)
    if scale != 1:
        count = node.emit("Mul", count, np.asarray(scale), part="scaled")
    return node.emit("Add", count, np.asarray(bias), part="biased") if bias != 0 else count


def _in_float32(thresholds: np.ndarray) -> np.ndarray:
    """The least float32 numbers that are not below the thresholds, which x reaches at the same time."""
    nearest = thresholds.astype(np.float32)
    return np.where(nearest < thresholds, np.nextafter(nearest, np.float32(np.inf)), nearest)


def _axes_after_channels(node: DialectNode, x: str) -> int:
    layout, rank = node.attribute("data_layout", ""), node.rank(x)
    if rank is None and not layout:
        raise node.error("has thresholds per channel, but neither data_layout nor a known shape; infer shapes first")
    if not layout or (rank is not None and rank != len(layout)):
        layout = _LAYOUTS.get(rank or 0, "")
    if "C" in layout:
        return len(layout) - 1 - layout.index("C")
    return (rank or len(layout)) - 2


def _by_channel(values: np.ndarray, axes_after: int) -> np.ndarray:
    """One value per channel in a shape that broadcasts; a number if there is one for all."""
    return values.reshape(()) if values.size == 1 else values.reshape(-1, *[1] * axes_after)


def _compared(node: DialectNode, x: str, thresholds: np.ndarray, axes_after: int) -> str:
    one, zero = np.float32(1), np.float32(0)
    total = ""
    for index, column in enumerate(thresholds.T):
        part = f"level_{index + 1}"
        reached = chosen(node, x, _by_channel(column, axes_after), np.asarray(one), np.asarray(zero), part)
        total = node.emit("Add", total, reached, part=f"up_to_{part}") if total else reached
    return total


@dataclass(frozen=True, eq=False)
class _Grid:
    """Evenly spaced thresholds: every ``every``-th multiple of ``unit``, from ``first * unit`` on.

    Attributes:
        unit: float32 [rows, 1].
        first: Whole numbers, float32 [rows, 1].
        every: 1 or 2. Thresholds halfway between multiples of a step are odd multiples of half a step.
        count: Thresholds per row.
    """

    unit: np.ndarray
    first: np.ndarray
    every: int
    count: int

    def counted(self, x: np.ndarray) -> np.ndarray:
        """How many thresholds x reaches, in the operations of ``write``."""
        low = self.first - self.every
        above = np.clip(np.floor(x / self.unit), low, low + self.every * self.count) - low
        return np.asarray(np.floor(above * np.float32(1 / self.every)))

    def write(self, node: DialectNode, x: str, axes_after: int) -> str:
        """The count in standard operators. A NaN stays one."""
        unit, low = (_by_channel(each[:, 0], axes_after) for each in (self.unit, self.first - self.every))
        place = node.emit("Floor", node.emit("Div", x, unit, part="units"), part="place")
        high = low + np.float32(self.every * self.count)
        limited = node.emit("Min", node.emit("Max", place, low, part="limited_below"), high, part="limited")
        above = node.emit("Sub", limited, low, part="above")
        if self.every == 1:
            return above
        return node.emit("Floor", node.emit("Mul", above, np.array(0.5, np.float32), part="halved"), part="count")


def _grid(thresholds: np.ndarray) -> _Grid | None:
    """The grid that counts the thresholds of all rows exactly; None if there is none.

    The count is a rising function of x. So it is right for every float32 number if it is right at each threshold and at
    the number before it.
    """
    count = thresholds.shape[1]
    step = (thresholds[:, -1:] - thresholds[:, :1]) / np.float32(count - 1)
    if not (np.isfinite(thresholds).all() and (step > 0).all()):
        return None
    below, codes = np.nextafter(thresholds, np.float32(-np.inf)), np.arange(count)
    for every in (1, 2):
        unit = step / np.float32(every)
        grid = _Grid(unit, np.rint(thresholds[:, :1] / unit), every, count)
        if (grid.counted(thresholds) > codes).all() and (grid.counted(below) <= codes).all():
            return grid
    return None


def _searched(node: DialectNode, x: str, thresholds: np.ndarray, axes_after: int) -> str:
    """The count by bisection, from its highest binary digit down: 8 comparisons for 255 thresholds.

    The thresholds of all channels are one array. Every channel has 2^n - 1 of them, the missing ones infinite.
    """
    channels, count = thresholds.shape
    digits = count.bit_length()
    row = (1 << digits) - 1
    table = np.full((channels, row), np.inf, np.float32)
    table[:, :count] = thresholds
    code = ""
    for digit in reversed(range(digits)):
        value = np.int64(1 << digit)
        part = f"digit_{digit}"
        if not code:
            middle = _by_channel(table[:, int(value) - 1], axes_after)
            code = chosen(node, x, middle, np.asarray(value), np.asarray(np.int64(0)), part)
            continue
        higher = node.emit("Add", code, np.asarray(value), part=f"{part}_set")
        first = _by_channel(np.arange(channels, dtype=np.int64) * row - 1, axes_after)
        place = node.emit("Add", higher, first, part=f"{part}_place")
        threshold = node.emit("Gather", table.reshape(-1), place, part=f"{part}_threshold", axis=0)
        code = chosen(node, x, threshold, higher, code, part)
    found = node.emit("Cast", code, part="count", to=TensorProto.FLOAT)
    if row == count:
        return found
    return node.emit("Min", found, np.asarray(np.float32(count)), part="limited")  # infinity reaches the missing ones
