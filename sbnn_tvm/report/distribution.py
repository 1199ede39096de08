"""How numbers are distributed: the distinct values if there are few, otherwise a histogram."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_DISTINCT = 16
"""Up to this many distinct values are listed; more are counted in as many equal intervals."""


@dataclass(frozen=True)
class Bar:
    """The numbers from ``low`` to ``high``; of one distinct value both are that value.

    Attributes:
        low, high: The bounds. The upper bound belongs to the next bar, but that of the last one to itself.
        count: How many numbers there are.
    """

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Distribution:
    """How the numbers of an array are distributed.

    Attributes:
        shape: Shape of the array.
        dtype: Its type.
        distinct: Number of distinct values; a NaN is none, and 0 and -0 are one.
        most_per_channel: The largest number of distinct values of one channel.
        not_finite: Number of NaN and infinities, which no bar counts.
        bars: In ascending order.
    """

    shape: tuple[int, ...]
    dtype: str
    distinct: int
    most_per_channel: int
    not_finite: int
    bars: tuple[Bar, ...]

    @classmethod
    def of(cls, array: np.ndarray, channel_axis: int) -> Distribution:
        """The distribution of an array.

        Args:
            array: The array.
            channel_axis: The axis of its channels.
        """
        channels = np.moveaxis(array, channel_axis, 0) if array.ndim else array[None]
        finite = array[np.isfinite(array)].astype(np.float64)
        values, counts = np.unique(finite, return_counts=True)
        per_channel = max((len(np.unique(each[np.isfinite(each)])) for each in channels), default=0)
        if len(values) <= MOST_DISTINCT:
            bars = [Bar(value, value, count) for value, count in zip(values.tolist(), counts.tolist(), strict=True)]
        else:
            found, edges = np.histogram(finite, MOST_DISTINCT)
            bounds = zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            bars = [Bar(low, high, count) for (low, high), count in zip(bounds, found.tolist(), strict=True)]
        not_finite = array.size - finite.size
        return cls(array.shape, str(array.dtype), len(values), per_channel, not_finite, tuple(bars))
