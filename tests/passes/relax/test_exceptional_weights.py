"""Weights that are two values but for a few: the sum of both parts is the weights, and the few are few."""

from __future__ import annotations

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.passes.relax.exceptional_weights import without_exceptions
from sbnn_tvm.passes.relax.snapped_weights import snapped
from sbnn_tvm.passes.relax.weights import BinaryWeight
from tests.support.small_models import small_model


def signs_but_for(rng: np.random.Generator, shape: tuple[int, ...], *others: float) -> np.ndarray:
    weight = rng.choice(np.float32([-0.25, 0.25]), shape)
    weight.reshape(-1)[rng.choice(weight.size, len(others), replace=False)] = others
    return weight


def test_zeros_are_exceptions(rng):
    weight = signs_but_for(rng, (8, 16, 3, 3), 0, 0)
    found = without_exceptions(weight)
    assert found is not None
    plain, rest = found
    np.testing.assert_array_equal(plain + rest, weight)
    assert np.count_nonzero(rest) == 2
    assert BinaryWeight.of(plain) is not None and set(np.unique(plain)) == {-0.25, 0.25}


@pytest.mark.parametrize(
    "weight",
    [
        np.float32([[1, -1, 1, 1]] * 50),  # two values
        np.float32([[1, -1, 0, 1]] * 50),  # a quarter of exceptions
        np.concatenate([np.zeros((4, 500), np.float32), np.float32([[1], [2], [3], [4]])], axis=1),  # few floats
        np.float32([[np.nan] + [1, -1] * 100]),
    ],
    ids=["two values", "ternary", "sparse float", "nan"],
)
def test_no_exceptions(weight):
    assert without_exceptions(weight) is None


def test_rounding_beside_exceptions(rng):
    weight = signs_but_for(rng, (8, 16, 3, 3), 0.25 * (1 + 2**-22), -0.25 * (1 - 2**-23), 0, 0.7)
    found = snapped(weight)
    assert found is not None
    new, change = found
    assert 0 < change.relative < 1e-6 and change.zeros == 0
    assert set(np.unique(new)) == {np.float32(each) for each in (-0.25, 0, 0.25, 0.7)}


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("kind", ["Conv", "padded Conv", "grouped Conv", "MatMul"])
def test_the_layer_is_binary_and_equal(rng, kind, bits):
    """The few weights are a layer of their own on the same bits."""
    activation = "s = Sign(x)" if bits == 2 else "g = Greater(x, zero)\ns = Where(g, one, minus)"
    shape = {"MatMul": (64, 32), "grouped Conv": (32, 32, 3, 3)}.get(kind, (32, 64, 3, 3))
    weight = signs_but_for(rng, shape, 0, 0, 0.5, -1)
    attributes = {"padded Conv": "<pads=[1,1,1,1]>", "grouped Conv": "<group=2>"}.get(kind, "")
    layer = f"y = {kind.split()[-1]}{attributes}(s, w)" if kind != "MatMul" else "y = MatMul(s, w)"
    constants = {"w": weight, "zero": np.float32(0), "one": np.float32(1), "minus": np.float32(-1)}
    used = {name: value for name, value in constants.items() if bits == 1 or name == "w"}
    model = small_model(f"{activation}\n{layer}", {"x": (2, 64) if kind == "MatMul" else (2, 64, 6, 5)}, used)
    module = sbnn_tvm.compile(model, "native")
    assert module.verify().passed
    if kind != "MatMul":  # so small a dense layer is as fast on floats
        few, two_values = sorted(module.report.linear, key=lambda layer: layer.binary)
        assert two_values.binary and two_values.weights == "{-0.25, 0.25}"
        assert few.kernel.startswith("sparse_float")
        assert few.why == "it holds the 4 weights of 'Conv:y' that are neither of the two values of its output channel"
