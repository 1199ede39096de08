"""Interleaving of phases, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.layouts.interleaving import Interleaving, interleave
from tests.support.kernel_execution import run, target_for


def expected(small: np.ndarray, interleaving: Interleaving) -> np.ndarray:
    """The result for the concatenated maps, pixel by pixel."""
    rows, columns, channels = interleaving.channels.shape
    out = np.empty((len(small), interleaving.height, interleaving.width, channels), small.dtype)
    for y in range(interleaving.height):
        for x in range(interleaving.width):
            (q, row), (p, column) = divmod(y + interleaving.top, rows), divmod(x + interleaving.left, columns)
            out[:, y, x] = small[:, q, p][:, interleaving.channels[row, column]]
    return out


@pytest.mark.parametrize("target_name", ["native", "arm", pytest.param("x86-64-v3", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("grid", "parts", "dtype", "crop"),
    [
        ((2, 2), (5, 5, 5, 5), "int8", (0, 0, 0, 1)),
        ((2, 3), (6 * 33,), "uint8", (1, 2, 1, 0)),
        ((1, 3), (40, 80), "float32", (0, 1, 0, 0)),
        ((3, 1), (9,), "uint64", (2, 0, 1, 0)),
    ],
)
def test_interleave(
    grid: tuple[int, int],
    parts: tuple[int, ...],
    dtype: str,
    crop: tuple[int, int, int, int],
    target_name: str,
    rng: np.random.Generator,
) -> None:
    """Phases in one map or in several, without rows and columns at the beginning (crop 0, 1) and end (2, 3)."""
    target, (batch, height, width) = target_for(target_name), (2, 3, 4)
    maps = [rng.integers(0, 100, (batch, height, width, part)).astype(dtype) for part in parts]
    channels = np.arange(sum(parts)).reshape(*grid, -1)
    size = height * grid[0] - crop[0] - crop[2], width * grid[1] - crop[1] - crop[3]
    for order in (channels, rng.permutation(sum(parts)).reshape(channels.shape)):
        interleaving = Interleaving(order, crop[0], crop[1], *size)
        (got,) = run(interleave((batch, height, width), parts, interleaving, dtype, target.isa), target, *maps)
        np.testing.assert_array_equal(got, expected(np.concatenate(maps, 3), interleaving))
