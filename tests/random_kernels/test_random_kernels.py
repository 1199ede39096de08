"""The first 200 random kernels; ``make fuzz-kernels`` checks 20,000."""

from __future__ import annotations

import pytest

from tests.support.grids import every

from .kernels import check


@pytest.mark.parametrize("first", every(2, range(0, 200, 20)))
def test_random_kernels(first: int) -> None:
    for seed in range(first, first + 20):
        check(seed)
