"""Layers of QONNX and FINN whose channels are the last axis, against numpy and the same layer with channels first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from onnx import TensorProto, helper, numpy_helper

from sbnn_tvm.compiler import explain
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.dialect_models import QONNX, one_node, run_standard_form

F = np.float32
CHANNELS_LAST = "qonnx.custom_op.channels_last"
SHAPE = (2, 7, 6, 4)


def run(operator: str, x: np.ndarray, parameters: Sequence[np.ndarray], **attributes: Any) -> np.ndarray:
    """The output of a node of the channels-last domain."""
    model = one_node(operator, parameters, x.shape, attributes, domain=CHANNELS_LAST)
    return run_standard_form(model, x)


def first(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, -1, 1)


def reference(operator: str, x: np.ndarray, parameters: Sequence[np.ndarray], **attributes: Any) -> np.ndarray:
    """The standard operator on channels first."""
    model = one_node(operator, parameters, x.shape, attributes, domain="")
    return run_standard_form(model, x)


def test_layers(rng: np.random.Generator) -> None:
    x, bias = rng.standard_normal(SHAPE).astype(F), rng.standard_normal(5).astype(F)
    weights = rng.standard_normal((5, 3, 3, 4)).astype(F)
    attributes = {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 0, 1, 2], "dilations": [1, 1], "group": 1}
    got = run("Conv", x, [weights, bias], **attributes)
    np.testing.assert_array_equal(first(got), reference("Conv", first(x), [first(weights), bias], **attributes))
    window = {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 0]}
    np.testing.assert_array_equal(first(run("MaxPool", x, [], **window)), reference("MaxPool", first(x), [], **window))
    norm = [rng.uniform(0.5, 2, 4).astype(F) for _ in range(4)]
    got = run("BatchNormalization", x, norm, epsilon=0.01)
    np.testing.assert_array_equal(first(got), reference("BatchNormalization", first(x), norm, epsilon=0.01))


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_quant_avg_pool(rng: np.random.Generator, layout: str) -> None:
    x = rng.integers(0, 16, (1, 6, 6, 3)).astype(F)
    attributes = {"kernel": 2, "stride": 2, "ibits": 4, "obits": 4, "signed": 0, "data_layout": layout}
    given = x if layout == "NHWC" else first(x)
    model = one_node("QuantAvgPool2d", [], given.shape, attributes)
    got = run_standard_form(model, given)
    sums = sliding_window_view(first(x), (2, 2), (2, 3))[:, :, ::2, ::2].sum((4, 5))
    want = sums.astype(int) >> 2  # 4 * 15 needs 6 bits
    np.testing.assert_array_equal(first(got) if layout == "NHWC" else got, want)


def columns(
    weights: np.ndarray, shape: Sequence[int], product: str, attributes: Mapping[str, Any], opset: int = 17
) -> onnx.ModelProto:
    """Im2Col and a product, as QONNX lowers convolutions."""
    domain = "" if product == "MatMul" else QONNX
    nodes = [
        helper.make_node("Im2Col", ["x"], ["columns"], "the_columns", domain=QONNX, **attributes),
        helper.make_node(product, ["columns", "w"], ["y"], "the_product", domain=domain),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)
    graph = helper.make_graph(nodes, "columns", [x], [y], [numpy_helper.from_array(weights, "w")])
    entries = [helper.make_opsetid("", opset), helper.make_opsetid(QONNX, 1)]
    return helper.make_model(graph, opset_imports=entries, ir_version=8)


def windows(x: np.ndarray, pads: Sequence[int], value: float, strides: Sequence[int], dilations: Sequence[int]) -> Any:
    """Im2Col of 3x2 windows: [N, OH, OW, kh * kw * C]."""
    padded = np.pad(x, [(0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)], constant_values=value)
    extent = [2 * dilations[0] + 1, dilations[1] + 1]
    found = sliding_window_view(padded, extent, (1, 2))[:, :: strides[0], :: strides[1]]
    found = found[..., :: dilations[0], :: dilations[1]].transpose(0, 1, 2, 4, 5, 3)
    return found.reshape(*found.shape[:3], -1)


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("product", ["MatMul", "XnorPopcountMatMul"])
@pytest.mark.parametrize("value", [0, 1])
def test_im2col(rng: np.random.Generator, product: str, value: int, opset: int) -> None:
    pads, strides, dilations = [1, 0, 1, 2], [2, 1], [1, 2]
    attributes = {
        **{"stride": strides, "kernel_size": [3, 2], "dilations": dilations, "pad_amount": pads, "pad_value": value},
        "input_shape": str(SHAPE),
    }
    binary = product != "MatMul"
    x = rng.integers(0, 2, SHAPE).astype(F) if binary else rng.integers(-3, 4, SHAPE).astype(F)
    weights = rng.integers(0, 2, (24, 5)).astype(F)
    taken = windows(x, pads, value, strides, dilations)
    want = (taken[..., None] == weights).sum(-2) if binary else taken @ weights
    np.testing.assert_array_equal(run_standard_form(columns(weights, SHAPE, product, attributes, opset), x), want)


def test_the_convolution_has_the_name_of_the_product(rng: np.random.Generator) -> None:
    model = columns(
        rng.choice(F([-1, 1]), (4 * 16, 8)), (1, 6, 6, 16), "MatMul", {"stride": [1, 1], "kernel_size": [2, 2]}
    )
    model.graph.node.insert(0, helper.make_node("BipolarQuant", ["x", "one"], ["bits"], domain=QONNX))
    model.graph.initializer.append(numpy_helper.from_array(np.array(1, F), "one"))
    model.graph.node[1].input[0] = "bits"
    (layer,) = explain(model).linear
    assert layer.name == "the_product" and layer.binary


def test_bits_that_agree(rng: np.random.Generator) -> None:
    x, weights = rng.integers(0, 2, (3, 20)).astype(F), rng.integers(0, 2, (20, 5)).astype(F)
    model = one_node("XnorPopcountMatMul", [weights], x.shape)
    np.testing.assert_array_equal(run_standard_form(model, x), (x[..., None] == weights).sum(-2))


def test_debug_markers_pass() -> None:
    x = np.array([[1, 2]], F)
    model = one_node("DebugMarker", [], (1, 2), {"export_debug_name": "seen"})
    np.testing.assert_array_equal(run_standard_form(model, x), x)


def test_what_is_refused(rng: np.random.Generator) -> None:
    model = columns(rng.standard_normal((25, 5)).astype(F), SHAPE, "MatMul", {"stride": [1, 1], "kernel_size": [3, 2]})
    with pytest.raises(
        ModelError, match=r"MatMul node 'the_product' has weights of shape \[25, 5\] for windows of 3 x 2"
    ):
        load_model(model)
    model.graph.node[1].op_type = "Relu"
    del model.graph.node[1].input[1:]
    with pytest.raises(ModelError, match="Im2Col node 'the_columns' is read by Relu node 'the_product'"):
        load_model(model)
    model.graph.output[0].name = "columns"
    del model.graph.node[1:]
    with pytest.raises(ModelError, match="is an output of the model"):
        load_model(model)
