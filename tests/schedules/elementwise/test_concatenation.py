"""Concatenations of rows, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.concatenation import concatenate
from tests.support.kernel_execution import run, target_for
from tests.support.random_arrays import normal


@pytest.mark.parametrize("target_name", ["native", "arm", pytest.param("x86-64-v3", marks=pytest.mark.slow)])
@pytest.mark.parametrize(("outer", "lengths"), [(1, (3, 40)), (5, (17,)), (3, (1, 64, 2))])
def test_concatenation(outer: int, lengths: tuple[int, ...], target_name: str, rng: np.random.Generator) -> None:
    target, inputs = target_for(target_name), [normal(rng, outer, length) for length in lengths]
    constants = normal(rng, outer, 5), normal(rng, outer, 1, 33)
    parts = [constants[0], *range(len(inputs)), constants[1], 0]
    (got,) = run(concatenate(outer, lengths, parts, target.isa), target, *inputs)
    arrays = [inputs[part] if isinstance(part, int) else part.reshape(outer, -1) for part in parts]
    np.testing.assert_array_equal(got, np.concatenate(arrays, axis=1))
