"""Clamps that are written as choices join the layer before them, with the same results for all numbers and NaN."""

from __future__ import annotations

import numpy as np
import pytest

import sbnn_tvm
from tests.support.binarised_models import kinds
from tests.support.small_models import small_model

CLAMP = "g = Greater(x, hi)\nu = Where(g, hi, x)\nl = Less(u, lo)\ny = Where(l, lo, u)"


@pytest.mark.parametrize(
    "text",
    [
        CLAMP,
        CLAMP.replace("Greater(x, hi)", "Less(hi, x)"),
        CLAMP.replace("Greater", "GreaterOrEqual").replace("Less", "LessOrEqual"),
    ],
    ids=["greater and less", "bound first", "inclusive"],
)
def test_clamps(text: str, rng: np.random.Generator) -> None:
    module = sbnn_tvm.compile(small_model(text, {"x": (2, 5, 4, 3)}, {"hi": 0.5, "lo": np.full((1, 5, 1, 1), -0.25)}))
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    x.flat[:3] = np.nan, np.inf, -np.inf
    np.testing.assert_array_equal(module.run(x), np.where(np.isnan(x), x, np.clip(x, -0.25, 0.5)))
    assert kinds(module) == ["elementwise"]


@pytest.mark.parametrize(
    "text",
    ["g = Greater(x, hi)\ny = Where(g, lo, x)", "g = Greater(x, hi)\ny = Where(g, x, hi)"],
    ids=["another number", "NaN becomes the bound"],
)
def test_other_choices_stay(text: str, rng: np.random.Generator) -> None:
    used = {name: value for name, value in {"hi": 0.5, "lo": -0.25}.items() if name in text}
    module = sbnn_tvm.compile(small_model(text, {"x": (2, 5, 4, 3)}, used))
    x = rng.standard_normal((2, 5, 4, 3)).astype(np.float32)
    x.flat[0] = np.nan
    with np.errstate(invalid="ignore"):
        expected = np.where(x > 0.5, -0.25, x) if "lo" in used else np.where(x > 0.5, x, np.float32(0.5))
    np.testing.assert_array_equal(module.run(x), expected)


def test_rounding_joins_the_layer_before_it() -> None:
    text = "a = Conv(x, w)\nb = Round(a)\nc = Abs(b)\nd = Floor(c)\ny = Ceil(d)"
    weight = np.arange(12.0).reshape(4, 3, 1, 1)
    module = sbnn_tvm.compile(small_model(text, {"x": (1, 3, 6, 5)}, {"w": weight}), strict=True)
    assert kinds(module) == ["conv 1x1"] and module.verify().passed


def test_one_number_per_sample_is_an_elementwise_kernel(rng: np.random.Generator) -> None:
    text = "a = ReduceMean<keepdims=0>(x, axes)\nb = Mul(a, k)\nc = Add(b, k)\nd = Sqrt(c)\ny = Sub(d, v)"
    constants = {"axes": np.array([1, 2, 3]), "k": 2.0, "v": np.array([0.5, 0.25, -1.0])}
    module = sbnn_tvm.compile(small_model(text, {"x": (3, 3, 6, 5)}, constants), strict=True)
    assert module.verify(np.abs(rng.standard_normal((3, 3, 6, 5), np.float32))).passed
