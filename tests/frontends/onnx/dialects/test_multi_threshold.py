"""FINN's MultiThreshold, against a formula in numpy."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.dialect_models import one_node, run_standard_form

F = np.float32
LAYOUTS = [
    ((2, 3, 4, 5), "", 1),
    ((2, 3, 4, 5), "NCHW", 1),
    ((2, 4, 5, 3), "NHWC", 3),
    ((5, 3), "", 1),
    ((5, 3), "NC", 1),
]
LAYOUTS += [((2, 6, 3), "", 2), ((2, 3, 6), "NCW", 1), ((5, 3), "NHWC", 1), ((1, 3, 2, 2, 2), "", 1)]


def counted(x: np.ndarray, thresholds: np.ndarray, axis: int) -> np.ndarray:
    reached = np.moveaxis(x, axis, -1)[..., None] >= thresholds
    return np.moveaxis(reached.sum(-1), -1, axis).astype(F)


@pytest.mark.parametrize(("opset", "before"), [(9, "Dropout"), (17, "")])
def test_multi_threshold(rng: np.random.Generator, opset: int, before: str) -> None:
    cases = [(levels, LAYOUTS[0], channels) for levels, channels in product([1, 2, 7, 15, 16, 100, 255], [1, 3])]
    for levels, (shape, layout, axis), channels in cases + [(3, layout, 3) for layout in LAYOUTS]:
        thresholds = np.round(np.sort(rng.standard_normal((channels, levels)) * 9, 1)).astype(F) / 4
        if levels == 7:
            thresholds = rng.permuted(thresholds, axis=1)
        scale, bias = (2.0, -1.0) if levels == 1 else (0.25, -0.5)
        attributes = {"out_dtype": "UINT8", "out_scale": scale, "out_bias": bias}
        if layout:
            attributes["data_layout"] = layout
        x = (np.round(rng.standard_normal(shape) * 9) / 4).astype(F)
        x.flat[:2] = np.inf, -np.inf
        model = one_node("MultiThreshold", [thresholds], shape, attributes, opset, before=before)
        want = F(scale) * counted(x, thresholds, axis) + F(bias)
        np.testing.assert_array_equal(run_standard_form(model, x), want, f"{levels} {shape} {layout} {channels}")


def test_many_evenly_spaced_thresholds(rng: np.random.Generator) -> None:
    """They become a division where that is exact: for steps that are powers of two. Otherwise they are searched."""
    x = np.concatenate([rng.uniform(-3, 3, 4000), np.arange(-300, 300) / 64, [np.inf, -np.inf]]).astype(F)[None]
    for step, divided in [(1 / 64, True), (0.1, False)]:
        thresholds = ((np.arange(-127, 127) + 0.5) * step)[None].astype(F)
        near = np.concatenate([thresholds, np.nextafter(thresholds, F(-9)), np.nextafter(thresholds, F(9)), x], 1)
        for opset, before in [(9, "Dropout"), (17, "")]:
            model = one_node("MultiThreshold", [thresholds], near.shape, opset=opset, before=before)
            assert ("Floor" in {node.op_type for node in load_model(model).graph.node}) == divided
            np.testing.assert_array_equal(run_standard_form(model, near), counted(near, thresholds, 1))


def test_thresholds_in_double_precision_are_reached_by_the_next_float32() -> None:
    x = np.array([[0.1, np.nextafter(F(0.1), F(-1)), np.nextafter(F(0.1), F(1))]], F)
    model = one_node("MultiThreshold", [np.array([[0.1]])], (1, 3))
    np.testing.assert_array_equal(run_standard_form(model, x), (x >= 0.1).astype(F))


def test_many_thresholds_need_few_nodes() -> None:
    model = load_model(one_node("MultiThreshold", [np.arange(255 * 64, dtype=F).reshape(64, 255)], (1, 64, 8, 8)))
    assert len(model.graph.node) < 80


def test_what_is_refused() -> None:
    for thresholds, match in [
        (np.zeros((2, 2, 2), F), r"has thresholds of shape \[2, 2, 2\]"),
        (np.array([[np.nan]], F), "has a threshold that is not a number"),
    ]:
        with pytest.raises(ModelError, match=match):
            load_model(one_node("MultiThreshold", [thresholds], (1, 2, 4, 4)))
    model = one_node("MultiThreshold", [np.arange(6, dtype=F).reshape(2, 3)], (1, 2, 4, 4))
    model.graph.input[0].type.tensor_type.ClearField("shape")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    with pytest.raises(ModelError, match="neither data_layout nor a known shape"):
        load_model(model)
