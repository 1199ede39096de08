"""The algebra of two-valued tensors, on which everything else is built.

A binary tensor is a bit ``b`` and two numbers: ``value = lo + (hi - lo) * b``. With ``tau = (hi - lo) / 2`` and
``phi = (hi + lo) / 2`` the same value is ``tau * s + phi``, where ``s = 2 * b - 1`` is the sign in {-1, +1}.
For a window of activations ``x`` (signs ``X``, and 0 where the window hangs over a zero-padded border) and weights
``w`` (signs ``S``) the sum of products splits into two integers::

    D = sum(S * X)    one popcount per output:             D = base - 2 * popcount(bits_w ^ bits_x)
    T = sum(X)        one popcount per window, shared by all output channels

so that for {-1, +1} activations ``sum(w * x) = tau * D + phi * T``.
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

    def __str__(self) -> str:
        return f"{{{self.lo:g}, {self.hi:g}}}"


SIGN = BinaryDomain(-1.0, 1.0)
BIT = BinaryDomain(0.0, 1.0)
