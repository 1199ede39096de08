"""Means of samples against numpy, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.sample_mean import sample_mean
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.reference import elementwise as reference


@pytest.mark.parametrize("target_name", X86 + ARM)
@pytest.mark.parametrize("batch, values", [(1, 3), (2, 64), (3, 1000), (2, 20011)])
def test_sample_mean(batch: int, values: int, target_name: str, rng: np.random.Generator) -> None:
    """To the last bit: the order of the sum is documented."""
    target = target_for(target_name)
    x = normal(rng, batch, values)
    (means,) = run(sample_mean(batch, values, target.isa), target, x)
    np.testing.assert_array_equal(means, reference.sample_mean(x))
