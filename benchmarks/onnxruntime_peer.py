"""The layers of a chain in onnxruntime: one thread, all optimisations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from chains import FloatChain, Int8Chain
from contestant import Contestant
from onnx import helper, numpy_helper

from sbnn_tvm.schedules.shapes import Conv2dShape


def float_contestant(chain: FloatChain) -> tuple[Contestant, np.ndarray]:
    """A float32 chain, and the mean of every channel of its output, float32 [N, OC].

    In a chain onnxruntime keeps its own blocked layout, as in a network. The chain ends in a mean, so that converting
    the feature map back is not timed: that is not part of the layers.
    """
    weights = {f"w{i}": weight for i, weight in enumerate(chain.weights)}
    nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], **_attributes(s)) for i, s in _links(chain)]
    nodes.append(helper.make_node("GlobalAveragePool", [f"x{len(nodes)}"], ["y"]))
    x = np.ascontiguousarray(chain.data.transpose(0, 3, 1, 2))
    made = _session(nodes, weights, x)
    return _bound(made, x, len(chain.shapes)), made.run(None, {"x0": x})[0][:, :, 0, 0]


def int8_contestant(chain: Int8Chain) -> tuple[Contestant, np.ndarray]:
    """A chain of QLinearConv, the fast combination on x86, and the mean of every channel of its output, uint8 [N, OC].

    It ends in a mean as a float chain does.
    """
    constants: dict[str, Any] = {
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "w_zero": np.int8(0),
    }
    nodes = []
    for i, s in enumerate(chain.shapes):
        constants |= {f"w{i}": chain.weights[i], f"w_scale{i}": chain.multipliers[i]}
        inputs = [f"x{i}", "scale", "zero", f"w{i}", f"w_scale{i}", "w_zero", "scale", "zero"]
        nodes.append(helper.make_node("QLinearConv", inputs, [f"x{i + 1}"], **_attributes(s)))
    inputs = [f"x{len(nodes)}", "scale", "zero", "scale", "zero"]
    nodes.append(helper.make_node("QLinearGlobalAveragePool", inputs, ["y"], domain="com.microsoft"))
    x = np.ascontiguousarray(chain.data.transpose(0, 3, 1, 2))
    made = _session(nodes, constants, x)
    return _bound(made, x, len(chain.shapes)), made.run(None, {"x0": x})[0][:, :, 0, 0]


def quantised_model(chain: Int8Chain, links: int) -> onnx.ModelProto:
    """The first ``links`` layers of a chain between DequantizeLinear and QuantizeLinear, from "x0" to "y", uint8."""
    constants: dict[str, Any] = {"scale": np.float32(0.02), "zero": np.uint8(128), "w_zero": np.int8(0)}
    nodes, code = [], "x0"
    for i, s in enumerate(chain.shapes[:links]):
        constants |= {f"w{i}": chain.weights[i], f"w_scale{i}": chain.multipliers[i]}
        out = "y" if i == links - 1 else f"x{i + 1}"
        nodes += [
            helper.make_node("DequantizeLinear", [code, "scale", "zero"], [f"real{i}"]),
            helper.make_node("DequantizeLinear", [f"w{i}", f"w_scale{i}", "w_zero"], [f"weight{i}"]),
            helper.make_node("Conv", [f"real{i}", f"weight{i}"], [f"sum{i}"], **_attributes(s)),
            helper.make_node("QuantizeLinear", [f"sum{i}", "scale", "zero"], [out]),
        ]
        code = out
    return _model(nodes, constants, np.ascontiguousarray(chain.data.transpose(0, 3, 1, 2)))


def _links(chain: FloatChain) -> list[tuple[int, Conv2dShape]]:
    return list(enumerate(chain.shapes))


def _session(
    nodes: list[onnx.NodeProto], weights: Mapping[str, np.ndarray], x: np.ndarray
) -> onnxruntime.InferenceSession:
    """A session for a graph with the input "x0" and the output "y"."""
    return session(_model(nodes, weights, x))


def _model(nodes: list[onnx.NodeProto], weights: Mapping[str, np.ndarray], x: np.ndarray) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=domains, ir_version=10)


def session(model: onnx.ModelProto, optimised: bool = True) -> onnxruntime.InferenceSession:
    """A session on one thread, with all optimisations or none."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _bound(made: onnxruntime.InferenceSession, x: np.ndarray, links: int) -> Contestant:
    """A contestant that runs a session on bound memory, without copies."""
    binding = made.io_binding()
    binding.bind_cpu_input("x0", x)
    binding.bind_output("y", "cpu")
    return Contestant(lambda: made.run_with_iobinding(binding), links)


def _attributes(shape: Conv2dShape) -> dict[str, Any]:
    return {"kernel_shape": shape.kernel, "strides": shape.strides, "pads": shape.padding}
