"""Divisions before a rounding, as a product and a fused multiply-add, where that gives the same integers.

QuantizeLinear divides by its scale. A vector division takes 4 to 30 cycles, the two instructions 1 to 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import numpy as np

from .program import CodesOutput

_NEIGHBOURS = 4
"""Numbers on either side of a tie that are tried. Farther away both quotients are on the same side of it: they differ
from the true one by less than 2^-23 of it, and two neighbours by more than 2^-24."""

_MAGNITUDES = 2.0**-60, 2.0**60
"""Divisors for which nothing near a tie overflows, or loses bits below the smallest normal number."""


@dataclass(frozen=True)
class Reciprocal:
    """``1 / divisor`` as the sum of two float32 numbers, neither of which is negative.

    ``x / divisor`` is close to ``fma(x, high, x * low)`` (Brisebarre, Muller, Raina: Accelerating Correctly Rounded
    Floating-Point Division when the Divisor Is Known in Advance, IEEE Trans. Computers 2004).

    Attributes:
        high: The largest float32 number that is not above the reciprocal.
        low: The rest, rounded. 0 for a power of two, where ``x * high`` is the quotient.
    """

    high: float
    low: float


@cache
def reciprocal(divisor: float, output: CodesOutput) -> Reciprocal | None:
    """What an output may multiply by before it rounds, instead of a division.

    The integers that are stored are equal for every float32 number x. Both quotients rise with x, so it is enough to
    compare them for the numbers around each tie.

    Args:
        divisor: A float32 number.
        output: Its limits give the ties that count.

    Returns:
        The reciprocal; None if an integer would differ (a few divisors, such as 28.999998), or for an extreme divisor.
    """
    least, most = _MAGNITUDES
    if not least <= divisor <= most:
        return None
    exact = 1 / Fraction(divisor)
    high = np.float32(float(exact))
    if Fraction(float(high)) > exact:
        high = np.nextafter(high, np.float32(0))
    low = np.float32(float(exact - Fraction(float(high))))
    if low:
        ties = np.arange(max(map(abs, output.limits)) + 1, dtype=np.float64) + 0.5
        nearest = (ties * divisor).astype(np.float32).view(np.int32)
        x = (nearest[:, None] + np.arange(-_NEIGHBOURS, _NEIGHBOURS + 1, dtype=np.int32)).view(np.float32)
        if (np.rint(fused_multiply_add(x, high, x * low)) != np.rint(x / np.float32(divisor))).any():
            return None
    return Reciprocal(float(high), float(low))


def fused_multiply_add(a: np.ndarray, b: np.float32, c: np.ndarray) -> np.ndarray:
    """``a * b + c`` of float32 numbers, rounded once."""
    product, c = a.astype(np.float64) * np.float64(b), c.astype(np.float64)  # the product is exact
    total = product + c
    shifted = total - product
    error = (product - (total - shifted)) + (c - shifted)  # Knuth's two-sum: exact
    # Rounded to odd instead of to nearest, so that the second rounding is right.
    bits = total.view(np.int64)
    outwards = np.where((error > 0) == (total > 0), 1, -1)
    return (bits + np.where((error != 0) & (bits & 1 == 0), outwards, 0)).view(np.float64).astype(np.float32)
