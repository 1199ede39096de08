"""Random arrays of the kinds that binary networks consist of; each function draws from the generator it is given."""

from __future__ import annotations

import numpy as np


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal float32 numbers."""
    return rng.standard_normal(shape).astype(np.float32)


def random_bits(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Bools of which 2 in 5 are true."""
    return rng.random(shape) < 0.4


def quarters(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Multiples of 1/4, about standard normal: their sums and products are exact in float32."""
    return np.round(rng.standard_normal(shape) * 4).astype(np.float32) / 4


def two_valued(rng: np.random.Generator, lo: float, hi: float, *shape: int) -> np.ndarray:
    """Float32 numbers that are ``lo`` or ``hi``, equally often."""
    return rng.choice(np.float32([lo, hi]), shape)


def signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Float32 numbers -1 and +1."""
    return two_valued(rng, -1, 1, *shape)


def bits_and_signs(rng: np.random.Generator, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random bits, and the integers -1 and +1 that they stand for."""
    bits = rng.integers(0, 2, shape).astype(bool)
    return bits, np.where(bits, 1, -1)


def codes_and_levels(rng: np.random.Generator, bits: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random codes of some bits, and the odd integers ``2 * code - 2^bits + 1`` that they stand for."""
    codes = rng.integers(0, 1 << bits, shape)
    return codes, 2 * codes - (1 << bits) + 1
