"""Find float32 arithmetic of plain operations that gives the same codes of 8 bits as another arithmetic.

onnxruntime's kernels use fused multiply-adds, and scale sums where we have means. Both differ from plain operations in
the last bit of a float, which changes a code only next to a half. So the plain operations are tried on everything that
can occur; if some code differs, then with a constant that is a little larger or smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from ..node import Value

_STEPS = 12
_MOST_SUMS = 2**20


def equal_sum(dtype: str, a_ratio: Value, b_ratio: Value, shift: Value) -> np.ndarray | None:
    """The number s for which ``a * a_ratio + (b * b_ratio + s)`` rounds to the codes of two fused multiply-adds.

    Args:
        dtype: int8 or uint8, the type of a, b and of the codes.
        a_ratio: The factor of a.
        b_ratio: The factor of b.
        shift: What the fused operations add; s is next to it.

    Returns:
        float32; None if a number is found at run time only, or if no s gives the same codes for all a and b.
    """
    if not (isinstance(a_ratio, np.ndarray) and isinstance(b_ratio, np.ndarray) and isinstance(shift, np.ndarray)):
        return None
    limits = np.iinfo(dtype)
    codes = np.arange(limits.min, limits.max + 1)
    with np.errstate(all="ignore"):
        inner = (codes.astype(np.float64) * b_ratio + shift).astype(np.float32)
        fused = (codes[:, None].astype(np.float64) * a_ratio + inner).astype(np.float32)
        left, right = (codes.astype(np.float32) * ratio for ratio in (a_ratio, b_ratio))
    return _first(shift, fused, lambda s: left[:, None] + (right + s), (limits.min, limits.max))


def equal_mean(dtype: str, x_zero: Value, pixels: int, factor: Value, y_zero: Value) -> np.ndarray | None:
    """The number f for which ``(total / pixels) * f`` rounds to the codes of ``total * factor``.

    Args:
        dtype: int8 or uint8, the type of the numbers that are summed and of the codes.
        x_zero: What is subtracted from each number.
        pixels: How many are summed.
        factor: The factor of a total; f is next to ``factor * pixels``.
        y_zero: What is added to a rounded result.

    Returns:
        Same as ``equal_sum``. None as well for sums that float32 does not hold exactly.
    """
    if not (isinstance(x_zero, np.ndarray) and isinstance(factor, np.ndarray) and isinstance(y_zero, np.ndarray)):
        return None
    limits = np.iinfo(dtype)
    low, high = (pixels * (int(limit) - int(x_zero)) for limit in (limits.min, limits.max))
    if not pixels or high - low > _MOST_SUMS:
        return None
    total = np.arange(low, high + 1).astype(np.float32)
    bounds = int(limits.min) - int(y_zero), int(limits.max) - int(y_zero)
    mean = total / np.float32(pixels)
    with np.errstate(all="ignore"):
        return _first(factor * np.float32(pixels), total * factor, lambda f: mean * f, bounds)


def _first(
    number: np.ndarray,
    wanted: np.ndarray,
    program: Callable[[np.ndarray], np.ndarray],
    limits: tuple[int, int],
) -> np.ndarray | None:
    """The first number next to another with which a program rounds to what is wanted, between limits."""
    codes = np.clip(np.rint(wanted), *limits)
    with np.errstate(all="ignore"):
        return next((x for x in _near(number) if np.array_equal(np.clip(np.rint(program(x)), *limits), codes)), None)


def _near(number: np.ndarray) -> Iterator[np.ndarray]:
    """float32 numbers: one, and neighbours on both sides at growing distances."""
    number = np.asarray(number, np.float32)
    yield number
    for step in range(_STEPS):
        for sign in (1, -1):
            yield np.asarray(number + np.spacing(number) * np.float32(sign * 1.5**step), np.float32)
