"""The kernels between NCHW and NHWC maps against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.layouts.channels_last import nchw_to_nhwc, nhwc_to_nchw
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.random_integers import integers


@pytest.mark.parametrize("target_name", X86 + ARM)
@pytest.mark.parametrize("shape", [(1, 3, 10, 13), (2, 1, 3, 3), (1, 4, 2, 2), (1, 37, 7, 7), (2, 64, 12, 12)], ids=str)
def test_layouts(target_name: str, shape: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    target, first = target_for(target_name), normal(rng, *shape)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(run(nchw_to_nhwc(shape, target.isa), target, first)[0], last)
    np.testing.assert_array_equal(run(nhwc_to_nchw(shape, target.isa), target, last)[0], first)


@pytest.mark.parametrize("target_name", X86 + ARM)
@pytest.mark.parametrize("dtype", ["uint8", "int16"])
@pytest.mark.parametrize("shape", [(1, 3, 10, 13), (2, 37, 7, 7)], ids=str)
def test_integers(target_name: str, dtype: str, shape: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    target, first = target_for(target_name), integers(rng, dtype, *shape)
    last = np.ascontiguousarray(first.transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(run(nchw_to_nhwc(shape, target.isa, dtype), target, first)[0], last)
    np.testing.assert_array_equal(run(nhwc_to_nchw(shape, target.isa, dtype), target, last)[0], first)
