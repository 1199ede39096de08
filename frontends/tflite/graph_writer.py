"""Writes an ONNX graph node by node, with the shape of every value, and computes what depends on constants alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx import opset
from sbnn_tvm.frontends.onnx.fold_constants import fold
from sbnn_tvm.frontends.onnx.function_bodies import schema_of
from sbnn_tvm.frontends.onnx.inferred_types import contradiction
from sbnn_tvm.frontends.onnx.size_limits import ConstantBudget, check_shape

from .values import Value, moves_elements, plain

OPSETS: Mapping[str, int] = {"": opset.ONNX_OPSET}
_LARGEST_READ = 1024  # elements of a constant whose values shape inference may need: a shape, axes


class GraphWriter:
    """An ONNX graph that grows.

    Attributes:
        where: The operator that is being converted, for messages.
    """

    def __init__(self, file_bytes: int, reserved: Iterable[str]) -> None:
        """An empty graph.

        Args:
            file_bytes: The size of the file, which bounds what computing constants may cost.
            reserved: The names of all tensors of the file, which no other value gets.
        """
        self.where = self._step = ""
        self._fresh: set[str] = set()
        self._node_names: set[str] = set()
        self._nodes: dict[str, NodeProto] = {}  # by the name of each output
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []
        self._reserved = frozenset(reserved)
        self._names = set(self._reserved)
        self._reordered: dict[tuple[str, tuple[int, ...]], Value] = {}
        self._made: dict[Hashable, Value] = {}
        self._stored: dict[int, tuple[Value, str]] = {}
        self._budget = ConstantBudget(file_bytes)

    def begin(self, where: str, step: str) -> None:
        """Says which operator the next nodes stand for.

        Args:
            where: The operator, for messages.
            step: What the names of its intermediate values begin with.
        """
        self.where, self._step = where, step
        self._fresh.clear()

    def input(self, name: str, dtype: str, shape: Sequence[int]) -> Value:
        """Declares an input of the model, in the file's order of axes; ``name`` is a reserved one."""
        value = Value(name, dtype, tuple(shape), plain(len(shape)))
        self._inputs.append(_declaration(value))
        return value

    def constant(self, array: np.ndarray, name: str | None = None) -> Value:
        """A constant, which is stored in the model once a node reads it."""
        array = np.asarray(array)
        return Value(name or f"{self._step}/constant", array.dtype.name, array.shape, plain(array.ndim), array)

    def add(self, op_type: str, *inputs: Value | None, order: Sequence[int] | None = None, **attributes: Any) -> Value:
        """Adds a node with one output.

        Args:
            op_type: A standard ONNX operator.
            inputs: What it reads, as it is stored; None for an omitted input.
            order: The order of axes of its output; the file's own by default.
            attributes: Attributes of the node.

        Raises:
            ModelError: If the inputs contradict the operator's specification, or the output is too large.
        """
        return self.add_several(op_type, *inputs, count=1, order=order, **attributes)[0]

    def add_several(
        self, op_type: str, *inputs: Value | None, count: int, order: Sequence[int] | None = None, **attributes: Any
    ) -> tuple[Value, ...]:
        """Adds a node with ``count`` outputs, all with the same order of axes; otherwise as ``add``."""
        names = [self.unique(f"{self._step}/{op_type}") for _ in range(count)]
        constants = all(value is None or value.array is not None for value in inputs)
        read = ["" if value is None else value.name if constants else self._name_of(value) for value in inputs]
        if constants:  # two constants may begin with the same name
            read = [name and f"{index}:{name}" for index, name in enumerate(read)]
        node = helper.make_node(op_type, read, names, self._node_name(names[0]), **attributes)
        types = self._infer(node, inputs)
        if constants:
            arrays = fold(node, [None if value is None else value.array for value in inputs], OPSETS, self._budget)
            if arrays is not None:
                return tuple(self.constant(array, name) for array, name in zip(arrays, names, strict=True))
            del node.input[:]
            node.input.extend("" if value is None else self._name_of(value) for value in inputs)
        self._nodes.update(dict.fromkeys(names, node))
        self._fresh.update(names)
        results = []
        for name, (dtype, stored) in zip(names, types, strict=True):
            check_shape(self.where, stored)
            axes = plain(len(stored)) if order is None else tuple(order)
            shape = tuple(stored[axes.index(axis)] for axis in range(len(stored)))
            results.append(Value(name, dtype, shape, axes))
        return tuple(results)

    def reordered(self, value: Value, order: Sequence[int]) -> Value:
        """The same tensor, stored with its axes in another order."""
        order = tuple(order)
        if value.order == order:
            return value
        if value.array is not None:
            return replace(value, order=order)
        found = self._reordered.get((value.name, order))
        if found is None:
            if moves_elements(value.order, order, value.shape):
                found = self.add("Transpose", value, order=order, perm=[value.order.index(axis) for axis in order])
            else:
                found = self._reshape(value, [value.shape[axis] for axis in order], order)
            self._reordered[value.name, order] = found
            self._reordered[found.name, value.order] = value
        return replace(found, packed=value.packed)

    def once(self, key: Hashable, make: Callable[[], Value]) -> Value:
        """The value that ``make`` adds, which is the same for all operators that ask for the same key."""
        if key not in self._made:
            self._made[key] = make()
            self._fresh.discard(self._made[key].name)  # others read it by this name
        return self._made[key]

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """The elements in the file's order with another shape.

        Raises:
            ModelError: If the number of elements differs.
        """
        shape = tuple(shape)
        if math.prod(shape) != math.prod(value.shape):
            raise ModelError(f"{self.where} gives a tensor of shape {list(value.shape)} the shape {list(shape)}")
        if value.array is not None:
            return replace(value, shape=shape, order=plain(len(shape)), array=value.array.reshape(shape))
        if shape == value.shape:
            return value
        if moves_elements(value.order, plain(value.rank), value.shape):
            value = self.reordered(value, plain(value.rank))
        return self._reshape(value, shape, plain(len(shape)))

    def _reshape(self, value: Value, shape: Sequence[int], order: tuple[int, ...]) -> Value:
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64), f"{self._step}/shape"), order=order)

    def unique(self, name: str) -> str:
        """A name for a new ONNX value: this one, or with a number if it is taken."""
        free, count = name, 1
        while free in self._names:
            count += 1
            free = f"{name}_{count}"
        self._names.add(free)
        return free

    def named(self, value: Value, name: str) -> Value:
        """Gives a value that the present operator has computed the name of its tensor; others keep their names."""
        if value.name not in self._fresh:
            return value
        self._fresh.remove(value.name)
        node = self._nodes.pop(value.name)
        place = list(node.output).index(value.name)
        node.output[place] = name
        self._nodes[name] = node
        return replace(value, name=name)

    def output(self, name: str, value: Value) -> None:
        """Declares an output of the model, in the file's order of axes.

        Args:
            name: One of the names that were reserved.
            value: What it is; if it has this name, it is stored in the file's order.
        """
        if value.array is not None:
            self._initializers[name] = numpy_helper.from_array(np.ascontiguousarray(value.array), name)
            value = replace(value, name=name, order=plain(value.rank))
        elif value.name != name:
            self.begin(f"output {name!r}", name)
            stored = self.reordered(value, plain(value.rank))
            if stored.name not in self._fresh:
                stored = self.add("Identity", replace(stored, order=plain(value.rank)))
            value = self.named(stored, name)
        self._outputs.append(_declaration(value))

    def model(self, name: str) -> onnx.ModelProto:
        """The model of the nodes that its outputs depend on."""
        nodes = list({id(node): node for node in self._nodes.values()}.values())
        nodes = _live(nodes, [value.name for value in self._outputs])
        read = {name for node in nodes for name in node.input} | {value.name for value in self._outputs}
        constants = [tensor for name, tensor in self._initializers.items() if name in read]
        graph = helper.make_graph(nodes, name, self._inputs, self._outputs, constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset.ONNX_OPSET)])
        model.ir_version = opset.IR_VERSION
        return model

    def _node_name(self, name: str) -> str:
        """The name of the tensor for the first node of an operator, which names the layer; then that of its value."""
        chosen = name if self._step in self._node_names else self._step
        self._node_names.add(chosen)
        return chosen

    def _name_of(self, value: Value) -> str:
        """The ONNX value to read; stores a constant at its first use."""
        if value.array is None:
            return value.name
        if id(value) not in self._stored:
            first = value.name in self._reserved and value.name not in self._initializers
            name = value.name if first else self.unique(value.name)
            self._stored[id(value)] = value, name
            array = np.ascontiguousarray(value.array.transpose(value.order))
            self._initializers[name] = numpy_helper.from_array(array.reshape(value.stored_shape), name)
        return self._stored[id(value)][1]

    def _infer(self, node: NodeProto, inputs: Sequence[Value | None]) -> list[tuple[str, tuple[int, ...]]]:
        types, data = {}, {}
        for name, value in zip(node.input, inputs, strict=True):
            if value is None:
                continue
            element = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
            types[name] = helper.make_tensor_type_proto(element, value.stored_shape)
            if value.array is not None and value.array.size <= _LARGEST_READ:
                data[name] = numpy_helper.from_array(value.array.transpose(value.order), name)
        schema = schema_of(node.op_type, opset.ONNX_OPSET)
        imports = [helper.make_opsetid("", opset.ONNX_OPSET)]
        try:
            found = infer_node_outputs(schema, node, types, data, opset_imports=imports)
        except Exception as error:  # ONNX raises any type
            raise ModelError(f"{self.where} does not fit its inputs: {contradiction(error)}") from error
        results = []
        for name in node.output:
            tensor = found[name].tensor_type
            shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim)
            if -1 in shape:
                raise ModelError(f"{self.where} computes a shape that depends on data, which is not supported")
            results.append((helper.tensor_dtype_to_np_dtype(tensor.elem_type).name, shape))
        return results


def _declaration(value: Value) -> onnx.ValueInfoProto:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype))
    return helper.make_tensor_value_info(value.name, element, value.shape)


def _live(nodes: Sequence[NodeProto], outputs: Sequence[str]) -> list[NodeProto]:
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    return kept[::-1]
