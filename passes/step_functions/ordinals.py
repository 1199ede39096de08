"""The order of all float32 numbers: their positions, and the sizes of their steps. Both zeros are position 0."""

from __future__ import annotations

import numpy as np

INFINITY = 0x7F800000
"""The position of infinity; that of the largest finite number is one less."""
SMALLEST = 2.0**-149
"""The smallest positive float32 number."""


def ordinals(values: np.ndarray) -> np.ndarray:
    """Positions of float32 numbers, int64; NaN has none."""
    bits = np.asarray(values, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits >= 0, bits, -(bits & 0x7FFFFFFF))


def numbers(positions: np.ndarray) -> np.ndarray:
    """The float32 numbers at positions, as float64."""
    magnitude = np.abs(positions).astype(np.int32).view(np.float32).astype(np.float64)
    return np.where(positions < 0, -magnitude, magnitude)


def rounded(values: np.ndarray) -> np.ndarray:
    """Float64 numbers rounded to float32, as float64.

    Sums, products and quotients of float32 numbers that are computed in float64 and rounded by this function are
    rounded correctly, since 53 >= 2 * 24 + 2 (Figueroa, "When is double rounding innocuous?", 1995).
    """
    return values.astype(np.float32).astype(np.float64)


def half_step_below(magnitudes: np.ndarray) -> np.ndarray:
    """The largest error of rounding a number of at most this magnitude to float32: half a unit in the last place."""
    fraction, exponent = np.frexp(magnitudes)
    return np.ldexp(1.0, np.maximum(exponent - 25 - (fraction == 0.5), -150))


def grid_of(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """A power of two that divides all float32 numbers from ``low`` to ``high``."""
    least = np.where(low > 0, low, np.where(high < 0, -high, 0.0))
    exponent = np.frexp(least)[1]
    grid = np.where((least > 0) & np.isfinite(least), np.ldexp(1.0, np.maximum(exponent - 24, -149)), SMALLEST)
    return np.where(low == high, lowest_bit(low), grid)


def lowest_bit(values: np.ndarray) -> np.ndarray:
    """The largest power of two that divides each float32 number; infinity for 0."""
    fraction, exponent = np.frexp(values)
    whole = (np.where(np.isfinite(fraction), fraction, 0.5) * 2**24).astype(np.int64)
    bit = np.ldexp((whole & -whole).astype(np.float64), exponent - 24)
    return np.where(values == 0, np.inf, bit)
