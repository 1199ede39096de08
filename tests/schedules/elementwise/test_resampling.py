"""Resampling of feature maps, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.resampling import AxisTaps, resample
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import BitsOutput, FloatOutput, Program, Ref, Scalar, Step, Tensor
from tests.support.kernel_execution import run, target_for
from tests.support.random_arrays import normal

PROGRAM = Program((Step("add", Ref(0), Tensor(0)),), (FloatOutput(Ref(1)), BitsOutput(Ref(0), Scalar(0.0))))


def along(data: np.ndarray, taps: AxisTaps, axis: int) -> np.ndarray:
    weights = np.ones(taps.indices.shape) if taps.weights is None else taps.weights
    shape = [1] * data.ndim
    shape[axis] = taps.outputs
    parts = [
        np.take(data, taps.indices[:, tap], axis) * weights[:, tap].reshape(shape) for tap in range(weights.shape[1])
    ]
    return np.sum(parts, axis=0)


@pytest.mark.parametrize("target_name", ["native", "arm", pytest.param("x86-64-v3", marks=pytest.mark.slow)])
@pytest.mark.parametrize("channels", [3, 70])
@pytest.mark.parametrize("taps", [1, 2, 4])
def test_resampling(taps: int, channels: int, target_name: str, rng: np.random.Generator) -> None:
    target, shape = target_for(target_name), (2, 5, 4, channels)
    axes = [
        AxisTaps(rng.integers(0, size, (out, taps)), None if taps == 1 else normal(rng, out, taps))
        for size, out in ((5, 7), (4, 9))
    ]
    data, tensor = normal(rng, *shape), normal(rng, 2, 7, 9, channels)
    exact = along(along(data.astype(np.float64), axes[1], 2), axes[0], 1).astype(np.float32)
    expected = evaluate(PROGRAM, exact, [tensor], target.isa)
    got = run(resample(shape, *axes, PROGRAM, target.isa), target, data, tensor)
    np.testing.assert_allclose(got[0], expected[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(got[1], expected[1])


def test_one_axis_stays() -> None:
    taps = AxisTaps.identity(4)
    assert taps.outputs == 4 and np.array_equal(taps.indices[:, 0], np.arange(4))
    with pytest.raises(ValueError, match="2 taps need weights"):
        AxisTaps(np.zeros((3, 2), np.int32))
