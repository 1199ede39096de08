"""The same convolutions in onnxruntime, one thread, all its optimisations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from chains import FloatChain
from contestant import Contestant
from layers import Layer
from onnx import helper, numpy_helper

from sbnn_tvm.schedules.shapes import Conv2dShape


def float_contestant(chain: FloatChain) -> tuple[Contestant, np.ndarray]:
    """The chain in float32, and the mean over every channel of its output, float32 [N, OC].

    A chain lets onnxruntime keep its own blocked layout, as it would in a network. The mean at its end is there since
    to convert the feature map back is no part of the layers.
    """
    weights = {f"w{i}": weight for i, weight in enumerate(chain.weights)}
    nodes = [helper.make_node("Conv", [f"x{i}", f"w{i}"], [f"x{i + 1}"], **_attributes(s)) for i, s in _links(chain)]
    nodes.append(helper.make_node("GlobalAveragePool", [f"x{len(nodes)}"], ["y"]))
    x = np.ascontiguousarray(chain.data.transpose(0, 3, 1, 2))
    session = _session(nodes, weights, x)
    return _bound(session, x, len(chain.shapes)), session.run(None, {"x0": x})[0][:, :, 0, 0]


def int8_contestant(layer: Layer, rng: np.random.Generator) -> Contestant:
    """A chain of QLinearConv with uint8 activations and int8 weights, the fast combination on x86."""
    shape = layer.shape
    constants: dict[str, Any] = {
        "scale": np.float32(0.02),
        "zero": np.uint8(128),
        "w_scale": np.float32(0.01),
        "w_zero": np.int8(0),
    }
    nodes = []
    for i, s in enumerate(layer.shapes):
        constants[f"w{i}"] = rng.integers(-127, 128, (s.out_channels, s.in_channels, *s.kernel)).astype(np.int8)
        inputs = [f"x{i}", "scale", "zero", f"w{i}", "w_scale", "w_zero", "scale", "zero"]
        nodes.append(helper.make_node("QLinearConv", inputs, [f"x{i + 1}"], **_attributes(s)))
    inputs = [f"x{layer.links}", "scale", "zero", "scale", "zero"]
    nodes.append(helper.make_node("QLinearGlobalAveragePool", inputs, ["y"], domain="com.microsoft"))
    x = rng.integers(0, 256, (1, shape.in_channels, shape.height, shape.width)).astype(np.uint8)
    return _bound(_session(nodes, constants, x), x, layer.links)


def _links(chain: FloatChain) -> list[tuple[int, Conv2dShape]]:
    return list(enumerate(chain.shapes))


def _session(
    nodes: list[onnx.NodeProto], weights: Mapping[str, np.ndarray], x: np.ndarray
) -> onnxruntime.InferenceSession:
    """A session for a graph from "x0" to "y"."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", kind, x.shape)],
        [helper.make_tensor_value_info("y", kind, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=domains, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _bound(session: onnxruntime.InferenceSession, x: np.ndarray, links: int) -> Contestant:
    """A contestant that runs a session on bound memory, without copies."""
    binding = session.io_binding()
    binding.bind_cpu_input("x0", x)
    binding.bind_output("y", "cpu")
    return Contestant(lambda: session.run_with_iobinding(binding), links)


def _attributes(shape: Conv2dShape) -> dict[str, Any]:
    return {"kernel_shape": shape.kernel, "strides": shape.strides, "pads": shape.padding}
