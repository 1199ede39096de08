"""No blind trust: what a converter does not read, or gets wrong, is refused."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.function_bodies import body, has_body, off_default
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.inferred_types import InferredType
from sbnn_tvm.frontends.onnx.node import Node
from sbnn_tvm.frontends.onnx.operators.table import CONVERTERS
from sbnn_tvm.frontends.onnx.tvm_converters import HONOURED, TvmConverters
from tests.support.imports import X, build

RELAXED = relax.Var("x", relax.TensorType((2, 3), "float32"))
INTEGERS = relax.Var("i", relax.TensorType((2,), "int64"))


@pytest.mark.parametrize(
    ("node", "inputs", "version", "sentence"),
    [
        (helper.make_node("Gelu", ["x"], ["y"], approximate="tanh"), [RELAXED], 21, None),
        (helper.make_node("Gelu", ["x"], ["y"], exact=1), [RELAXED], 21, "has exact=1, which is not supported"),
        (helper.make_node("Mean", ["x", "x"], ["y"]), [RELAXED, RELAXED], 7, "of operator set 7 is not supported"),
        (
            helper.make_node("Expand", ["x", "i"], ["y"]),
            [RELAXED, INTEGERS],
            21,
            "needs a constant as input 1, but 'i'",
        ),
        (helper.make_node("Expand", ["x", "i"], ["y"]), [RELAXED, np.int64([2, 3])], 21, None),
        (helper.make_node("Exp", ["i"], ["y"]), [INTEGERS], 21, "reads int64, which is not supported"),
        (helper.make_node("Attention", ["x"], ["y"]), [RELAXED], 23, ""),
    ],
)
def test_table(node: helper.NodeProto, inputs: list[object], version: int, sentence: str | None) -> None:
    problem = TvmConverters(relax.BlockBuilder()).problem(node, inputs, version)  # type: ignore[arg-type]
    assert problem == sentence if not sentence else problem is not None and problem.startswith(sentence)


def test_own_converters_come_before_those_of_tvm() -> None:
    """An operator is in both tables only if its own converter leaves some cases to TVM's."""
    assert set(HONOURED) & set(CONVERTERS) <= {"BatchNormalization", "Cast", "Einsum"}


def test_an_attribute_that_its_converter_does_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONVERTERS, "LeakyRelu", lambda node: relax.op.nn.leakyrelu(node.expr(0), 0.01))
    import_onnx(build("y = LeakyRelu<alpha = 0.01>(x)", {"x": X}))
    with pytest.raises(ModelError, match=r"LeakyRelu node 'LeakyRelu:y' has alpha=0\.5, which is not supported"):
        import_onnx(build("y = LeakyRelu<alpha = 0.5>(x)", {"x": X}))


def _narrow(node: Node) -> relax.Expr:
    return relax.op.sum(node.expr(0), [3])


def _whole(node: Node) -> relax.Expr:
    return relax.op.astype(node.expr(0), "int32")


@pytest.mark.parametrize(("converter", "kind"), [(_narrow, r"float32\[2, 4, 7\]"), (_whole, r"int32\[2, 4, 7, 9\]")])
def test_a_converter_that_makes_another_type(converter: object, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONVERTERS, "Relu", converter)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=rf"compiled to {kind}, but ONNX says that 'y' is float32\[2, 4, 7, 9\]"):
        import_onnx(build("y = Relu(x)", {"x": X}))


def test_inferred_types() -> None:
    known = InferredType(TensorProto.FLOAT, (2, None))
    assert known.holds("float32", (2, 5)) and not known.holds("float32", (3, 5)) and not known.holds("float32", (2,))
    assert not known.holds("float64", (2, 5)) and str(known) == "float32[2, ?]" and not known.empty
    assert InferredType(TensorProto.FLOAT, None).holds("float32", (7,))
    empty = InferredType(TensorProto.INT64, (0, 3))
    assert empty.empty and empty.without_elements().shape == (0, 3) and empty.without_elements().dtype == np.int64


def test_definitions_of_operators() -> None:
    node = helper.make_node("Celu", ["x"], ["y"], alpha=0.5)
    types = [helper.make_tensor_type_proto(TensorProto.FLOAT, [2, 3])]
    function = body(node, types, 21)
    assert function is not None and has_body(node, 21) and not has_body(node, 11)
    inner = {attribute.name: attribute.f for part in function.node for attribute in part.attribute}
    tensors = [numpy_helper.to_array(a.t).item() for part in function.node for a in part.attribute if a.HasField("t")]
    assert 0.5 in (*inner.values(), *tensors)  # in place of the reference to the attribute
    assert not any(a.ref_attr_name for inner in function.node for a in inner.attribute)
    assert body(helper.make_node("Relu6", ["x"], ["y"]), types, 21) is None
    assert body(helper.make_node("Add", ["x", "x"], ["y"]), types * 2, 21) is None


def test_attributes_off_their_defaults() -> None:
    node = helper.make_node("Gemm", ["a", "b"], ["y"], alpha=1.0, transA=0, transB=1, beta=2.0)
    assert off_default(node, 21, ("transB",)) == "beta=2.0" and off_default(node, 21, ("transB", "beta")) == ""
    node = helper.make_node("Pad", ["x", "p"], ["y"], mode="constant")
    assert off_default(node, 21, ()) == ""
    node.attribute[0].s = b"edge"
    assert off_default(node, 21, ()) == "mode='edge'"
