"""Say in words which values constant weights take, and what keeps them from being two per output channel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .snapped_weights import snapped

MOST_LISTED = 16
_NEAR = 0.01
"""Weights within this share of the largest of two values are called close to them."""


def in_words(weight: np.ndarray) -> str:
    """What weights [OC, ...] are that are not binary, and what to change where that is known.

    Examples::

        its weights take 3 values in output channel 0: -0.21, 0, 0.21 (ternary)
        2 of its 9,216 weights are 0, the first at [3, 0, 1, 1], the others of a channel -a and +a (...)
    """
    rows = weight.reshape(len(weight), -1)
    if not np.isfinite(rows).all():
        return f"its weights in output channel {int(np.argmin(np.isfinite(rows).all(axis=1)))} are not all finite"
    if rows.shape[1] <= 2:
        return f"it has no more than {rows.shape[1]} weights per output channel"
    if (found := snapped(weight)) is not None:
        far = found[1].relative
        return f"its weights take few values but for rounding ({far:.1e} of the largest), and exact_weights keeps them"
    if (zeros := _zeros_between_signs(weight)) is not None:
        return zeros
    return _scaled_by_input(weight) or _number_of_values(rows)


def _zeros_between_signs(weight: np.ndarray) -> str | None:
    """Zeros that would be signs with sign_zero, as words; None if there are none, or more."""
    found = snapped(weight, 1)
    if found is None or not found[1].zeros:
        return None
    dead = (weight == 0).reshape(len(weight), -1).all(axis=1)
    first = np.argwhere((weight == 0) & ~dead.reshape(-1, *[1] * (weight.ndim - 1)))[0].tolist()
    count = found[1].zeros
    which = f"{count:,} of its {weight.size:,} weights {'is' if count == 1 else 'are'} 0"
    return (
        f"{which}, {'' if count == 1 else 'the first '}at {first}, and the others -a and +a "
        "(pass sign_zero='positive' or 'negative')"
    )


def _scaled_by_input(weight: np.ndarray) -> str | None:
    """Signs times one scale per input channel, as words; None for other weights."""
    if weight.ndim < 2 or weight.shape[1] < 2 or not weight.all():
        return None
    sizes = np.abs(weight.astype(np.float64)).swapaxes(0, 1).reshape(weight.shape[1], -1)
    if (np.ptp(sizes, axis=1) > 1e-5 * sizes.max(axis=1)).any():
        return None
    return (
        f"its weights are signs times a scale per input channel, from {sizes.min():.4g} to {sizes.max():.4g}; "
        "only a scale per output channel can follow a sum of signs"
    )


def _number_of_values(rows: np.ndarray) -> str:
    counts = [len(np.unique(row)) for row in rows]
    worst = int(np.argmax(counts))
    values = np.unique(rows[worst])
    words = f"its weights take {len(values)} values in output channel {worst}"
    spread = _spread(rows)
    if spread <= _NEAR:
        return f"{words}, within {spread:.1e} of the largest from two: set each output channel to two values"
    if len(values) > min(MOST_LISTED, rows.shape[1] // 2):  # nearly as many as weights: ordinary floats
        return words
    return f"{words}: {listed(values)}{_usual_name(values)}"


def listed(values: Sequence[float] | np.ndarray) -> str:
    """Numbers in words."""
    return ", ".join(f"{value:.4g}" for value in values)


def _usual_name(values: np.ndarray) -> str:
    if len(values) == 3 and values[1] == 0 and np.isclose(-values[0], values[2], rtol=1e-5):
        return " (ternary)"
    steps = np.diff(values.astype(np.float64))
    counts = steps / steps.min()
    levels = 1 + round(float(counts.sum()))
    even = np.abs(counts - np.rint(counts)).max() < 1e-3 and levels <= MOST_LISTED
    return f" ({(levels - 1).bit_length()} bits)" if even and levels > 2 else ""


def _spread(rows: np.ndarray) -> float:
    """The largest difference of weights of one row that two values would make equal, relative to the largest of it."""
    rows = rows.astype(np.float64)
    largest = np.maximum(np.abs(rows).max(axis=1), np.finfo(np.float32).tiny)
    upper = rows > (rows.min(axis=1) + rows.max(axis=1))[:, None] / 2
    spreads = [
        np.where(side, rows, -np.inf).max(axis=1) - np.where(side, rows, np.inf).min(axis=1) for side in (upper, ~upper)
    ]
    return float((np.maximum(*spreads) / largest).max())
