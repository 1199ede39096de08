"""Random nodes of standard operators: whatever attributes they have, onnxruntime's result or a refusal."""

from __future__ import annotations

import pytest

from tests.support.random_operators.compare import Comparison, compare
from tests.support.random_operators.draws import draw


def _compared(seeds: range) -> Comparison:
    found = compare([draw(seed) for seed in seeds])
    assert not found.failures, "\n".join(f"{case}: {problem}" for case, problem in found.failures)
    return found


def test_random_operators() -> None:
    found = _compared(range(93))
    assert len(found.right) > 75  # most are neither refused here nor by onnxruntime


@pytest.mark.fuzz
@pytest.mark.parametrize("thousand", range(1, 11))
def test_10_000_random_operators(thousand: int) -> None:
    _compared(range(1000 * thousand, 1000 * (thousand + 1)))
