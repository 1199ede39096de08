"""Weights that take few values but for rounding, or but for a few zeros: set each to the value that it stands for.

Training code often computes binary weights by straight-through arithmetic, ``a * sign(w) - clamp(w) + clamp(w)``. In
float32 that gives a few neighbours of -a and +a instead of two values. ``sign(w)`` also gives 0 where w is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .exceptional_weights import MOST_EXCEPTIONS, without_exceptions
from .weight_planes import WeightPlanes
from .weights import BinaryWeight

MOST_CHANGE = 2.0**-16
"""The largest change of a weight, relative to the largest weight of its output channel: 1.5e-5. The roundings of
straight-through arithmetic are below it if the scale of the weights is at least 1/256 of what cancels. The sums of a
layer change by less than rounding may change them (``verification/thresholds.py`` allows 2^-15)."""

MOST_ZEROS = 0.01
"""The largest share of zeros that may count as signs of 0; one zero always may. Ternary weights have far more."""

_SAMPLE = 4096
"""About this many values of a channel are counted to find the most frequent one."""


@dataclass(frozen=True)
class WeightChange:
    """How the weights of a compiled layer differ from those of the model.

    Attributes:
        relative: The largest change of a weight that is not 0, relative to the largest weight of its output channel.
        zeros: Number of weights that are 0 in the model, and -a or +a here.
        sign_of_zero: The sign that these have: -1 or +1; 0 if there are none.
    """

    relative: float
    zeros: int = 0
    sign_of_zero: int = 0


def snapped(weight: np.ndarray, sign_of_zero: int = 0) -> tuple[np.ndarray, WeightChange] | None:
    """Set weights to two values per output channel, if they are that but for rounding or a few zeros.

    If that fails, set them to three or four evenly spaced values, which are two planes of signs (weight_planes.py).

    All channels get the same two values if that is possible, else each channel its own. Values that differ in their
    sign alone become -a and +a with one a, so that no offset remains. Of the values that a channel has, the most
    frequent one is taken, so that most weights keep their value.

    Example: [0.25, -0.25, 0.24999999, 0.25] becomes [0.25, -0.25, 0.25, 0.25].

    Args:
        weight: float32 [OC, ...].
        sign_of_zero: The sign that a zero gets where the other weights of its channel are -a and +a: -1 or +1. With 0
            it keeps its value, the third of its channel.

    Returns:
        The new weights, and how they differ; a few that are far from both values are kept. None if the weights are of
        use as they are, or not close to such weights.
    """
    if not np.isfinite(weight).all() or BinaryWeight.of(weight) is not None:
        return None
    flat = weight.reshape(len(weight), -1)
    for rows, candidates in (
        (flat.reshape(1, -1), lambda row, most: _two_values(row, most, 0)),
        (flat, lambda row, most: _two_values(row, most, sign_of_zero)),
        (flat, lambda row, most: _two_values_and_exceptions(row, most, sign_of_zero)),
        (flat, _few_values),
    ):
        if (found := _snapped_rows(rows, candidates)) is None:
            continue
        new = found.reshape(weight.shape)
        change = _change(weight, new, sign_of_zero)
        if _is_of_use(new) and change.zeros <= max(1, MOST_ZEROS * weight.size):
            return (new, change) if change.relative or change.zeros else None
    return None


def _is_of_use(weight: np.ndarray) -> bool:
    """Whether a layer with such weights becomes sums of signs (phases/recognise.py)."""
    return any(find(weight) is not None for find in (BinaryWeight.of, without_exceptions, WeightPlanes.of))


_Candidates = Callable[[np.ndarray, float], Iterator[np.ndarray | None]]


def _snapped_rows(rows: np.ndarray, candidates: _Candidates) -> np.ndarray | None:
    """The first candidate of each row; None if a row has none."""
    new = np.empty_like(rows)
    for row, to in zip(rows, new, strict=True):
        most = MOST_CHANGE * float(np.abs(row).max())
        candidate = next((each for each in candidates(row, most) if each is not None), None)
        if candidate is None:
            return None
        to[:] = candidate
    return new


def _two_values(row: np.ndarray, most: float, sign_of_zero: int) -> Iterator[np.ndarray | None]:
    """Two-valued versions of a row, the best first; None for one that is more than ``most`` from it."""
    yield _one_size(row, most, 0)
    yield _two_clusters(row, most)
    if sign_of_zero and (row > 0).any() and (row < 0).any():
        yield _one_size(row, most, sign_of_zero)


def _two_values_and_exceptions(row: np.ndarray, most: float, sign_of_zero: int) -> Iterator[np.ndarray | None]:
    """The same, and last the version that keeps a few weights as they are."""
    yield from _two_values(row, most, sign_of_zero)
    yield _but_for_exceptions(row, most)


def _few_values(row: np.ndarray, most: float) -> Iterator[np.ndarray | None]:
    """Versions of a row of up to four evenly spaced values, the best first; None for one that is too far from it."""
    yield from _two_values(row, most, 0)
    if (size := _one_size(row[row != 0], most, 0)) is not None:
        ternary = np.zeros_like(row)
        ternary[row != 0] = size
        yield ternary
    row = row.astype(np.float64)
    low, high = row.min(), row.max()
    for steps in (2, 3):
        even = low + (high - low) / steps * np.rint((row - low) / (high - low) * steps)
        even[np.abs(even) <= most] = 0
        yield even if np.abs(even - row).max() <= most else None


def _one_size(row: np.ndarray, most: float, sign_of_zero: int) -> np.ndarray | None:
    """-a and +a; a row of zeros stays. A zero among other values gets ``sign_of_zero``, or forbids it if that is 0."""
    nonzero = row != 0
    if not nonzero.any():
        return row
    if sign_of_zero == 0 and not nonzero.all():
        return None
    sizes = np.abs(row[nonzero])
    if np.ptp(sizes) > most:
        return None
    return np.where(nonzero, np.sign(row), sign_of_zero) * _most_frequent(sizes)


def _two_clusters(row: np.ndarray, most: float) -> np.ndarray | None:
    upper = row > (row.min() + row.max()) / 2
    new = np.empty_like(row)
    for cluster in (upper, ~upper):
        values = row[cluster]
        if np.ptp(values) > most:
            return None
        new[cluster] = 0.0 if (values == 0).any() else _most_frequent(values)
    return new


def _but_for_exceptions(row: np.ndarray, most: float) -> np.ndarray | None:
    """Two values, beside a few others that stay as they are (exceptional_weights.py)."""
    first = _most_frequent(row)
    others = row[np.abs(row - first) > most]
    second = _most_frequent(others) if len(others) else first
    if abs(first + second) <= most:
        second = -first
    near = np.abs(row[:, None] - [first, second]) <= most
    if np.count_nonzero(~near.any(axis=1)) > MOST_EXCEPTIONS * len(row) + 1:
        return None
    return np.where(near[:, 0], first, np.where(near[:, 1], second, row))


def _most_frequent(values: np.ndarray) -> float:
    distinct, counts = np.unique(values[:: max(1, values.size // _SAMPLE)], return_counts=True)
    return float(distinct[np.argmax(counts)])


def _change(old: np.ndarray, new: np.ndarray, sign_of_zero: int) -> WeightChange:
    old, new = old.reshape(len(old), -1), new.reshape(len(old), -1)
    relative, zeros = 0.0, 0
    for before, after in zip(old, new, strict=True):
        moved = after - before  # exact: the two are close, or one of them is 0
        if not moved.any():
            continue
        signed = (before == 0) & (moved != 0)
        zeros += int(np.count_nonzero(signed))
        moved[signed] = 0
        relative = max(relative, float(np.abs(moved).max()) / float(np.abs(before).max()))
    return WeightChange(relative, zeros, sign_of_zero if zeros else 0)
