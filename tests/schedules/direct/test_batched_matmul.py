"""Products of two activations, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.direct.batched_matmul import batched_matmul
from sbnn_tvm.schedules.direct.tiles import tiles
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import BitsOutput, Channel, FloatOutput, Program, Ref, Scalar, Step, Tensor
from sbnn_tvm.schedules.shapes import ProductShape
from tests.support.kernel_execution import run, target_for
from tests.support.random_arrays import normal

SHAPES = [
    ProductShape(1, 1, 1, 1),
    ProductShape(3, 19, 33, 50),
    ProductShape(2, 20, 16, 64),
]


CASES = [(shape, "native") for shape in SHAPES] + [(SHAPES[1], name) for name in ("x86-64-v3", "arm")]
SLOW = [(SHAPES[1], "x86-64"), *((shape, "armv7") for shape in SHAPES)]


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("shape", "target_name"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_products(shape: ProductShape, transposed: bool, target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = ProductShape(shape.batch, shape.rows, shape.depth, shape.columns, transposed)
    left, right = (
        normal(rng, shape.batch, shape.rows, shape.depth),
        normal(rng, shape.batch, shape.depth, shape.columns),
    )
    extra = normal(rng, shape.batch * shape.rows, shape.columns)
    steps = (Step("multiply", Ref(0), Scalar(0.5)), Step("add", Ref(1), Tensor(0)))
    steps += (Step("multiply", Ref(2), Channel(normal(rng, shape.columns))),)
    program = Program(steps, (FloatOutput(Ref(3)), BitsOutput(Ref(2), Scalar(0.1))))
    exact = (left.astype(np.float64) @ right).astype(np.float32).reshape(-1, shape.columns)
    expected = evaluate(program, exact, [extra], target.isa)
    stored = np.ascontiguousarray(right.transpose(0, 2, 1)) if transposed else right
    choices = tiles(shape.one, target.isa, "float32")
    for tile in {choices[0], choices[len(choices) // 2], choices[-1]} if target_name == "native" else {choices[0]}:
        got, bits = run(batched_matmul(shape, program, target.isa, tile), target, left, stored, extra)
        np.testing.assert_allclose(got, expected[0], rtol=1e-5, atol=1e-4)
        near = evaluate(Program(steps, (FloatOutput(Ref(2)),)), exact, [extra])[0]
        assert np.abs(near - 0.1).min() > 1e-5
        np.testing.assert_array_equal(bits, expected[1])
