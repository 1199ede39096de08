"""Weights with two values per output channel but for a few exceptions, as the sum of two-valued weights and the rest.

``sign(w)`` is 0 where w is 0, and a layer of millions of random weights has one or two such weights. APB
(https://arxiv.org/abs/2306.08960) keeps a few weights in float32 on purpose: ``W = alpha * S + R``, R mostly 0.
"""

from __future__ import annotations

import numpy as np

from .weights import BinaryWeight

TWO_VALUES = "_two_values"
"""Ends the name of a layer without its exceptions."""

EXCEPTIONS = "_exceptions"
"""Ends the name of the layer of the exceptions."""

MOST_EXCEPTIONS = 0.01
"""The largest share of exceptions. One costs a multiply-add per pixel, as much as the popcounts of about 64 weights."""

LEAST_SHARE = 10
"""How many times more frequent than exceptions the rarer of the two values must be. Mostly zeros and a few floats
are no binary weights: a sparse float kernel computes them."""


def without_exceptions(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Write weights as two-valued ones plus the few that differ.

    Example: a channel [0.5, -0.5, 0, ..., 0.5] is [0.5, -0.5, 0.5, ..., 0.5] + [0, 0, -0.5, ..., 0].

    Args:
        weight: float32 [OC, ...].

    Returns:
        Weights of at most two values per output channel, and what to add to them; the sum is exact where the second is
        0, and rounded to float32 elsewhere. None if the weights have two values already, or too many exceptions.
    """
    if not np.isfinite(weight).all() or BinaryWeight.of(weight) is not None:
        return None
    flat = weight.reshape(len(weight), -1)
    most, exceptions, rarer = int(MOST_EXCEPTIONS * flat.size), 0, 0
    plain = np.empty_like(flat)
    for row, to in zip(flat, plain, strict=True):
        values, counts = np.unique(row, return_counts=True)
        lo, hi = np.sort(values[np.argsort(counts, kind="stable")[-2:]])[[0, -1]]
        to[:] = np.where(row == lo, lo, np.where(row == hi, hi, np.where(row - lo < hi - row, lo, hi)))
        exceptions += int(np.count_nonzero(row != to))
        rarer += int(counts.min()) if len(counts) == 1 else int(np.sort(counts)[-2])
        if exceptions > most:
            return None
    if rarer < LEAST_SHARE * exceptions:
        return None
    plain = plain.reshape(weight.shape)
    return plain, weight - plain
