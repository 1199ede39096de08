"""Binarisers with a computed threshold: the mean of a sample, one per sample and channel, or another tensor."""

from __future__ import annotations

import numpy as np
import pytest

import sbnn_tvm
from tests.support.grids import every
from tests.support.small_models import small_model


@pytest.mark.parametrize("target", every(2, ["native", "arm"]))
@pytest.mark.parametrize(
    "text",
    [
        "m = ReduceMean (x, axes123)\nc = Greater(x, m)",
        "m = ReduceMean (x, axes123)\nd = Sub(x, m)\nc = Greater(d, zero)",
        "m = ReduceMean (x, axes123)\nc = GreaterOrEqual(m, x)",
        "m = ReduceMean (x, axes123)\nc = Less(x, m)",
        "g = GlobalAveragePool(x)\nh = Conv(g, point)\nm = Relu(h)\nc = Greater(x, m)",
        "g = ReduceMean (x, axes23)\nc = LessOrEqual(g, x)",
        "m = Relu(x)\ng = Mul(m, third)\nc = Less(g, x)",
    ],
    ids=["mean", "minus the mean", "mean first", "below the mean", "of a channel, learned", "of a channel", "a tensor"],
)
def test_thresholds_that_depend_on_the_data(text: str, target: str, rng: np.random.Generator) -> None:
    constants = {
        "axes123": np.array([1, 2, 3]),
        "axes23": np.array([2, 3]),
        "zero": 0.0,
        "third": 1 / 3,
        "hi": 1.0,
        "lo": -1.0,
        "point": rng.standard_normal((33, 33, 1, 1)).astype(np.float32),
        "w": rng.choice(np.float32([-1, 1]), (40, 33, 3, 3)),
    }
    used = {name: value for name, value in constants.items() if name in ("hi", "lo", "w") or name in text}
    model = small_model(
        f"{text}\nb = Where(c, hi, lo)\ny = Conv <pads = [1, 1, 1, 1]> (b, w)", {"x": (2, 33, 6, 7)}, used
    )
    module = sbnn_tvm.compile(model, target, strict=True)
    assert module.verify(rng.standard_normal((2, 33, 6, 7)).astype(np.float32)).passed
    conv = module.report.layers[-1]
    assert (conv.kind, conv.activations) == ("binary conv 3x3", 1)
    assert [each.kind for each in module.report.layers[:-1]].count("elementwise") <= 2


def test_two_thresholds_of_one_value_stay_two(rng: np.random.Generator) -> None:
    model = small_model(
        "m = ReduceMean (x, axes1)\ng = Mul(m, two)\nc = Greater(x, m)\nd = Greater(x, g)\n"
        "a = Where(c, hi, lo)\nb = Where(d, hi, lo)\ny = MatMul(a, w)\nz = MatMul(b, w)",
        {"x": (3, 70)},
        {
            "axes1": np.array([1]),
            "two": 2.0,
            "hi": 1.0,
            "lo": -1.0,
            "w": rng.choice(np.float32([-1, 1]), (70, 20)),
        },
        outputs=("y", "z"),
    )
    x = rng.standard_normal((3, 70)).astype(np.float32) + 1
    assert sbnn_tvm.compile(model, strict=True).verify(x).passed
