"""float16 models are computed in float32: their values are rounded to float16 where they leave the model.

onnxruntime has next to no float16 kernels for CPUs. It converts around every other operator, and removes the
conversions between two such operators, so that a chain of them stays in float32. The importer does the same for the
whole model: float16 is how inputs, outputs and constants are stored. So sums are float32 sums, a value between two
operators may exceed 65504, and float16 layers get the same kernels as float32 layers, binary ones included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from .model_parts import graphs_of, tensors_of

_TYPE_ATTRIBUTES = frozenset({"to", "dtype", "output_dtype", "output_datatype"})
"""The attributes that hold the element type of a node's result."""

_FLOAT16_READERS = frozenset(
    {"Cast", "Compress", "Concat", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Reshape"}
    | {"Scatter", "ScatterElements", "ScatterND", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"}
)
"""Operators that onnxruntime runs on float16 and that do not change values."""


def in_float32(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that computes the same in float32, with float32 inputs and outputs.

    A ``Cast`` to float16 rounds if anything reads its result as float16: another ``Cast``, the caller, or an operator
    that moves values. onnxruntime drops it if only operators that compute follow.

    Args:
        model: A model, with all its tensors in memory.

    Returns:
        A copy without float16 tensors, except for the roundings between two casts; ``model`` itself if it has none.
    """
    if not _mentions_float16(model):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _convert_graph(copy.graph)
    for function in copy.functions:
        _convert_nodes(function.node)
    return copy


def _mentions_float16(model: onnx.ModelProto) -> bool:
    def in_nodes(nodes: Iterable[NodeProto]) -> bool:
        return any(
            (attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT16)
            or any(tensor.data_type == TensorProto.FLOAT16 for _, tensor in tensors_of(attribute))
            or any(in_graph(graph) for graph in graphs_of(attribute))
            for node in nodes
            for attribute in node.attribute
        )

    def in_graph(graph: GraphProto) -> bool:
        kinds = [value.type.tensor_type.elem_type for value in (*graph.input, *graph.output, *graph.value_info)]
        kinds += [tensor.data_type for tensor in _initializers(graph)]
        return TensorProto.FLOAT16 in kinds or in_nodes(graph.node)

    return in_graph(model.graph) or any(in_nodes(function.node) for function in model.functions)


def _convert_graph(graph: GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        _convert_type(value.type)
    for tensor in _initializers(graph):
        _convert_tensor(tensor)
    read_as_it_is = {name for node in graph.node if node.op_type in _FLOAT16_READERS for name in node.input}
    read_as_it_is.update(output.name for output in graph.output)
    roundings = [node for node in graph.node if _casts_to_float16(node) and node.output[0] in read_as_it_is]
    _convert_nodes(graph.node)
    for node in roundings:
        rounded = f"{node.output[0]}_rounded"
        rounding = helper.make_node("Cast", [node.input[0]], [rounded], node.name, to=TensorProto.FLOAT16)
        graph.node.insert(list(graph.node).index(node), rounding)
        node.input[0] = rounded


def _casts_to_float16(node: NodeProto) -> bool:
    return node.op_type == "Cast" and any(each.i == TensorProto.FLOAT16 for each in node.attribute if each.name == "to")


def _convert_nodes(nodes: Iterable[NodeProto]) -> None:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
            for _, tensor in tensors_of(attribute):
                _convert_tensor(tensor)
            for graph in graphs_of(attribute):
                _convert_graph(graph)


def _convert_type(kind: TypeProto) -> None:
    if kind.tensor_type.elem_type == TensorProto.FLOAT16:
        kind.tensor_type.elem_type = TensorProto.FLOAT


def _convert_tensor(tensor: TensorProto) -> None:
    if tensor.data_type == TensorProto.FLOAT16:
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), name))


def _initializers(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    yield from (sparse.values for sparse in graph.sparse_initializer)
