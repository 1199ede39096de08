"""Constant and shape computations are evaluated at import."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.imports import X, build, check, constants_of, operators, run_imported
from tests.support.random_arrays import normal
from tests.support.small_models import run_reference


def test_constant_subgraphs_are_evaluated(rng: np.random.Generator) -> None:
    latent = normal(rng, 5, 4, 3, 3)
    imported = check(
        """
        sign = Sign(latent)
        magnitude = Abs(latent)
        scale = ReduceMean<keepdims = 1>(magnitude, axes)
        w = Mul(sign, scale)
        y = Conv(x, w)
        """,
        {"x": X},
        {"latent": latent, "axes": np.int64([1, 2, 3])},
    )
    assert operators(imported) == ["nn.conv2d"] and len(constants_of(imported)) == 1


def test_static_shape_computations_are_evaluated() -> None:
    model = build(
        """
        shape = Shape(x)
        zero = Constant<value_int = 0>()
        batch = Gather<axis = 0>(shape, zero)
        axis = Constant<value_ints = [0]>()
        first = Unsqueeze(batch, axis)
        rest = Constant<value_ints = [-1]>()
        to = Concat<axis = 0>(first, rest)
        r = Relu(x)
        y = Reshape(r, to)
        """,
        {"x": X},
        shapes={"x": ["N", 4, "H", "W"]},
    )
    imported = import_onnx(load_model(model), X.shape)
    assert operators(imported) == ["nn.relu", "reshape"] and imported.outputs[0].shape == (2, 252)
    assert [d.dim_value for d in imported.model.graph.input[0].type.tensor_type.shape.dim] == [2, 4, 7, 9]
    np.testing.assert_array_equal(run_imported(imported, {"x": X})[0], run_reference(imported.model, {"x": X})["y"])


@pytest.mark.parametrize("version", [12, 16])
def test_comparisons_of_constants(version: int) -> None:
    """ONNX infers no type for GreaterOrEqual and LessOrEqual before operator set 16."""
    text = "g = GreaterOrEqual(a, b)\nl = LessOrEqual(a, b)\nboth = And(g, l)\ny = Where(both, x, a)"
    constants = {"a": np.float32([[1, 2, 3]]), "b": np.float32(2)}
    assert operators(import_onnx(build(text, {"x": X[0, 0, :1, :3]}, constants, version))) == ["where"]


def test_one_hot_keeps_its_values() -> None:
    constants = {"picks": np.int64([1, -1, 7]), "depth": np.int64(3), "ends": np.float32([1e8, 1])}
    imported = check("hot = OneHot<axis = 0>(picks, depth, ends)\ny = Mul(x, hot)", {"x": X[0, 0, :3, :3]}, constants)
    (hot,) = constants_of(imported)
    np.testing.assert_array_equal(hot, np.float32([[1e8, 1e8, 1e8], [1, 1e8, 1e8], [1e8, 1, 1e8]]))


def test_branches_of_constant_condition() -> None:
    def branch(operator: str) -> onnx.GraphProto:
        node = helper.make_node(operator, ["x"], ["z"])
        return helper.make_graph([node], "branch", [], [helper.make_tensor_value_info("z", 1, X.shape)])

    model = build("y = Relu(x)", {"x": X}, {"c": np.array(False)})
    attributes = {"then_branch": branch("NoSuchOperator"), "else_branch": branch("Neg")}
    model.graph.node[0].CopyFrom(helper.make_node("If", ["c"], ["y"], **attributes))
    assert operators(import_onnx(model)) == ["negative"]


def test_sparse_initializers(rng: np.random.Generator) -> None:
    model = build("y = MatMul(x, w)", {"x": normal(rng, 2, 3)}, {"w": np.zeros((3, 4), np.float32)})
    del model.graph.initializer[:]
    values, indices = np.float32([2, 3]), np.int64([1, 11])
    sparse = helper.make_sparse_tensor(numpy_helper.from_array(values, "w"), numpy_helper.from_array(indices), [3, 4])
    model.graph.sparse_initializer.append(sparse)
    (weight,) = constants_of(import_onnx(load_model(model)))
    assert weight[0, 1] == 2 and weight[2, 3] == 3 and np.count_nonzero(weight) == 2
