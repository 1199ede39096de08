"""Compile an ONNX file from another tool, with standard operators only, and see why some of its layers stay float.

The graph does not mark any layer as binary. The compiler finds the tensors that provably have two values: activations
from ``Where(Greater(x, t), hi, lo)``, and weights with two values in each output channel.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import sbnn_tvm


def foreign_model(seed: int = 0) -> onnx.ModelProto:
    """A network as another tool may write it: scales folded into the weights, Sign in some layers, Where in others."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []

    def constant(name: str, value: np.ndarray | float) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(operator: str, name: str, *inputs: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(operator, list(inputs), [name], name=name, **attributes))
        return name

    def conv(name: str, x: str, weight: np.ndarray, bias: np.ndarray | None = None) -> str:
        inputs = [x, constant(f"{name}.weight", weight)] + ([] if bias is None else [constant(f"{name}.bias", bias)])
        return node("Conv", name, *inputs, pads=[1, 1, 1, 1], kernel_shape=[3, 3])

    def two_values(channels: int, inputs: int) -> np.ndarray:
        """-a and +a, with a different a in every output channel."""
        scale = rng.uniform(0.02, 0.06, (channels, 1, 1, 1))
        return scale * np.sign(rng.standard_normal((channels, inputs, 3, 3)))

    zero, one, minus_one = constant("zero", 0), constant("one", 1), constant("minus_one", -1)
    x = conv("stem", "image", rng.standard_normal((64, 3, 3, 3)) / 5)

    x = node("Where", "binarized1", node("Greater", "positive1", x, zero), one, minus_one)
    x = conv("binary", x, two_values(64, 64), rng.standard_normal(64))  # bits x bits: becomes a popcount

    x = node("Sign", "sign", x)  # 0 at 0: a third value
    x = conv("after_sign", x, two_values(64, 64))

    x = node("Relu", "relu", x)  # many values
    x = conv("after_relu", x, two_values(64, 64))

    x = node("Where", "binarized2", node("Greater", "positive2", x, zero), one, minus_one)
    x = conv("ternary", x, rng.integers(-1, 2, (64, 64, 3, 3)))  # weights -1, 0 and +1

    x = node("Flatten", "flat", node("GlobalAveragePool", "pool", x))
    node("Gemm", "scores", x, constant("head", rng.standard_normal((64, 10))))
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 16, 16])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 10])],
        constants,
    )
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])


def main() -> None:
    """Compile the model as it is, and again with an option that halves the bits of one activation."""
    model = foreign_model()
    module = sbnn_tvm.compile(model)
    print(module.report, "\n")
    print(module.verify(), "\n")

    print("Sign has three values, which take two bits. If 0 never occurs, or may count as +1, sign_zero says so:\n")
    module = sbnn_tvm.compile(model, sign_zero="positive")
    print(module.report, "\n")
    print(module.verify())


if __name__ == "__main__":
    main()
