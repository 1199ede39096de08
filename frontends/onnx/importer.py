"""Import of ONNX models to Relax, in the form that the passes read.

``main`` is one dataflow block with static shapes. Each ONNX value that depends on an input becomes a separate variable,
which ``Imported.trace`` names, so that it can be compared with onnxruntime's value. Values that depend on constants
alone are computed here and leave no node.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
import tvm
from onnx import inliner
from tvm import relax

from sbnn_tvm.errors import ModelError
from sbnn_tvm.runtime.metadata import TensorSpec

from . import opset
from .graph_import import GraphImport, reason_of
from .node import STANDARD, dtype_of, shape_of
from .size_limits import check_live_bytes
from .static_shapes import check_element_type, model_inputs, tensor_spec, with_static_inputs

OLDEST_OPSET = 7
"""The oldest version of the standard operators; before it, broadcasting was an attribute."""


@dataclass(frozen=True, eq=False)
class Imported:
    """An ONNX model as a Relax module.

    Attributes:
        mod: The module; its function ``main`` returns a tensor, or a tuple if the model has several outputs.
        trace: By the name of a Relax variable, the ONNX value that it computes.
        nodes: By the name of a Relax variable, the ONNX node that it comes from. The name of an output stands for an
            output that no node computes.
        inputs: The inputs in the order of ``main``'s parameters.
        outputs: The outputs in order.
        model: The ONNX model that ``mod`` is equal to, with static input shapes and foreign functions inlined.
    """

    mod: tvm.IRModule
    trace: Mapping[str, str]
    nodes: Mapping[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: onnx.ModelProto


def import_onnx(
    model: onnx.ModelProto, input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None
) -> Imported:
    """Turns an ONNX model into a Relax module.

    Args:
        model: A model that ``load_model`` accepts.
        input_shape: The shape of the only input, or shapes by input name, for dimensions that the model leaves open.

    Returns:
        The module, and the relation of its variables to the model.

    Raises:
        ModelError: If a shape stays dynamic, an operator is not supported (the message names all of them), or a node is
            inconsistent.
    """
    _check_domain_version(model)
    _check_standard_version(model)
    model = _inline_functions(with_static_inputs(model, input_shape))
    for output in model.graph.output:
        check_element_type("output", output)
    graph_import = GraphImport(model)
    mod = graph_import.run()
    check_live_bytes(mod["main"])
    returned = graph_import.returned
    outputs = tuple(
        TensorSpec(output.name, shape_of(value), dtype_of(value))
        for output, value in zip(model.graph.output, returned, strict=True)
    )
    inputs = tuple(tensor_spec(value) for value in model_inputs(model.graph))
    nodes = _nodes_of_all(mod["main"], graph_import.nodes)
    return Imported(mod, graph_import.trace, nodes, inputs, outputs, model)


def _check_domain_version(model: onnx.ModelProto) -> None:
    for entry in model.opset_import:
        if entry.domain == opset.DOMAIN and entry.version > opset.VERSION:
            raise ModelError(
                f"the model uses version {entry.version} of the {opset.DOMAIN} operators, but this release knows them "
                f"up to version {opset.VERSION}; update sbnn_tvm or export for version {opset.VERSION}"
            )


def _check_standard_version(model: onnx.ModelProto) -> None:
    versions = {entry.domain: entry.version for entry in model.opset_import if entry.domain in STANDARD}
    version = versions.get("", versions.get("ai.onnx", 1))
    if version < OLDEST_OPSET:
        raise ModelError(
            f"the model uses version {version} of the standard operators, but only versions from {OLDEST_OPSET} on are "
            "supported; convert it with onnx.version_converter, or export it again"
        )


def _inline_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Replaces calls of model-local functions by their bodies, except the ai.sbnn operators."""
    foreign = [(function.domain, function.name) for function in model.functions if function.domain != opset.DOMAIN]
    try:
        return inliner.inline_selected_functions(model, foreign) if foreign else model
    except Exception as error:  # ONNX raises any type
        raise ModelError(
            f"the functions of the model cannot be replaced by their bodies: {reason_of(error)}"
        ) from error


def _nodes_of_all(main: relax.Function, known: Mapping[str, str]) -> dict[str, str]:
    """Assigns the intermediate variables of a node to that node; they directly precede its result."""
    nodes: dict[str, str] = {}
    current = ""
    for block in reversed(main.body.blocks):
        for binding in reversed(block.bindings):
            current = known.get(binding.var.name, current)
            nodes[binding.var.name] = current
    return dict(reversed(nodes.items()))
