"""The algebra of two-valued tensors, on which everything else is built.

A binary tensor is a bit ``b`` and two numbers: ``value = lo + (hi - lo) * b``. With ``tau = (hi - lo) / 2`` and
``phi = (hi + lo) / 2`` the same value is ``tau * s + phi``, where ``s = 2 * b - 1`` is the sign in {-1, +1}.
For a window of activations ``x`` (signs ``X``, and 0 where the window hangs over a zero-padded border) and weights
``w`` (signs ``S``) the sum of products splits into two integers::

    D = sum(S * X)    one popcount per output:             D = base - 2 * popcount(bits_w ^ bits_x)
    T = sum(X)        one popcount per window, shared by all output channels

so that for {-1, +1} activations ``sum(w * x) = tau * D + phi * T``.

Activations of n bits are ``value = lo + step * q`` with a code ``q`` of binary digits ``b_j``. Their digits are signs
``s_j`` as well, ``q = (L + sum(2^j * s_j)) / 2`` with ``L = 2^n - 1``, so ``value = tau * X + phi`` again, where
``X = sum(2^j * s_j)`` is an odd integer from ``-L`` to ``L`` and D is a sum of popcounts, one a digit::

    D = sum(S * X) = sum(2^j * D_j)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class BinaryDomain:
    """The two values that a binary tensor may take.

    Attributes:
        lo: The value of bit 0.
        hi: The value of bit 1; greater than ``lo``.

    Raises:
        ValueError: If ``lo`` is not below ``hi``, or one of them is not finite.
    """

    lo: float = -1.0
    hi: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.lo) and np.isfinite(self.hi) and self.lo < self.hi):
            raise ValueError(f"a binary domain needs two finite values lo < hi, but got lo={self.lo}, hi={self.hi}")

    @property
    def tau(self) -> float:
        """Half the distance of the two values: ``value = tau * sign + phi``."""
        return (self.hi - self.lo) / 2

    @property
    def phi(self) -> float:
        """The mean of the two values: ``value = tau * sign + phi``."""
        return (self.hi + self.lo) / 2

    @property
    def symmetric(self) -> bool:
        """Whether the domain is {-a, +a}: then the shared term ``phi * T`` vanishes."""
        return self.lo == -self.hi

    @property
    def bits(self) -> int:
        """Of the code: one."""
        return 1

    @property
    def values(self) -> np.ndarray:
        """The two values, float32 [2]."""
        return np.array([self.lo, self.hi], np.float32)

    def __str__(self) -> str:
        return f"{{{self.lo:g}, {self.hi:g}}}"


@dataclass(frozen=True)
class Levels:
    """The 2^n evenly spaced values of an n-bit activation: ``lo + step * q`` for a code ``q`` in 0 .. 2^n - 1.

    Attributes:
        lo: The value of code 0.
        step: The distance of two levels; positive.
        bits: n, from 2 to ``MOST_BITS``.

    Raises:
        ValueError: If ``step`` is not positive, a level is not finite, or there are too few or too many bits.
    """

    lo: float
    step: float
    bits: int

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= MOST_BITS:
            raise ValueError(f"levels have 2 to {MOST_BITS} bits, but got {self.bits}")
        if not (self.step > 0 and np.isfinite(self.values).all()):
            raise ValueError(f"levels need a finite lo and a positive step, but got lo={self.lo}, step={self.step}")

    @property
    def highest(self) -> int:
        """The highest code, L."""
        return (1 << self.bits) - 1

    @property
    def tau(self) -> float:
        """Half a step: ``value = tau * X + phi`` with an odd integer X from -L to L."""
        return self.step / 2

    @property
    def phi(self) -> float:
        """The middle of the levels: ``value = tau * X + phi``."""
        return self.lo + self.step * self.highest / 2

    @property
    def values(self) -> np.ndarray:
        """The levels, float32 [2^n], rounded as the operator Quantize rounds them."""
        with np.errstate(all="ignore"):
            return np.float32(self.lo) + np.float32(self.step) * np.arange(self.highest + 1, dtype=np.float32)

    @property
    def middles(self) -> tuple[float, ...]:
        """Thresholds between the levels, one below each but the lowest."""
        return tuple(self.lo + self.step * (q + 0.5) for q in range(self.highest))

    def __str__(self) -> str:
        return f"{{{', '.join(f'{value:g}' for value in self.values)}}}"


Domain = BinaryDomain | Levels
MOST_BITS = 4


SIGN = BinaryDomain(-1.0, 1.0)
BIT = BinaryDomain(0.0, 1.0)
