"""Dense layers on bytes against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import Channel, CodesOutput, Element, FloatOutput, Program, Ref, Step, Tensor
from sbnn_tvm.schedules.int8.conv2d import int8_dense
from tests.support.kernel_execution import FEWER, run, target_for
from tests.support.random_integers import integers


@pytest.mark.parametrize("name", [*FEWER, "x86-64"])
@pytest.mark.parametrize(
    "rows, depth, channels, dtype, zero_point",
    [(1, 64, 10, "uint8", 0), (1, 301, 100, "int8", 9), (5, 130, 67, "int8", -128), (17, 33, 8, "uint8", 200)],
)
def test_int8_dense(
    rows: int, depth: int, channels: int, dtype: Element, zero_point: int, name: str, rng: np.random.Generator
) -> None:
    target, x = target_for(name), integers(rng, dtype, rows, depth)
    weight = rng.integers(-128, 128, (channels, depth)).astype(np.int16)
    bias = rng.integers(-9999, 9999, channels)
    residual = integers(rng, "uint8", rows, channels)
    scale = Channel(rng.random(channels).astype(np.float32) / 100)
    program = Program(
        (Step("multiply", Ref(0), scale), Step("add", Ref(1), Tensor(0, "uint8"))),
        (FloatOutput(Ref(0)), CodesOutput(Ref(2), "int8", 5)),
    )
    kernel = int8_dense(rows, weight, zero_point, program, target.isa, data_dtype=dtype, bias=bias)
    sums = ((x.astype(np.int64) - zero_point) @ weight.T.astype(np.int64) + bias).astype(np.float32)
    expected = evaluate(program, sums, [residual])
    for output, reference in zip(run(kernel, target, x, residual), expected, strict=True):
        np.testing.assert_array_equal(output, reference)
