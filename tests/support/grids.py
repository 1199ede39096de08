"""Parameters of tests of which some run by default, and the others only as slow tests."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest


def every(step: int, values: Iterable[Any]) -> list[Any]:
    """Of each ``step`` values the first runs by default; tuples are the arguments of one test."""
    return [value if i % step == 0 else _slow(value) for i, value in enumerate(values)]


def diagonals(step: int, *axes: Iterable[Any]) -> list[Any]:
    """All combinations; by default each value meets one of ``step`` values of every other axis."""
    indices = product(*(list(enumerate(axis)) for axis in axes))
    return [
        values if sum(i for i, _ in each) % step == 0 else _slow(values)
        for each in indices
        for values in [tuple(value for _, value in each)]
    ]


def _slow(value: Any) -> Any:
    values = value if isinstance(value, tuple) else (value,)
    return pytest.param(*values, marks=pytest.mark.slow)
