"""NaN, infinities and zeros of both signs through the code of an epilogue, against its interpreter."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Channel,
    FloatOutput,
    LevelsOutput,
    Op,
    Operand,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.special_floats import with_special

targets = pytest.mark.parametrize("target_name", X86 + ARM)


@targets
def test_steps(target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = (2, 3, 4, 20)
    some_nan, numbers = Channel(with_special(normal(rng, 20), rng, target_name=target_name)), Channel(normal(rng, 20))
    operands: tuple[Operand, ...] = (Scalar(0.0), Scalar(-0.5), numbers, some_nan, Tensor(0))
    both: tuple[Op, ...] = ("maximum", "minimum")
    others: tuple[Op, ...] = ("add", "subtract", "multiply", "divide", "prelu")
    steps = (
        *(Step(op, Ref(0), operand) for op in both for operand in operands),
        *(Step(op, operand, Ref(0)) for op in both for operand in operands[1:]),
        *(Step(op, Ref(0), Tensor(0)) for op in others),
    )
    program = Program(steps, tuple(FloatOutput(Ref(i + 1)) for i in range(len(steps))))
    data, tensor = (with_special(normal(rng, *shape), rng, target_name=target_name) for _ in range(2))
    outputs = run(elementwise(shape, program, target.isa), target, data, tensor)
    expected = evaluate(program, data, [tensor], target.isa)
    for step, output, reference in zip(steps, outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference, err_msg=str(step))
    assert np.isnan(outputs[0]).sum() == np.isnan(data).sum() > 0


@targets
@pytest.mark.parametrize("channels", [37, 64])
def test_bits_and_codes(target_name: str, channels: int, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = (2, 3, 4, channels)
    thresholds: tuple[Operand, ...] = (
        Scalar(0.0),
        Channel(with_special(normal(rng, channels), rng, target_name=target_name)),
        Tensor(0),
    )
    pairs = list(itertools.product((False, True), repeat=2))
    bits = [BitsOutput(Ref(0), threshold, *pair) for threshold in thresholds for pair in pairs]
    program = Program((), (*bits, LevelsOutput(Ref(0), tuple(map(Scalar, (-0.5, 0.0, 0.5))))))
    data, tensor = (with_special(normal(rng, *shape), rng, target_name=target_name) for _ in range(2))
    outputs = run(elementwise(shape, program, target.isa), target, data, tensor)
    for output, got, reference in zip(
        program.outputs, outputs, evaluate(program, data, [tensor], target.isa), strict=True
    ):
        np.testing.assert_array_equal(got, reference, err_msg=str(output))
