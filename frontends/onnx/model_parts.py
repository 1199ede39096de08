"""The parts of an ONNX model that have nodes: its graph, the subgraphs of nodes at any depth, and its functions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, TensorProto

from .node import describe

Body: TypeAlias = "GraphProto | FunctionProto"


@dataclass(frozen=True, eq=False)
class Part:
    """A graph, a subgraph or the body of a function.

    Attributes:
        where: What a message calls it.
        body: Its nodes and, of a graph, its constants.
        depth: Number of subgraphs around it, itself included: 0 for the graph and for functions.
        function: The function that it belongs to; None in the graph.
    """

    where: str
    body: Body
    depth: int
    function: FunctionProto | None


def parts(model: ModelProto) -> Iterator[Part]:
    """All parts of a model, without recursion: each before its subgraphs."""
    waiting = [Part("the graph", model.graph, 0, None)]
    waiting += [Part(f"the function {f.domain}::{f.name}", f, 0, f) for f in model.functions]
    while waiting:
        part = waiting.pop()
        yield part
        for node in part.body.node:
            for attribute in node.attribute:
                where = f"{attribute.name!r} of {describe(node)}"
                waiting += [Part(where, graph, part.depth + 1, part.function) for graph in graphs_of(attribute)]
        if isinstance(part.body, FunctionProto):
            for attribute in part.body.attribute_proto:
                where = f"the default of {attribute.name!r} of {part.where}"
                waiting += [Part(where, graph, part.depth + 1, part.function) for graph in graphs_of(attribute)]


def tensors(part: Part) -> Iterator[tuple[str, TensorProto]]:
    """The constants of a part, without those of its subgraphs, each with what a message calls it."""
    body = part.body
    if isinstance(body, GraphProto):
        for tensor in body.initializer:
            yield f"the initializer {tensor.name!r}", tensor
        for sparse in body.sparse_initializer:
            yield f"the sparse initializer {sparse.values.name!r}", sparse.values
            yield f"the indices of the sparse initializer {sparse.values.name!r}", sparse.indices
    else:
        for attribute in body.attribute_proto:
            yield from tensors_of(attribute, f"the default of {attribute.name!r} of {part.where}")
    for node in body.node:
        for attribute in node.attribute:
            yield from tensors_of(attribute, f"the attribute {attribute.name!r} of {describe(node)}")


def graphs_of(attribute: AttributeProto) -> Iterator[GraphProto]:
    """The subgraphs that an attribute holds."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def tensors_of(attribute: AttributeProto, where: str = "") -> Iterator[tuple[str, TensorProto]]:
    """The tensors that an attribute holds, those of its subgraphs excepted, each with ``where``."""
    if attribute.HasField("t"):
        yield where, attribute.t
    if attribute.HasField("sparse_tensor"):
        yield where, attribute.sparse_tensor.values
        yield where, attribute.sparse_tensor.indices
    for tensor in attribute.tensors:
        yield where, tensor
    for sparse in attribute.sparse_tensors:
        yield where, sparse.values
        yield where, sparse.indices
