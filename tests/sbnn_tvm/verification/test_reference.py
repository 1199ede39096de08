"""Parts of a model, in onnxruntime and in float64."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from sbnn_tvm.verification.model_graph import ModelGraph
from sbnn_tvm.verification.reference import Float64Error, Reference
from tests.support.small_models import small_model


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = np.random.default_rng(0)
    text = "k = Sqrt(v)\na = MatMul(x, w)\nb = Mul(a, k)\nc = Sigmoid(b)\ng = Greater(c, half)\ny = Where(g, c, zero)"
    constants = {"w": rng.standard_normal((6, 5)), "v": rng.uniform(1, 2, 5), "half": 0.5, "zero": 0.0}
    return Reference(small_model(text, {"x": (3, 6)}, constants))


@pytest.fixture(scope="module")
def values(reference: Reference) -> dict[str, np.ndarray]:
    return reference.run({"x": np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)})


def test_every_value_and_the_inputs_are_there(values: dict[str, np.ndarray]) -> None:
    assert set(values) == {"x", "k", "a", "b", "c", "g", "y"}


def test_what_depends_on_constants_only(reference: Reference) -> None:
    assert reference.graph.fixed == {"w", "v", "half", "zero", "k"}


def test_a_part_reads_given_values_in_place_of_computed_ones(
    reference: Reference, values: dict[str, np.ndarray]
) -> None:
    given = {"x": values["x"], "a": np.zeros((3, 5), np.float32)}
    found = reference.from_values(given, ["a", "c"])
    assert np.array_equal(found["a"], values["a"])  # computed, although it is given
    assert (found["c"] == 0.5).all()  # from the given zeros
    part, names = reference.graph.part(["c"], given)
    assert list(names) == ["a"] and [node.op_type for node in part.graph.node] == ["Sqrt", "Mul", "Sigmoid"]


def test_float64_starts_from_the_given_floats(reference: Reference, values: dict[str, np.ndarray]) -> None:
    found = reference.in_float64({"x": values["x"], "k": values["k"]}, ["c", "y", "g"])
    weight = ModelGraph(reference.graph.model).value("w", {})
    assert weight is not None
    exact = 1 / (1 + np.exp(-(values["x"].astype(np.float64) @ weight.astype(np.float64)) * values["k"]))
    assert found["c"].dtype == np.float64 and np.abs(found["c"] - exact).max() < 1e-15
    assert found["g"].dtype == bool and np.array_equal(found["y"], np.where(exact > 0.5, found["c"], 0))


def test_functions_and_type_attributes_become_float64(rng: np.random.Generator) -> None:
    text = "q = ai.sbnn.Quantize<step = 0.1>(x, t)\nh = Cast<to = 10>(q)\nf = Cast<to = 1>(h)\ny = Add(f, f)"
    reference = Reference(small_model(text, {"x": (2, 9)}, {"t": np.float32([-1, 0, 1])}))
    x = rng.standard_normal((2, 9)).astype(np.float32)
    step = np.float64(np.float32(0.1))
    codes = (x[..., None] > np.float32([-1, 0, 1])).sum(-1)
    assert np.array_equal(reference.in_float64({"x": x}, ["y"])["y"], 2 * (codes * step))


def test_bodies_of_control_flow_read_given_values(values: dict[str, np.ndarray]) -> None:
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x, bool b) => (float[2] y) {
            a = Neg (x)
            y = If (b) <then_branch = t () => (float[2] p) { p = Add (a, a) },
                        else_branch = e () => (float[2] q) { q = Identity (a) }>
        }"""
    )
    given = {"x": np.float32([1, 2]), "b": np.array(True), "a": np.float32([5, 6])}
    reference = Reference(model)
    assert reference.from_values(given, ["y"])["y"].tolist() == [10, 12]
    assert reference.in_float64(given, ["y"])["y"].dtype == np.float64


def test_what_cannot_be_computed_in_float64_is_said() -> None:
    reference = Reference(small_model("y = Relu(x)", {"x": ((2,), "float32")}))
    reference.graph.model.graph.node[0].op_type = "NoSuchOperator"
    with pytest.raises(Float64Error, match="onnx's reference implementation fails in float64"):
        reference.in_float64({"x": np.zeros(2, np.float32)}, ["y"])
