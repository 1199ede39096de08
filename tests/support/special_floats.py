"""Float32 numbers that are no ordinary ones: NaN, infinities, zeros of both signs, the largest and the smallest."""

from __future__ import annotations

import numpy as np

SPECIAL = np.float32([np.nan, np.inf, -np.inf, -0.0, 0.0, 3e38, -3e38])
SUBNORMAL = np.float32([1e-40, -1e-40])
"""Numbers that the vectors of ARMv7 take for 0."""


def with_special(x: np.ndarray, rng: np.random.Generator, share: float = 0.5, target_name: str = "") -> np.ndarray:
    """A copy of an array in which a share of the elements is special, of all kinds that the target knows."""
    kinds = SPECIAL if target_name == "armv7" else np.concatenate([SPECIAL, SUBNORMAL])
    return np.where(rng.random(x.shape) < share, rng.choice(kinds, x.shape), x).astype(np.float32)
