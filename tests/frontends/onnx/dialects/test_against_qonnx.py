"""The standard forms against the executor of the qonnx package (``make test-interop``)."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import onnx
import pytest

from tests.support.dialect_models import numbers_at_ties, one_node, run_standard_form

pytestmark = pytest.mark.interop

F = np.float32
SHAPE = (2, 3, 4, 5)


def compare(rng: np.random.Generator, model: onnx.ModelProto, scale: float, case: Any) -> None:
    execution = pytest.importorskip("qonnx.core.onnx_exec", reason="needs the package qonnx")
    wrapper = pytest.importorskip("qonnx.core.modelwrapper").ModelWrapper(model)
    x = numbers_at_ties(rng, SHAPE, scale)
    with np.errstate(all="ignore"):
        want = execution.execute_onnx(wrapper, {"x": x})["y"]
    np.testing.assert_array_equal(run_standard_form(model, x), np.asarray(want, np.float32), str(case))


@pytest.mark.parametrize("mode", ["ROUND", "CEIL", "FLOOR", "UP", "DOWN", "HALF_UP", "HALF_DOWN"])
def test_quant(rng: np.random.Generator, mode: str) -> None:
    scales = [F(1), F(0.037), rng.uniform(0.05, 2, (1, 3, 1, 1)).astype(F), np.float64(0.1)]
    for case in product(scales, [F(0), F(0.3)], [F(1), F(2), F(8), F(32)], [0, 1], [0, 1]):
        scale, zero, bits, signed, narrow = case
        attributes = {"signed": signed, "narrow": narrow, "rounding_mode": mode}
        compare(rng, one_node("Quant", [scale, zero, bits], SHAPE, attributes), float(np.ravel(scale)[0]), case)


def test_trunc(rng: np.random.Generator) -> None:
    for case in product(["FLOOR", "ROUND", "CEIL", "UP"], [F(0), F(3)], [F(2), F(4)], [None, F(0.4), F(0.8)]):
        mode, zero, after, output_scale = case
        middle = [] if output_scale is None else [output_scale]
        model = one_node("Trunc", [F(0.1), zero, F(8), *middle, after], SHAPE, {"rounding_mode": mode})
        model.opset_import[1].version = 1 if output_scale is None else 2
        compare(rng, model, 0.8, case)


def test_thresholds_and_signs(rng: np.random.Generator) -> None:
    compare(rng, one_node("BipolarQuant", [F(0.3)], SHAPE), 1, "BipolarQuant")
    for levels, channels in product([1, 3, 15, 40], [1, 3]):
        thresholds = np.sort(rng.standard_normal((channels, levels)) * 3, 1).astype(F)
        attributes = {"out_dtype": "UINT8", "out_scale": 0.1, "out_bias": -0.3}
        compare(rng, one_node("MultiThreshold", [thresholds], SHAPE, attributes), 1, (levels, channels))
