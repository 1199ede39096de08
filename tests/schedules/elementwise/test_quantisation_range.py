"""Scales and zero points by the range of a tensor, against the formula of ONNX in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.quantisation_range import quantisation_range
from tests.support.kernel_execution import ARM, X86, compiled, target_for


def expected(x: np.ndarray) -> tuple[np.float32, int]:
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        high, low = np.maximum(x.max(), np.float32(0)), np.minimum(x.min(), np.float32(0))
        scale = np.float32(1) if high == low else (high - low) / np.float32(255)
        zero_point = np.rint((np.float32(0) - low) / scale)
    return scale, 0 if np.isnan(zero_point) else int(np.clip(zero_point, 0, 255))


def cases(rng: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Numbers whose extrema are anywhere; NaN first, last and alone; ties of the zero point."""
    x = rng.standard_normal(count).astype(np.float32)
    tie = np.zeros(count, np.float32)
    tie[0], tie[-1] = -2.5, 252.5
    first, last, infinite = x.copy(), x.copy(), x.copy()
    first[0], last[-1], infinite[count // 2] = np.nan, np.nan, -np.inf
    zeros = np.full(count, -0.0, np.float32)
    tiny = x * np.float32(1e-44)
    return {
        "both signs": x, "positive": np.abs(x) + 1, "negative": -np.abs(x) - 1, "zeros": zeros, "tie": tie,
        "NaN first": first, "NaN last": last, "all NaN": x * np.float32(np.nan), "infinite": infinite,
        "large": x * np.float32(5e37), "tiny": tiny,
    }  # fmt: skip


def check(name: str, count: int, rng: np.random.Generator) -> None:
    target = target_for(name)
    kernel = compiled(quantisation_range(count, target.isa), target)
    for case, x in cases(rng, count).items():
        if case == "tiny" and name == "armv7":  # takes numbers below 1.2e-38 for 0
            continue
        (scale,), (zero_point,) = (each.ravel() for each in kernel(x))
        wanted, point = expected(x)
        np.testing.assert_array_equal(scale, wanted, err_msg=case)
        assert zero_point == point, (case, zero_point, point)


@pytest.mark.parametrize(("name", "count"), [("native", 37), ("x86-64", 20011), ("arm", 8193)])
def test_ranges(name: str, count: int, rng: np.random.Generator) -> None:
    """One task, and several, of which the last one is shorter."""
    check(name, count, rng)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*X86, *ARM])
@pytest.mark.parametrize("count", [1, 33, 4096, 8191, 131072 + 1])
def test_ranges_everywhere(name: str, count: int, rng: np.random.Generator) -> None:
    check(name, count, rng)
