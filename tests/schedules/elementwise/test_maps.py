"""Elementwise kernels that store codes against the interpreter of epilogues, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import FloatOutput, LevelsOutput, Program, Ref
from tests.support.epilogues import rising_thresholds
from tests.support.kernel_execution import FEWER, run, target_for


@pytest.mark.parametrize("name", FEWER)
def test_codes(name: str, rng: np.random.Generator) -> None:
    target = target_for(name)
    for shape in ((2, 3, 5, 37), (7, 130)):
        x = rng.standard_normal(shape).astype(np.float32)
        thresholds = rising_thresholds(rng, 3, shape[-1], 1)
        x[0] = thresholds[2].values  # ties
        program = Program((), (LevelsOutput(Ref(0), thresholds), FloatOutput(Ref(0))))
        words, floats = run(elementwise(shape, program, target.isa), target, x)
        np.testing.assert_array_equal(words, evaluate(program, x, (), target.isa)[0])
        np.testing.assert_array_equal(floats, x)
