"""The algebra of two-valued tensors, which the whole compiler uses.

A binary tensor is a bit ``b`` and two numbers: ``value = lo + (hi - lo) * b``. With ``tau = (hi - lo) / 2`` and
``phi = (hi + lo) / 2`` the same value is ``tau * s + phi``, where ``s = 2 * b - 1`` is the sign in {-1, +1}.
Take a window of activations ``x`` with signs ``X`` (0 where the window overlaps zero padding) and weights ``w`` with
signs ``S``. Two integers determine the sum of products::

    D = sum(S * X)    one popcount per output:             D = base - 2 * popcount(bits_w ^ bits_x)
    T = sum(X)        one popcount per window, shared by all output channels

so that for {-1, +1} activations ``sum(w * x) = tau * D + phi * T``.

Activations of n bits are ``value = lo + step * q`` with a code ``q`` of binary digits ``b_j``. The digits are signs
``s_j`` too: ``q = (L + sum(2^j * s_j)) / 2`` with ``L = 2^n - 1``. So ``value = tau * X + phi`` again, where
``X = sum(2^j * s_j)`` is an odd integer from ``-L`` to ``L``. D is a weighted sum of popcounts, one per digit::

    D = sum(S * X) = sum(2^j * D_j)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..errors import ArgumentError


@dataclass(frozen=True)
class BinaryDomain:
    """The two values of a binary tensor.

    Attributes:
        lo: The value of bit 0.
        hi: The value of bit 1; greater than ``lo``.

    Raises:
        ArgumentError: If ``lo`` is not below ``hi``, or one of them is not finite.
    """

    lo: float = -1.0
    hi: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lo) and np.isfinite(self.hi) and self.lo < self.hi):
            raise ArgumentError(f"a binary domain needs two finite values lo < hi, but got lo={self.lo}, hi={self.hi}")

    @property
    def tau(self) -> float:
        """Half the difference of the two values: ``value = tau * sign + phi``."""
        return (self.hi - self.lo) / 2

    @property
    def phi(self) -> float:
        """The mean of the two values: ``value = tau * sign + phi``."""
        return (self.hi + self.lo) / 2

    @property
    def bits(self) -> int:
        """Number of bits of a code: 1."""
        return 1

    @property
    def values(self) -> np.ndarray:
        """The two values, float32 [2]."""
        return np.array([self.lo, self.hi], np.float32)

    @property
    def middles(self) -> tuple[float, ...]:
        """The threshold halfway between the two values."""
        return ((self.lo + self.hi) / 2,)

    def __str__(self) -> str:
        return f"{{{self.lo:g}, {self.hi:g}}}"


@dataclass(frozen=True)
class Levels:
    """The evenly spaced values of an activation of n bits, one per code ``q``: ``lo + step * q``, rounded to float32.

    Attributes:
        levels: 2^n float32 numbers, ascending; n is from 2 to ``MOST_BITS``.

    Raises:
        ArgumentError: If there are too few or too many, or they are not evenly spaced up to rounding.
    """

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.levels) not in [1 << bits for bits in range(2, MOST_BITS + 1)]:
            raise ArgumentError(f"{len(self.levels)} levels are not 4, 8, ... or {1 << MOST_BITS}")
        even = np.linspace(self.levels[0], self.levels[-1], len(self.levels))
        uneven = np.abs(even - self.levels).max() > 2**-21 * np.abs(self.levels).max()
        if not np.isfinite(self.levels).all() or not (np.diff(self.levels) > 0).all() or uneven:
            raise ArgumentError(f"levels ascend evenly, but got {self.levels}")

    @property
    def bits(self) -> int:
        """Number of bits of a code: n."""
        return len(self.levels).bit_length() - 1

    @property
    def tau(self) -> float:
        """Half a step: ``value = tau * X + phi`` with an odd integer X from -L to L, where L = 2^n - 1."""
        return (self.levels[-1] - self.levels[0]) / (2 * (len(self.levels) - 1))

    @property
    def phi(self) -> float:
        """The middle of the levels: ``value = tau * X + phi``."""
        return (self.levels[-1] + self.levels[0]) / 2

    @property
    def values(self) -> np.ndarray:
        """The levels, float32 [2^n]."""
        return np.array(self.levels, np.float32)

    @property
    def middles(self) -> tuple[float, ...]:
        """The thresholds halfway between neighbouring levels, ascending."""
        return tuple((low + high) / 2 for low, high in zip(self.levels[:-1], self.levels[1:], strict=True))

    def __str__(self) -> str:
        return f"{{{', '.join(f'{value:g}' for value in self.levels)}}}"


Domain = BinaryDomain | Levels
MOST_BITS = 4


def codes(domain: Domain, values: np.ndarray) -> np.ndarray:
    """The codes of float32 values of a domain, as uint8 of the same shape."""
    return np.searchsorted(np.array(domain.middles, np.float32), values, side="left").astype(np.uint8)


def code_of(domain: Domain, value: float) -> int | None:
    """The code of one value, or None if the domain does not have the value."""
    found = np.flatnonzero(domain.values == np.float32(value))
    return int(found[0]) if found.size else None


SIGN = BinaryDomain(-1.0, 1.0)
BIT = BinaryDomain(0.0, 1.0)
