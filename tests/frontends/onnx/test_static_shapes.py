"""Inputs need static shapes and numeric types."""

from __future__ import annotations

import pytest
from onnx import TensorProto

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import X, build, relu_model


def test_shapes_must_be_static() -> None:
    model = relu_model(shapes={"x": ["batch", 4, 7, 9]})
    with pytest.raises(ModelError, match=r"input 'x' has the dynamic shape \[batch, 4, 7, 9\].*\(1, 4, 7, 9\)"):
        import_onnx(model)
    assert import_onnx(model, (3, 4, 7, 9)).inputs[0].shape == (3, 4, 7, 9)
    assert import_onnx(model, {"x": [3, 4, 7, 9]}).outputs[0].shape == (3, 4, 7, 9)
    for shape, match in [
        ((3, 5, 7, 9), "contradicts"),
        ((4, 7, 9), "contradicts"),
        ({"input": (1, 4, 7, 9)}, "names 'input', but the inputs of the model are: 'x'"),
        ((0, 4, 7, 9), "positive integers"),
        (("N", 4, 7, 9), "positive integers"),
    ]:
        with pytest.raises(ModelError, match=match):
            import_onnx(model, shape)  # type: ignore[arg-type]


def test_several_inputs_need_names() -> None:
    model = build("y = Add(a, b)", {"a": X, "b": X}, shapes={"a": ["N", 4, 7, 9], "b": ["N", 4, 7, 9]})
    with pytest.raises(ModelError, match="2 inputs"):
        import_onnx(model, X.shape)
    with pytest.raises(ModelError, match="dimension 'N'"):
        import_onnx(model, {"a": (2, 4, 7, 9), "b": (1, 4, 7, 9)})
    assert len(import_onnx(model, {"a": X.shape, "b": X.shape}).inputs) == 2


def test_inputs_must_be_numeric_tensors() -> None:
    model = relu_model()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="element type STRING"):
        import_onnx(model)
