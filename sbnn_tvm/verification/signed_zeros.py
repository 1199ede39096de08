"""The model as the user allows it: weights of 0 that the library computes as -a or +a are that in the reference too.

Rounding is no reason for another reference: a library whose weights changed within rounding is compared with the model
as it is. A zero that became a sign changes a sum by a whole step, so that no bound would tell a right library from a
wrong one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.passes.layers.kinds import LinearLayer
from sbnn_tvm.passes.relax.snapped_weights import WeightChange, snapped

from ..execution.runnable_model import RunnableModel
from .model_graph import ModelGraph
from .reference import Reference


def with_signed_zeros(module: RunnableModel) -> tuple[onnx.ModelProto, str]:
    """The ONNX model of a library, with a sign for each zero that ``sign_zero`` replaced in its weights.

    Returns:
        The model, and a sentence about what is different in it; the module's own model and "" if nothing is.
    """
    model = module.imported.model
    changed = [(layer, change) for layer, change in _changes(module) if change.zeros]
    if not changed:
        return model, ""
    reference = Reference(model)
    new = onnx.ModelProto()
    new.CopyFrom(model)
    nodes = {node.output[0]: node for node in new.graph.node if node.output}
    for layer, change in changed:
        node = _linear_node(reference.graph, module.imported, layer)
        if node is None:
            continue  # the comparison with the unchanged model names the layer
        weight = reference.graph.value(node.input[1], {})
        if weight is None:
            weight = reference.from_values({}, [node.input[1]])[node.input[1]]
        signed = _signed(node, weight, change.sign_of_zero)
        name = f"{node.input[1]} signed for {node.output[0]}"
        new.graph.initializer.append(numpy_helper.from_array(signed, name))
        nodes[node.output[0]].input[1] = name
    counts = ", ".join(f"{layer.node(module.imported.nodes)} ({change.zeros})" for layer, change in changed)
    return new, f"onnxruntime computed with signs instead of zeros in the weights of {counts}"


def _changes(module: RunnableModel) -> Iterator[tuple[LinearLayer, WeightChange]]:
    for low in module.lowered.layers:
        if isinstance(low.layer, LinearLayer) and low.layer.weight_change is not None:
            yield low.layer, low.layer.weight_change


def _linear_node(graph: ModelGraph, imported: Imported, layer: LinearLayer) -> onnx.NodeProto | None:
    """The node whose weights the layer has; None if it is no operator that has them as its second input."""
    variables = list(imported.nodes)
    for name in (layer.integer_sum_of, *layer.members):
        # A variable inside a node directly precedes the one that has the node's result.
        later = variables[variables.index(name) :] if name is not None and name in imported.nodes else ()
        result = next((imported.trace[each] for each in later if each in imported.trace), None)
        node = graph.producers.get(result) if result is not None else None
        if node is not None and node.op_type in _CHANNELS_FIRST:
            return node
    return None


def _signed(node: onnx.NodeProto, weight: np.ndarray, sign: int) -> np.ndarray:
    """The weights of a node, set to two values per output channel as the compiler does it."""
    attributes = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}
    places = _CHANNELS_FIRST[node.op_type](np.arange(weight.size).reshape(weight.shape), attributes)
    new = weight.astype(np.float32).reshape(-1)
    found = snapped(new[places], sign)
    if found is not None:
        new[places] = found[0]
    return new.reshape(weight.shape).astype(weight.dtype)


def _transposed(places: np.ndarray, attributes: dict[str, Any]) -> np.ndarray:
    """Weights [in, out / groups, ...] of a transposed convolution."""
    groups = attributes.get("group", 1)
    grouped = places.reshape(groups, len(places) // groups, places.shape[1], -1)
    return grouped.swapaxes(1, 2).reshape(groups * places.shape[1], -1)


_CHANNELS_FIRST: dict[str, Callable[[np.ndarray, dict[str, Any]], np.ndarray]] = {
    "Conv": lambda places, attributes: places.reshape(len(places), -1),
    "ConvTranspose": _transposed,
    "Gemm": lambda places, attributes: places if attributes.get("transB") else places.T,
    "MatMul": lambda places, attributes: places.T,
}
"""By operator, the weights as rows, one per output channel."""
