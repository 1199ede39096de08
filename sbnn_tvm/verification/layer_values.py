"""The values that a layer works on: its weights as the model has them, and its activations as onnxruntime computes."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.passes.relax.graph import Graph
from sbnn_tvm.passes.relax.weights import linear_weight

from ..errors import InputError
from ..report.distribution import Distribution
from ..runtime.inputs import random_inputs
from .inputs import RandomInputs
from .reference import Reference


@dataclass(frozen=True)
class LayerValues:
    """The values of one layer.

    Attributes:
        layer: Name of the ONNX node.
        operator: Its operator.
        weights: Its weights, output channels first; None if it has none that are constant.
        activations: By the name of the ONNX value, what else it reads.
        results: By the name of the ONNX value, what it computes.
    """

    layer: str
    operator: str
    weights: Distribution | None
    activations: dict[str, Distribution]
    results: dict[str, Distribution]


def layer_values(imported: Imported, layer: str, inputs: Sequence[np.ndarray] | None, seed: int = 0) -> LayerValues:
    """Run a model in onnxruntime and look at one layer.

    Args:
        imported: The model.
        layer: The name of an ONNX node, as in the report.
        inputs: One array per input of the model; None for normally distributed ones.
        seed: Seed of these.

    Raises:
        InputError: If the model has no such layer.
    """
    node = _node(imported, layer)
    reference = Reference(imported.model)
    if inputs is None:
        ranges = RandomInputs(1, seed).draw(reference, imported.inputs).ranges
        inputs = random_inputs(imported.inputs, np.random.default_rng(seed), ranges)
    feeds = dict(zip((spec.name for spec in imported.inputs), inputs, strict=True))
    read = dict.fromkeys(reference.graph.variables(node))
    computed = dict.fromkeys(name for name in node.output if name)
    values = reference.run(feeds, [name for name in (*read, *computed) if name not in feeds])
    weights = _weights(imported, layer)
    return LayerValues(
        layer,
        node.op_type,
        None if weights is None else Distribution.of(weights, 0),
        {name: _distribution(values[name]) for name in read},
        {name: _distribution(values[name]) for name in computed},
    )


def _node(imported: Imported, layer: str) -> onnx.NodeProto:
    nodes = {node.name or node.output[0]: node for node in imported.model.graph.node}
    if layer in nodes:
        return nodes[layer]
    known = dict.fromkeys(name for name in imported.nodes.values() if name in nodes)
    close = difflib.get_close_matches(layer, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, close))}?" if close else "`sbnn-tvm inspect` lists its layers"
    raise InputError(f"the model has no layer {layer!r}: {hint}")


def _weights(imported: Imported, layer: str) -> np.ndarray | None:
    for var, value in Graph(imported.mod["main"]).bindings:
        if imported.nodes.get(var.name) == layer and (weight := linear_weight(value)) is not None:
            return weight
    return None


def _distribution(array: np.ndarray) -> Distribution:
    return Distribution.of(array, 1 if array.ndim in (2, 4) else array.ndim - 1)
