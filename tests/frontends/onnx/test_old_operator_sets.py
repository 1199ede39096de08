"""Models of operator sets 7 to 10, as PyTorch 0.4 to 1.2 wrote them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from tests.support.imports import relu_model
from tests.support.small_models import run_reference


def old_model(version: int, rng: np.random.Generator) -> onnx.ModelProto:
    """A network of the operators whose form has changed since."""
    nodes, constants = [], []

    def constant(value: Any) -> str:
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        constants.append(numpy_helper.from_array(array, f"c{len(constants)}"))
        return constants[-1].name

    def node(operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        names = [f"v{len(nodes)}_{index}" for index in range(outputs)]
        nodes.append(helper.make_node(operator, inputs, names, f"{operator}_{len(nodes)}", **attributes))
        return names[0]

    def normal(*shape: int) -> str:
        return constant(rng.standard_normal(shape) / 4)

    y = node("Pad", "x", mode="constant", pads=[0, 0, 1, 1, 0, 0, 1, 1], value=0.5)
    y = node("Conv", y, normal(8, 3, 3, 3), normal(8), kernel_shape=[3, 3], pads=[0, 0, 0, 0], strides=[1, 1])
    statistics = normal(8), normal(8), normal(8), constant(rng.uniform(0.5, 2, 8))
    spatial = {"spatial": 1} if version < 9 else {}
    y = node("BatchNormalization", y, *statistics, epsilon=1e-5, momentum=0.9, **spatial)
    y = node("PRelu", y, normal(8, 1, 1))
    y = node("MaxPool", y, kernel_shape=[2, 2], pads=[0, 0, 0, 0], strides=[2, 2])
    y = node("Dropout", y, ratio=0.5, outputs=1 + (version != 10))
    y = node("Pad", y, mode="reflect", pads=[0, 0, 1, 0, 0, 0, 0, 1])
    if version >= 9:
        scales = constant(np.float32([1, 1, 2, 2]))
        y = node("Upsample" if version == 9 else "Resize", y, scales, mode="nearest")
    else:
        y = node("Upsample", y, mode="nearest", scales=[1.0, 1.0, 2.0, 2.0])
    if version >= 10:
        bounds = (constant(np.int64(value)) for value in ([1, 0], [9, 2**31 - 1], [2, 3], [1, 1]))
        y = node("Slice", y, *bounds)
    else:
        y = node("Slice", y, starts=[1, 0], ends=[9, 2**31 - 1], axes=[2, 3])
    y = node("Clip", y, min=-1.0, max=2.0)
    y = node("Unsqueeze", y, axes=[2])
    y = node("Squeeze", y, axes=[2])
    branch = node("ReduceMean", y, axes=[2, 3], keepdims=1)
    y = node("Sub", y, branch)
    first = node("Split", y, axis=1, split=[4, 4], outputs=2)
    y = node("Concat", first, first.replace("_0", "_1"), first, axis=1)
    y = node("AveragePool", y, kernel_shape=[2, 2], pads=[0, 0, 0, 0], strides=[2, 2], count_include_pad=1)
    y = node("Reshape", y, constant(np.int64([0, -1])))
    y = node("Gemm", y, normal(5, 12 * 4 * 5), normal(5), alpha=1.0, beta=1.0, transB=1)
    y = node("Softmax", y, axis=1)
    y3 = node("Unsqueeze", y, axes=[1, 3])
    coerced = node("Softmax", node("Mul", y3, normal(3, 1, 2)), axis=1)  # over all axes from 1 on
    counts = node("Flatten", coerced, axis=1)
    y = node("Concat", y, counts, node("ReduceSum", coerced, axes=[2, 3], keepdims=0), axis=1)
    nodes[-1].output[0] = "y"
    graph = helper.make_graph(
        nodes,
        "torch-jit-export",
        [
            helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 8, 8]),
            *(helper.make_tensor_value_info(c.name, c.data_type, c.dims) for c in constants),
        ],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=3)
    return onnx.shape_inference.infer_shapes(model)


@pytest.mark.parametrize("version", [7, 8, 9, 10])
def test_network(version: int, rng: np.random.Generator) -> None:
    model = old_model(version, rng)
    module = sbnn_tvm.compile(model)
    module.verify()
    x = rng.standard_normal((2, 3, 8, 8)).astype(np.float32)
    (wanted,) = run_reference(model, {"x": x}).values()
    np.testing.assert_allclose(module.library.run(x), wanted, rtol=1e-5, atol=1e-6)


def test_older_sets_are_refused() -> None:
    model = relu_model(version=6)
    with pytest.raises(ModelError, match="version 6 of the standard operators, but only versions from 7 on"):
        sbnn_tvm.compile(model)
