"""A network of quantised layers, compiled for ARM: every bit is that of onnxruntime."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import pytest

import sbnn_tvm

CHANNELS = ((3, 32, 3, 2, 1), (32, 32, 3, 1, 32), (32, 45, 1, 1, 1), (45, 16, 3, 1, 1))
"""Input and output channels, window, stride, groups of each layer; the second is depthwise."""


def quantised_network(rng: np.random.Generator) -> onnx.ModelProto:
    """QuantizeLinear, four QLinearConv on uint8, DequantizeLinear."""
    scale, zero = np.float32(0.02), np.uint8(120)
    constants: dict[str, np.ndarray] = {"scale": np.array(scale), "zero": np.array(zero)}
    nodes = [onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q0"])]
    for i, (inputs, outputs, window, stride, groups) in enumerate(CHANNELS):
        size = (outputs, inputs // groups, window, window)
        constants[f"w{i}"] = rng.integers(-127, 128, size).astype(np.int8)
        constants[f"s{i}"] = (rng.random(outputs) * 0.002 + 1e-4).astype(np.float32)
        constants[f"z{i}"] = np.zeros(outputs, np.int8)
        constants[f"b{i}"] = rng.integers(-2000, 2000, outputs).astype(np.int32)
        operands = [f"q{i}", "scale", "zero", f"w{i}", f"s{i}", f"z{i}", "scale", "zero", f"b{i}"]
        attributes = {"kernel_shape": [window] * 2, "strides": [stride] * 2, "pads": [window // 2] * 4, "group": groups}
        nodes.append(onnx.helper.make_node("QLinearConv", operands, [f"q{i + 1}"], **attributes))
    nodes.append(onnx.helper.make_node("DequantizeLinear", [f"q{len(CHANNELS)}", "scale", "zero"], ["y"]))
    graph = onnx.helper.make_graph(
        nodes,
        "quantised",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 3, 11, 13])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, 16, 6, 7])],
        [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["arm-several", "armv7"])
def test_quantised_network(target: str, rng: np.random.Generator) -> None:
    result = sbnn_tvm.compile(quantised_network(rng), target=target).verify()
    assert result.passed, result
    assert all(output.max_abs == 0 for output in result.outputs)
