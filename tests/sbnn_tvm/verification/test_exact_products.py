"""onnxruntime as the reference of integer products: exact on every CPU, whatever the signs of data and weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sbnn_tvm.verification.exact_products import with_exact_products
from tests.support.imports import build
from tests.support.small_models import run_reference


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("operator", ["MatMulInteger", "QLinearMatMul", "ConvInteger", "QLinearConv"])
@pytest.mark.parametrize("zero", [False, True])
def test_products_of_whole_bytes(rng: np.random.Generator, operator: str, dtype: str, zero: bool) -> None:
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, (6, 40)).astype(dtype)
    weights = rng.integers(90, 128, (40, 7)).astype(np.int8)
    constants = {"s": np.float32(2**-12), "one": np.float32(1), "zero": np.int8(0), "z": np.array(3 * zero, dtype)}
    conv = operator.endswith("Conv") or operator.startswith("Conv")
    feeds = {"x": x.reshape(6, 40, 1, 1) if conv else x}
    constants["w"] = weights.T.reshape(7, 40, 1, 1) if conv else weights
    if operator.startswith("QLinear"):
        model = build(f"y = {operator}(x, s, z, w, one, zero, one, z)", feeds, constants)
    else:
        model = build(f"y = {operator}(x, w{', z' if zero else ''})", feeds, constants)
    want = (x.astype(np.int32) - 3 * zero) @ weights.astype(np.int32)
    if operator.startswith("QLinear"):
        want = np.clip(np.rint(want * np.float32(2**-12)) + 3 * zero, limits.min, limits.max)
    got = run_reference(with_exact_products(model), feeds)["y"]
    np.testing.assert_array_equal(got.reshape(6, 7), want)


@pytest.mark.parametrize("dtype", ["uint8", "int8"])
@pytest.mark.parametrize("operator", ["QGemm", "MatMulIntegerToFloat"])
def test_products_of_onnxruntime(rng: np.random.Generator, operator: str, dtype: str) -> None:
    limits = np.iinfo(dtype)
    x = rng.integers(limits.min, limits.max + 1, (6, 40)).astype(dtype)
    weights = rng.integers(90, 128, (40, 7)).astype(np.int8)
    order = ["x", "one", "z", "w", "one", "zero"] if operator == "QGemm" else ["x", "w", "one", "one", "z", "zero"]
    constants = {"w": weights, "one": np.float32(1), "z": np.array(3, dtype), "zero": np.int8(0)}
    graph = helper.make_graph(
        [helper.make_node(operator, order, ["y"], domain="com.microsoft")],
        "test",
        [helper.make_tensor_value_info("x", helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (6, 7))],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    got = run_reference(with_exact_products(model), {"x": x})["y"]
    np.testing.assert_array_equal(got, (x.astype(np.int32) - 3) @ weights.astype(np.int32))
