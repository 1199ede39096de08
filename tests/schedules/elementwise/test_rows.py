"""Rows: reductions over the channels and maps, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.elementwise.rows import map_rows
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    Channel,
    FloatOutput,
    Pixel,
    Program,
    Ref,
    RowOutput,
    Scalar,
    Step,
    Tensor,
)
from tests.support.kernel_execution import run, target_for
from tests.support.random_arrays import normal

one = Step.of_one
SOFTMAX = (
    one("row_max", Ref(0)),
    Step("subtract", Ref(0), Ref(1)),
    one("exp", Ref(2)),
    one("row_sum", Ref(3)),
    Step("divide", Ref(3), Ref(4)),
)
NORM = (
    one("row_mean", Ref(0)),
    Step("subtract", Ref(0), Ref(1)),
    Step("multiply", Ref(2), Ref(2)),
    one("row_mean", Ref(3)),
    Step("add", Ref(4), Scalar(1e-5)),
    one("sqrt", Ref(5)),
    Step("divide", Scalar(1.0), Ref(6)),
    Step("multiply", Ref(2), Ref(7)),
)


def programs(rng: np.random.Generator, channels: int) -> dict[str, Program]:
    scaled = (Step("multiply", Ref(8), Channel(normal(rng, channels))), Step("add", Ref(9), Tensor(0)))
    mixed = (one("row_min", Ref(0)), one("row_max", Tensor(0)), Step("add", Ref(1), Pixel(1)), one("row_sum", Ref(0)))
    return {
        "softmax": Program(SOFTMAX, (FloatOutput(Ref(5)),)),
        "layer norm": Program((*NORM, *scaled), (FloatOutput(Ref(10)), RowOutput(Ref(7)), FloatOutput(Ref(2)))),
        "several": Program(mixed, (RowOutput(Ref(3)), RowOutput(Ref(4)), RowOutput(Ref(2)))),
    }


SHAPES = [(7, 1), (3, 33), (2, 3, 2, 64), (5, 197)]
CASES = [(shape, "native") for shape in SHAPES] + [((2, 3, 2, 33), name) for name in ("x86-64-v3", "arm")]
SLOW = [((2, 3, 2, 33), "x86-64"), *((shape, "armv7") for shape in SHAPES)]


@pytest.mark.parametrize(
    ("shape", "target_name"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_rows(shape: tuple[int, ...], target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    data, tensor, pixel = normal(rng, *shape), normal(rng, *shape), normal(rng, *shape[:-1], 1)
    for name, program in programs(rng, shape[-1]).items():
        tensors = {"softmax": [], "layer norm": [tensor], "several": [tensor, pixel]}[name]
        got = run(map_rows(shape, program, target.isa), target, data, *tensors)
        for output, expected in zip(got, evaluate(program, data, tensors), strict=True):
            np.testing.assert_allclose(output, expected, rtol=2e-5, atol=2e-6, err_msg=name)


def test_nan_stays_in_its_row() -> None:
    target = target_for("native")
    data = np.zeros((3, 70), np.float32)
    data[1, 66] = np.nan
    (got,) = run(map_rows(data.shape, Program(SOFTMAX, (FloatOutput(Ref(5)),)), target.isa), target, data)
    assert np.isnan(got[1]).all() and np.allclose(got[[0, 2]], 1 / 70)


def test_programs_that_are_not_of_rows() -> None:
    isa = target_for("native").isa
    twice = Program((one("row_sum", Ref(0)), one("row_sum", Ref(1))), (RowOutput(Ref(2)),))
    with pytest.raises(ValueError, match="step 2 reduces what is one value per row"):
        map_rows((2, 8), twice, isa)
