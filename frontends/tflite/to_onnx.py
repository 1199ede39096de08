"""From a TFLite file to an ONNX model of standard operators, which is imported and verified like any other.

The model's inputs and outputs keep the names, shapes and NHWC order of the file. Images inside are stored NCHW, the
form that the compiler reads: every value knows in which order its axes are stored (``values.py``), so that a transpose
is written only where an operator needs another order, at the edges and at reshapes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.size_limits import check_shape

from .flatbuffer_file import Operator, Tensor, TfliteGraph, parse
from .graph_writer import GraphWriter
from .node import Node
from .operators.larq import WORD
from .operators.table import CONVERTERS, TAKING_BITS, convert
from .tensor_types import dtype_of
from .values import CHANNELS_FIRST, Value, plain

_LARGEST_FILE = 2**32
"""Most bytes of a file."""

Shapes = Sequence[int] | Mapping[str, Sequence[int]] | None


def to_onnx(model: str | os.PathLike[str] | bytes, input_shape: Shapes = None) -> onnx.ModelProto:
    """Converts a TFLite file.

    Args:
        model: The path of the file, or its bytes.
        input_shape: The shape of the only input, or shapes by input name, in the file's order of axes. They replace
            sizes that the file leaves open, such as the batch, and must equal the others. An open size that is not
            given is the one that the file has as an example, mostly 1.

    Returns:
        The model, with static shapes.

    Raises:
        ModelError: If the file is missing or damaged, has an operator that is not supported, or contradicts itself.
    """
    where = "the given TFLite data" if isinstance(model, bytes) else f"the TFLite model {os.fspath(model)!r}"
    data = model if isinstance(model, bytes) else _read(Path(model), where)
    return _Conversion(parse(data, where), len(data), where).run(input_shape)


class _Conversion:
    """Converts the operators of a graph one after the other."""

    def __init__(self, graph: TfliteGraph, file_bytes: int, where: str) -> None:
        self._graph, self._where = graph, where
        self._names = _unique_names(graph)
        self._writer = GraphWriter(file_bytes, self._names)
        self._values: dict[int, Value] = {}
        self._as_declared = True

    def run(self, input_shape: Shapes) -> onnx.ModelProto:
        self._check_operators()
        if len(set(self._graph.outputs)) != len(self._graph.outputs):
            raise ModelError(f"{self._where} has the same output twice; convert it again")
        for number in set(self._graph.outputs).intersection(self._graph.inputs):
            raise ModelError(f"{self._where} returns its input {self._names[number]!r}; remove that output")
        shapes = self._input_shapes(input_shape)
        for number, shape in shapes.items():
            self._values[number] = self._input(number, shape)
        for operator in self._graph.operators:
            self._convert(operator)
        for number in self._graph.outputs:
            value = self._value(number, f"{self._where}, as an output,")
            if value.packed:
                raise ModelError(
                    f"{self._where} has the output {self._names[number]!r} of packed bits, which is not supported; "
                    "end the network with LceDequantize"
                )
            self._writer.output(self._names[number], value)
        return self._writer.model("tflite")

    def _check_operators(self) -> None:
        unknown: dict[str, str] = {}
        for operator in self._graph.operators:
            if operator.name not in CONVERTERS:
                unknown.setdefault(operator.name, self._names[operator.outputs[0]])
        if unknown:
            listed = ", ".join(f"{name} (computes {output!r})" for name, output in list(unknown.items())[:8])
            raise ModelError(f"{self._where} has operators that are not supported: {listed}")

    def _input_shapes(self, given: Shapes) -> dict[int, tuple[int, ...]]:
        inputs = {self._names[number]: number for number in self._graph.inputs}
        if given is None:
            named: Mapping[str, Sequence[int]] = {}
        elif isinstance(given, Mapping):
            named = given
        elif len(inputs) == 1:
            named = dict.fromkeys(inputs, given)
        else:
            raise ModelError(f"{self._where} has the inputs {', '.join(inputs)}; give their shapes by name")
        for name in named:
            if name not in inputs:
                raise ModelError(f"{self._where} has no input {name!r}; its inputs are {', '.join(inputs)}")
        shapes = {}
        for name, number in inputs.items():
            tensor = self._graph.tensors[number]
            shape = tuple(named.get(name, tensor.shape))
            fits = len(shape) == len(tensor.shape) and all(
                size == known or (is_open and size > 0)
                for size, known, is_open in zip(shape, tensor.shape, tensor.open, strict=True)
            )
            if not fits:
                declared = ["?" if is_open else size for size, is_open in zip(tensor.shape, tensor.open, strict=True)]
                raise ModelError(
                    f"input {name!r} of {self._where} has the shape [{', '.join(map(str, declared))}] in the file's "
                    f"order of axes, which the given shape {list(shape)} does not fit"
                )
            check_shape(f"input {name!r} of {self._where}", shape)
            self._as_declared &= shape == tensor.shape
            shapes[number] = shape
        return shapes

    def _input(self, number: int, shape: tuple[int, ...]) -> Value:
        tensor, name = self._graph.tensors[number], self._names[number]
        what = f"input {name!r} of {self._where}"
        if tensor.special or tensor.data is not None:
            raise ModelError(f"{what} is {tensor.special or 'a constant'}, which is not supported; convert it again")
        self._writer.begin(what, name)
        value = self._writer.input(name, dtype_of(tensor, what), shape)
        return self._writer.reordered(value, CHANNELS_FIRST) if value.rank == 4 else value

    def _value(self, number: int, where: str) -> Value:
        """A tensor that was computed, or a constant."""
        found = self._values.get(number)
        if found is not None:
            return found
        tensor, name = self._graph.tensors[number], self._names[number]
        if tensor.special:
            raise ModelError(f"{where} reads {name!r}, which is {tensor.special}; that is not supported")
        dtype = np.dtype(dtype_of(tensor, where))
        size = int(np.prod(tensor.shape, dtype=np.int64)) * dtype.itemsize
        data = b"" if tensor.data is None and size == 0 else tensor.data
        if data is None:
            raise ModelError(f"{where} reads {name!r}, which no operator before it computes; convert the model again")
        if len(data) != size:
            raise ModelError(f"{where} reads {name!r}, which needs {size} bytes, but has {len(data)}: it is damaged")
        array = np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype).reshape(tensor.shape)
        return self._values.setdefault(number, self._writer.constant(array, name))

    def _convert(self, operator: Operator) -> None:
        name = self._names[operator.outputs[0]]
        where = f"{operator.name}, which computes {name!r} in {self._where},"
        self._writer.begin(where, name)
        tensors = self._graph.tensors
        inputs = tuple(None if number == -1 else self._value(number, where) for number in operator.inputs)
        read = tuple(None if number == -1 else tensors[number] for number in operator.inputs)
        computed = tuple(tensors[number] for number in operator.outputs)
        node = Node(operator, inputs, read, computed, self._writer)
        _check_kinds(node, where)
        results = convert(node)
        if len(results) != len(operator.outputs):
            raise ModelError(f"{where} has {len(operator.outputs)} outputs; expected {len(results)}")
        for number, value in zip(operator.outputs, results, strict=True):
            if self._as_declared:
                _check_type(value, tensors[number], where)
            self._values[number] = self._named(number, value)

    def _named(self, number: int, value: Value) -> Value:
        """The value under the name of its tensor; an output that is not stored in the file's order gets it later."""
        name = self._names[number]
        if number in self._graph.outputs and value.order != plain(value.rank):
            name = self._writer.unique(f"{name}/channels_first")
        return self._writer.named(value, name)


def _check_kinds(node: Node, where: str) -> None:
    operator = node.operator
    for value, tensor in zip(node.inputs, node.read, strict=True):
        if value is not None and tensor is not None and value.packed and operator.name not in TAKING_BITS:
            raise ModelError(f"{where} reads the packed bits {tensor.name!r}; only the operators of Larq can do that")
    for tensor in (*node.read, *node.computed):
        if tensor is not None and len(tensor.scales) and operator.name in TAKING_BITS:
            raise ModelError(
                f"{where} computes with quantised numbers ({tensor.dtype} in {tensor.name!r}), which is not supported; "
                "convert the network as float32"
            )


def _check_type(value: Value, tensor: Tensor, where: str) -> None:
    """Compares what a converter made with what the file declares."""
    shape, dtype = value.shape, value.dtype
    if value.packed:
        shape, dtype = (*shape[:-1], -(-shape[-1] // WORD)), "int32"
    fits = len(shape) == len(tensor.shape) and all(
        is_open or size == known for size, known, is_open in zip(shape, tensor.shape, tensor.open, strict=True)
    )
    if not fits or dtype != dtype_of(tensor, where):
        raise ModelError(
            f"{where} is declared as {tensor.dtype.lower()}{list(tensor.shape)}, but computes {dtype}{list(shape)}; "
            "the file is damaged"
        )


def _unique_names(graph: TfliteGraph) -> list[str]:
    """A name for each tensor: the first of the names that the converter joined by semicolons."""
    names: list[str] = []
    taken: set[str] = set()
    for tensor in graph.tensors:
        name = tensor.name.split(";")[0] or tensor.name
        free, count = name, 1
        while free in taken:
            count += 1
            free = f"{name}_{count}"
        taken.add(free)
        names.append(free)
    return names


def _read(path: Path, where: str) -> bytes:
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{where} is no ordinary file; copy it to one")
        if status.st_size > _LARGEST_FILE:
            raise ModelError(f"{where} is larger than 4 GiB, which is not supported")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"{where} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelError(f"{where} cannot be read: {reason}") from error
