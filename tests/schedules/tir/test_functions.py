"""Elementary functions in vectors, against float64."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import FloatOutput, Program, Ref, Step
from sbnn_tvm.schedules.tir.functions import ULPS, Function
from tests.support.kernel_execution import ARM, X86, run, target_for

FUNCTIONS = get_args(Function)
PROGRAM = Program(
    tuple(Step.of_one(name, Ref(0)) for name in FUNCTIONS),
    tuple(FloatOutput(Ref(i + 1)) for i in range(len(FUNCTIONS))),
)


def arguments(rng: np.random.Generator, count: int) -> np.ndarray:
    """Numbers of all sizes, those where a function leaves its range, and those where a reduction changes its step."""
    sizes = np.concatenate([10.0 ** rng.uniform(-30, 38, count), rng.uniform(0, 20, count), rng.uniform(0, 110, count)])
    steps = np.log(2) * (np.arange(count) / 2 - count / 4)
    ends = [
        0.0,
        0.625,
        1.0,
        3.92,
        np.sqrt(0.5),
        np.sqrt(2),
        88.72,
        88.73,
        87.33,
        103.9,
        1e-45,
        1.17e-38,
        np.inf,
        np.nan,
    ]
    x = np.concatenate([sizes, ends, steps]).astype(np.float32)
    x = np.concatenate([x, np.nextafter(x, np.float32(0)), np.nextafter(x, np.float32(np.inf))])
    return np.concatenate([x, -x])


@pytest.mark.parametrize("target_name", X86 + ARM)
def test_functions(target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    x = arguments(rng, 300 if target_name in ARM else 20000)
    if target_name == "armv7":  # its vectors take denormals for zeros
        x = x[~((x != 0) & (np.abs(x) < np.finfo(np.float32).tiny))]
    x = np.resize(x, (-(-x.size // 23), 23))
    outputs = run(elementwise(x.shape, PROGRAM, target.isa), target, x)
    for name, got, expected in zip(FUNCTIONS, outputs, evaluate(PROGRAM, x, []), strict=True):
        special = ~np.isfinite(expected)
        np.testing.assert_array_equal(got[special], expected[special], err_msg=name)
        unit = np.spacing(np.maximum(np.abs(expected[~special]), np.finfo(np.float32).tiny)).astype(np.float64)
        error = np.abs(got[~special].astype(np.float64) - expected[~special])
        error = np.maximum(error - np.finfo(np.float32).tiny, 0) / unit
        worst = np.argmax(error)
        assert error[worst] <= ULPS[name], f"{name}({x[~special][worst]}) is wrong by {error[worst]} units"
