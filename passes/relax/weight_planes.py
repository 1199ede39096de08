"""Weights of three or four evenly spaced values per output channel as sums of two binary weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_EVEN = 2.0**-21
"""How far weights may be from evenly spaced ones, relative to the largest; rounding leaves as much."""

_MOST_VALUES = 4
_FEWEST_CHANNELS = 16
"""Fewer input channels per group leave most bits of a word empty: two sums of signs take longer than one of floats."""


@dataclass(frozen=True, eq=False)
class WeightPlanes:
    """Weights as ``tau * (factor * first + second) + phi``.

    Ternary weights have factor 1: the planes are both -1, opposite, or both +1. Four values have factor 2: the planes
    are the digits of a code, as for activations of two bits. Example: -0.2, 0 and 0.2 have tau = 0.1 and phi = 0.

    Attributes:
        first, second: float32 of -1 and +1, in the shape of the weights, output channels first.
        factor: 1 or 2.
        tau: float32 [out channels].
        phi: float32 [out channels].
    """

    first: np.ndarray
    second: np.ndarray
    factor: int
    tau: np.ndarray
    phi: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray) -> WeightPlanes | None:
        """Decompose weights [OC, input channels per group, ...]; None for others, and where floats are faster."""
        if weight.shape[1] < _FEWEST_CHANNELS or not np.isfinite(weight).all():
            return None
        flat = weight.reshape(len(weight), -1).astype(np.float64)
        if len(np.unique(flat[0])) > _MOST_VALUES:
            return None
        low, high = flat.min(axis=1, keepdims=True), flat.max(axis=1, keepdims=True)
        largest = np.maximum(np.abs(flat).max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
        # Ternary: codes 0, 1, 2 from the lowest to the highest value. A channel of two values has no code 1.
        for highest, factor in ((2, 1), (3, 2)):
            step = (high - low) / 2 if factor == 1 else _smallest_step(flat, low, high)
            codes = np.rint((flat - low) / np.where(step > 0, step, 1))
            even = np.abs(low + step * codes - flat) <= _EVEN * largest
            if codes.max() <= highest and even.all() and _one_value_per_code(flat, codes, highest):
                return cls._of_codes(codes.reshape(weight.shape), factor, low[:, 0], step[:, 0])
        return None

    @classmethod
    def _of_codes(cls, codes: np.ndarray, factor: int, low: np.ndarray, step: np.ndarray) -> WeightPlanes:
        first = codes >= 2
        second = codes >= 1 if factor == 1 else codes % 2 == 1
        tau, phi = step / 2, low + step * (factor + 1) / 2
        constant = step == 0  # a channel of one value is a multiple of -1 or +1, without an offset
        tau, phi = np.where(constant, np.abs(low) / (factor + 1), tau), np.where(constant, 0, phi)
        positive = (constant & (low > 0)).reshape(-1, *[1] * (codes.ndim - 1))
        high, low_digit = (np.where(bits | positive, np.float32(1), np.float32(-1)) for bits in (first, second))
        return cls(high, low_digit, factor, tau.astype(np.float32), phi.astype(np.float32))

    @property
    def name(self) -> str:
        """What such weights are called."""
        return "ternary" if self.factor == 1 else "2 bits"


def _one_value_per_code(flat: np.ndarray, codes: np.ndarray, highest: int) -> bool:
    """Whether equal codes of a row are equal weights; others would change the weights."""
    for code in range(highest + 1):
        of_code = codes == code
        most = np.where(of_code, flat, -np.inf).max(axis=1)
        least = np.where(of_code, flat, np.inf).min(axis=1)
        if (most > least).any():
            return False
    return True


def _smallest_step(flat: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The smallest distance of two values of each row; 0 for a row of one value."""
    gaps = np.diff(np.sort(flat, axis=1), axis=1)
    smallest = np.where(gaps > 1e-3 * (high - low), gaps, np.inf).min(axis=1, keepdims=True)
    return np.where(np.isfinite(smallest), smallest, 0.0)
