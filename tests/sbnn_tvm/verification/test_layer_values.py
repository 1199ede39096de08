"""The values that a layer reads and computes."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.errors import InputError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.torch import BinaryConv2d
from sbnn_tvm.frontends.torch.export import to_onnx
from sbnn_tvm.report.distribution import MOST_DISTINCT, Distribution
from sbnn_tvm.verification.layer_values import layer_values
from tests.support.binarised_models import BINARIZE, BITS, IMAGE
from tests.support.small_models import run_reference, small_model

TERNARY = np.random.default_rng(0).choice(np.float32([-0.25, 0, 0.25]), (4, 8, 3, 3))
MODEL = small_model(BITS + "y = Conv(b, w)", IMAGE, {**BINARIZE, "w": TERNARY})


@pytest.mark.parametrize("distinct", [1, 5, MOST_DISTINCT, MOST_DISTINCT + 1, 500])
def test_every_number_is_in_one_bar(distinct: int) -> None:
    rng = np.random.default_rng(distinct)
    numbers = np.concatenate([np.arange(distinct), rng.integers(0, distinct, 3 * distinct)]).astype(np.float32)
    array = np.concatenate([numbers, [np.nan, np.inf]]).reshape(2, -1)
    found = Distribution.of(array, 0)
    assert (found.distinct, found.not_finite, found.shape) == (distinct, 2, array.shape)
    assert sum(bar.count for bar in found.bars) == numbers.size and len(found.bars) == min(distinct, MOST_DISTINCT)
    assert found.bars[0].low == 0 and found.bars[-1].high == distinct - 1
    if distinct <= MOST_DISTINCT:
        assert [(bar.low, bar.count) for bar in found.bars] == [(i, (numbers == i).sum()) for i in range(distinct)]


@pytest.mark.parametrize("array", [np.zeros(()), np.zeros((0, 3)), np.array([[True, False]]), np.arange(3)])
def test_arrays_of_any_kind(array: np.ndarray) -> None:
    assert sum(bar.count for bar in Distribution.of(array, 0).bars) == array.size


def test_values_of_one_layer() -> None:
    x = np.random.default_rng(0).standard_normal(IMAGE["x"]).astype(np.float32)
    found = layer_values(import_onnx(MODEL), "Conv:y", [x])
    assert found.operator == "Conv" and found.weights is not None
    assert [(bar.low, bar.count) for bar in found.weights.bars] == [
        (value, (value == TERNARY).sum()) for value in (-0.25, 0, 0.25)
    ]
    assert [(bar.low, bar.count) for bar in found.activations["b"].bars] == [(-1, (x <= 0).sum()), (1, (x > 0).sum())]
    assert found.results["y"].distinct == len(np.unique(run_reference(MODEL, {"x": x})["y"]))
    assert layer_values(import_onnx(MODEL), "Conv:y", None) == layer_values(import_onnx(MODEL), "Conv:y", None)


def test_layers_without_weights_and_layers_on_inputs() -> None:
    found = layer_values(import_onnx(MODEL), "Greater:c", None)
    assert found.weights is None and list(found.activations) == ["x"] and found.results["c"].dtype == "bool"


def test_a_layer_of_a_module() -> None:
    module = BinaryConv2d(8, 4, 3).eval()
    imported = import_onnx(to_onnx(module, (1, 8, 5, 5)))
    (name,) = {name for name in imported.nodes.values() if "Binarize" not in name and name}
    found = layer_values(imported, name, None)
    assert found.weights is not None and [bar.low for bar in found.weights.bars] == [-1, 1]


def test_an_unknown_layer() -> None:
    with pytest.raises(InputError, match="the model has no layer 'conv:y': did you mean 'Conv:y'"):
        layer_values(import_onnx(MODEL), "conv:y", None)
    with pytest.raises(InputError, match="`sbnn-tvm inspect` lists its layers"):
        layer_values(import_onnx(MODEL), "features.17", None)
