"""An ONNX model as a graph: what computes a value, which values are constant, and parts of the model as models."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, inliner, numpy_helper

_GIVEN = "given/"
"""Prefix of the inputs of a part of a model. The part may also compute the values that they replace."""

_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype", "stash_type")


class ModelGraph:
    """An ONNX model, and who computes what in it.

    Attributes:
        model: The model.
        producers: By the name of a value, the node that computes it.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.producers = {output: node for node in model.graph.node for output in node.output if output}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self._constants[node.output[0]] = node.attribute[0].t

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Names of the values that depend on constants only."""
        found = {*self._constants, *(sparse.values.name for sparse in self.model.graph.sparse_initializer)}
        for node in self.model.graph.node:
            if all(name in found for name in _reads(node)):
                found.update(node.output)
        return frozenset(found - {""})

    def variables(self, node: onnx.NodeProto) -> list[str]:
        """The inputs of a node that are not constant."""
        return [name for name in node.input if name and name not in self.fixed]

    def value(self, name: str, values: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """A value of a run, or a constant; None if it is neither."""
        if name in values:
            return values[name]
        return numpy_helper.to_array(self._constants[name]) if name in self._constants else None

    def part(self, wanted: Collection[str], given: Mapping[str, np.ndarray]) -> tuple[onnx.ModelProto, dict[str, str]]:
        """The part of the model that computes some values from others.

        Args:
            wanted: The names of the values to compute.
            given: Values that the part reads. A wanted value is computed even if it is given.

        Returns:
            A model whose outputs are the wanted values, and the names of its inputs by the names of the given values.
        """
        needed, pending = set(), [name for name in wanted if name in self.producers]
        used: set[str] = set()
        while pending:
            name = pending.pop()
            if name in needed:
                continue
            needed.update(self.producers[name].output)
            for read in _reads(self.producers[name]):
                if read in given:
                    used.add(read)
                elif read in self.producers:
                    pending.append(read)
        names = {name: _GIVEN + name for name in given if name in used}
        graph = onnx.GraphProto(name="part")
        for node in self.model.graph.node:
            if needed.intersection(node.output) - {""}:
                copy = graph.node.add()
                copy.CopyFrom(node)
                _rename_reads(copy, names)
        read_names = {name for node in graph.node for name in _reads(node)}
        graph.initializer.extend(tensor for tensor in self.model.graph.initializer if tensor.name in read_names)
        graph.sparse_initializer.extend(self.model.graph.sparse_initializer)
        for name, new in names.items():
            kind = helper.np_dtype_to_tensor_dtype(given[name].dtype)
            graph.input.append(helper.make_tensor_value_info(new, kind, given[name].shape))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name in self.producers)
        model = helper.make_model(graph, opset_imports=self.model.opset_import, ir_version=self.model.ir_version)
        model.functions.extend(self.model.functions)
        return model, names


def in_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a model that computes float64 wherever the model computes floats; its functions are inlined."""
    model = _with_default_attributes(model)
    model = inliner.inline_local_functions(model)
    for value in model.graph.input:
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for output in model.graph.output:
        output.ClearField("type")
    del model.graph.value_info[:]
    _graph_in_float64(model.graph)
    return model


def _with_default_attributes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose calls of functions have all attributes. The inliner does not know their defaults."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    defaults = {(function.domain, function.name): function.attribute_proto for function in copy.functions}
    nodes = [*copy.graph.node, *(node for function in copy.functions for node in function.node)]
    for node in nodes:
        present = {attribute.name for attribute in node.attribute}
        node.attribute.extend(a for a in defaults.get((node.domain, node.op_type), ()) if a.name not in present)
    return copy


def _graph_in_float64(graph: onnx.GraphProto) -> None:
    for tensor in graph.initializer:
        _tensor_in_float64(tensor)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in _TYPE_ATTRIBUTES and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
            if attribute.HasField("t"):
                _tensor_in_float64(attribute.t)
            for inner in (attribute.g, *attribute.graphs):
                _graph_in_float64(inner)
        if node.op_type == "Constant" and node.attribute[0].name in ("value_float", "value_floats"):
            (attribute,) = node.attribute
            number = np.array(helper.get_attribute_value(attribute), np.float64)
            attribute.Clear()
            attribute.CopyFrom(helper.make_attribute("value", numpy_helper.from_array(number)))
        elif node.op_type == "ConstantOfShape" and not node.attribute:
            zero = numpy_helper.from_array(np.zeros(1, np.float64))
            node.attribute.append(helper.make_attribute("value", zero))


def _tensor_in_float64(tensor: onnx.TensorProto) -> None:
    if tensor.data_type in _FLOATS:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _reads(node: onnx.NodeProto) -> Iterator[str]:
    """The values that a node reads, also inside of its bodies (of ``If``, ``Loop`` and ``Scan``)."""
    yield from (name for name in node.input if name)
    for graph in _bodies(node):
        own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
        own |= {name for inner in graph.node for name in inner.output}
        read = {name for inner in graph.node for name in _reads(inner)} | {output.name for output in graph.output}
        yield from sorted(read - own)


def _rename_reads(node: onnx.NodeProto, names: Mapping[str, str]) -> None:
    for i, name in enumerate(node.input):
        node.input[i] = names.get(name, name)
    for graph in _bodies(node):
        for inner in graph.node:
            _rename_reads(inner, names)


def _bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs
