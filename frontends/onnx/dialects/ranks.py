"""The number of dimensions of values, before the nodes of dialects are standard operators."""

from __future__ import annotations

from collections.abc import Container

import onnx
from onnx import ModelProto, ValueInfoProto

from ..check_model import skeleton


def ranks(model: ModelProto, dialect: Container[tuple[str, str]]) -> dict[str, int]:
    """The number of dimensions of the values of a graph, by name, as far as ONNX's shape inference knows them.

    Args:
        model: A model with nodes of dialects.
        dialect: Domain and name of the operators of dialects. The output of each has the rank of its first input.
    """
    outline = skeleton(model)
    for node in outline.graph.node:
        if (node.domain, node.op_type) in dialect:
            node.domain, node.op_type = "", "Identity"
            del node.input[1:], node.attribute[:]
    try:
        inferred = onnx.shape_inference.infer_shapes(outline, data_prop=True).graph
    except Exception:  # the inference raises any type; the checks that follow say what is wrong
        inferred = outline.graph
    values = (*inferred.value_info, *inferred.output, *inferred.input)
    found = {value.name: len(value.type.tensor_type.shape.dim) for value in values if _has_shape(value)}
    return found | {tensor.name: len(tensor.dims) for tensor in model.graph.initializer}


def _has_shape(value: ValueInfoProto) -> bool:
    return value.type.tensor_type.HasField("shape")
