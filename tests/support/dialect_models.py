"""Models of one node in a dialect of ONNX, and what its standard form computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from sbnn_tvm.frontends.onnx.load_model import load_model

QONNX = "qonnx.custom_op.general"

TIES_AND_LIMITS = np.array(
    [
        *(0, -0.0, 0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.49999997, -0.49999997, 1e-45, -1e-45, 3, -3, 7.5, -8.5),
        *(1e30, -1e30, np.inf, -np.inf),
    ],
    np.float32,
)


def one_node(
    operator: str,
    parameters: Sequence[Any],
    shape: Sequence[int],
    attributes: Mapping[str, Any] | None = None,
    opset: int = 17,
    domain: str = QONNX,
    names_domain: bool = True,
    before: str = "",
) -> onnx.ModelProto:
    """A model y = operator(x, *parameters) with constant parameters.

    ``names_domain``: it has an operator-set entry. ``before``: a standard operator between the input and the node.
    """
    names = [f"p{index}" for index in range(len(parameters))]
    node = helper.make_node(operator, ["x", *names], ["y"], "the_node", domain=domain, **(attributes or {}))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * len(shape))
    constants = [numpy_helper.from_array(np.asarray(each), name) for each, name in zip(parameters, names, strict=True)]
    entries = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1)] * (names_domain and bool(domain))
    nodes = [node]
    if before:
        nodes.insert(0, helper.make_node(before, ["x"], ["given"]))
        node.input[0] = "given"
    graph = helper.make_graph(nodes, "one_node", [x], [y], constants)
    return helper.make_model(graph, opset_imports=entries, ir_version=8)


def run_standard_form(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """The output of onnxruntime for the standard operators that ``load_model`` makes of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(load_model(model).SerializeToString(), options, ["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: x})[0])


def numbers_at_ties(rng: np.random.Generator, shape: Sequence[int], scale: float) -> np.ndarray:
    """Random numbers, half of which are halves of the scale, with zeros, limits and infinities at the end."""
    values = (rng.standard_normal(int(np.prod(shape))) * 4 * scale).astype(np.float32)
    half = len(values) // 2
    values[:half] = np.round(values[:half] / scale * 2).astype(np.float32) / 2 * np.float32(scale)
    values[-len(TIES_AND_LIMITS) :] = TIES_AND_LIMITS
    return values.reshape(shape)
