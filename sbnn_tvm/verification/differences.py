"""The differences between two arrays: shapes and types first, then values, with a tolerance that follows the type."""

from __future__ import annotations

import numpy as np

TOLERANCES = {"float16": 2**-8, "float32": 1e-4, "float64": 1e-9}
"""Default tolerances of floats, relative to the largest value. float16: four units in the last place."""


def tolerance_of(dtype: np.dtype, asked: float | None) -> float:
    """The tolerance for values of a type: as asked, or the default; 0 for all types but floats."""
    if not np.issubdtype(dtype, np.floating):
        return 0.0
    return TOLERANCES[dtype.name] if asked is None else asked


def mismatch(got: np.ndarray, expected: np.ndarray) -> str:
    """How shape or type differ, or an empty string."""
    if got.shape != expected.shape:
        return f"shape {list(got.shape)} instead of {list(expected.shape)}"
    if got.dtype != expected.dtype:
        return f"type {got.dtype} instead of {expected.dtype}"
    return ""


def largest_difference(got: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Largest absolute difference, and relative to the largest value; a NaN on only one side counts as infinite."""
    if got.size == 0:
        return 0.0, 0.0
    a, b = got.astype(np.float64), expected.astype(np.float64)
    same = (got == expected) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    if not np.issubdtype(expected.dtype, np.floating):
        gap = np.maximum(gap, 1)  # integers beyond 2^53
    gap = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
    largest, scale = float(gap.max()), largest_value(b)
    return largest, largest / scale if scale else (0.0 if largest == 0 else np.inf)


def differing(got: np.ndarray, expected: np.ndarray, bound: float | np.ndarray = 0.0) -> np.ndarray:
    """Mask of the values that differ by more than ``bound``. NaN equals NaN, and an infinity only itself."""
    same = got == expected
    if np.issubdtype(expected.dtype, np.floating):
        a, b = got.astype(np.float64), expected.astype(np.float64)
        with np.errstate(invalid="ignore"):
            same = same | (np.isfinite(b) & (np.abs(a - b) <= bound)) | (np.isnan(a) & np.isnan(b))
    return ~np.asarray(same)


def largest_value(values: np.ndarray) -> float:
    """The largest absolute value, without NaN and infinity; 0 if there is none."""
    values = values.astype(np.float64)
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))
