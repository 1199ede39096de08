"""Reads the flatbuffer of a TFLite file into tensors and operators; a damaged file is refused in one sentence.

The layout of the file is TensorFlow's ``schema.fbs``, as the package ``tflite`` has it. Nothing outside this file sees
a flatbuffer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tflite
from flatbuffers import flexbuffers

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.size_limits import check_shape

IDENTIFIER = b"TFL3"
"""Bytes 4 to 7 of every TFLite file."""

_DAMAGE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, struct.error)
"""What flatbuffers raise for offsets and lengths that lead nowhere."""
_MOST_OPTIONS = 64
"""Most options of a custom operator; those of Larq have at most 8."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor as the file declares it.

    Attributes:
        name: Its name; it need not be unique.
        dtype: The name of its element type in the schema: FLOAT32, INT8, ...
        shape: Its sizes.
        open: For each axis, whether the size may change from run to run, so that ``shape`` holds an example.
        data: The bytes of a constant; None for a value that is computed.
        scales: Of a quantised tensor, one for all elements or one for each index of ``quantised_axis``; else empty.
        zero_points: As many as scales.
        quantised_axis: The axis of scales and zero points.
        special: What makes the tensor more than an array, and so is refused: "sparse", "a variable"; or empty.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    open: tuple[bool, ...]
    data: bytes | None
    scales: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    zero_points: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    quantised_axis: int = 0
    special: str = ""


@dataclass(frozen=True)
class Operator:
    """An operator of the graph.

    Attributes:
        name: The name in the schema, such as CONV_2D, or the custom code, such as LceBconv2d.
        inputs: The tensors that it reads, by number; -1 for an omitted one.
        outputs: The tensors that it computes, by number.
        options: The fields of its options by their names in the schema, StrideH, or in the map of a custom operator.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True)
class TfliteGraph:
    """The first subgraph of a file: what runs.

    Attributes:
        tensors: All tensors.
        operators: The operators in the order in which they run.
        inputs: The numbers of the tensors that a caller gives.
        outputs: The numbers of the tensors that a caller gets.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def parse(data: bytes, where: str) -> TfliteGraph:
    """Reads a file.

    Args:
        data: Its content.
        where: What messages call it: "the TFLite model 'net.tflite'".

    Raises:
        ModelError: If it is no TFLite file, or damaged.
    """
    if data[4:8] != IDENTIFIER:
        raise ModelError(f"{where} is no TFLite file: it lacks the identifier TFL3; convert or copy it again")
    with _damage_named(where):
        model = tflite.Model.GetRootAs(data, 0)
        _check_count(model.SubgraphsLength(), data)
        if not model.SubgraphsLength():
            raise ModelError(f"{where} holds no graph; convert it again")
        graph = model.Subgraphs(0)
        for count in (graph.TensorsLength(), graph.OperatorsLength(), model.OperatorCodesLength()):
            _check_count(count, data)
        codes = [_operator_name(model.OperatorCodes(index)) for index in range(model.OperatorCodesLength())]
        tensors = tuple(_tensor(model, graph.Tensors(i), i, data, where) for i in range(graph.TensorsLength()))
        operators = tuple(_operator(graph.Operators(i), codes, data) for i in range(graph.OperatorsLength()))
        found = TfliteGraph(tensors, operators, _numbers(graph, "Inputs"), _numbers(graph, "Outputs"))
    _check_references(found, where)
    return found


@contextmanager
def _damage_named(where: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise ModelError(f"{where} is damaged or truncated; convert or copy it again") from error


def _check_count(count: int, data: bytes) -> None:
    if count > len(data) // 4:  # each entry takes an offset of 4 bytes
        raise ValueError("a vector is longer than the file")


def _numbers(table: Any, name: str) -> tuple[int, ...]:
    """A vector of numbers; flatbuffers give 0 for one that is missing."""
    array = getattr(table, f"{name}AsNumpy")()
    return () if isinstance(array, int) else tuple(array.tolist())


def _operator_name(code: Any) -> str:
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())  # old files have 8 bits for it
    if number == tflite.BuiltinOperator.CUSTOM:
        return (code.CustomCode() or b"CUSTOM").decode()
    return _name_in(tflite.BuiltinOperator, number) or f"operator number {number}"


def _name_in(enumeration: type, number: int) -> str | None:
    return next((name for name, value in vars(enumeration).items() if value == number and name[0] != "_"), None)


def _tensor(model: Any, tensor: Any, index: int, data: bytes, where: str) -> Tensor:
    name = "".join(char if char.isprintable() else "_" for char in (tensor.Name() or b"").decode()) or f"tensor {index}"
    shape, signature = _numbers(tensor, "Shape"), _numbers(tensor, "ShapeSignature")
    with_signature = len(signature) == len(shape)
    constant = _constant(model, tensor.Buffer(), data)
    if constant is not None or shape:
        check_shape(f"tensor {name!r} of {where}", shape)
    quantisation = tensor.Quantization()
    scales = zero_points = np.empty(0)
    axis = 0
    if quantisation is not None and quantisation.ScaleLength():
        scales = np.array(_numbers(quantisation, "Scale"), np.float32)
        zero_points = np.array(_numbers(quantisation, "ZeroPoint") or (0,) * len(scales), np.int64)
        axis = quantisation.QuantizedDimension()
    return Tensor(
        name,
        _name_in(tflite.TensorType, tensor.Type()) or f"number {tensor.Type()}",
        shape,
        tuple(size == -1 for size in signature) if with_signature else (False,) * len(shape),
        constant,
        scales,
        zero_points,
        axis,
        "sparse" if tensor.Sparsity() is not None else "a variable" if tensor.IsVariable() else "",
    )


def _constant(model: Any, index: int, data: bytes) -> bytes | None:
    """The bytes of buffer ``index``, inside the flatbuffer or, in a large file, after it; None for an empty one."""
    if not 0 <= index < model.BuffersLength():
        raise IndexError("a tensor refers to a buffer that is not there")
    buffer = model.Buffers(index)
    if buffer.Offset() > 1:
        if buffer.Offset() + buffer.Size() > len(data):
            raise IndexError("a buffer ends after the file")
        return data[buffer.Offset() : buffer.Offset() + buffer.Size()]
    array = buffer.DataAsNumpy()
    return None if isinstance(array, int) or not array.size else array.tobytes()


def _operator(operator: Any, codes: list[str], data: bytes) -> Operator:
    index = operator.OpcodeIndex()
    if not 0 <= index < len(codes):
        raise IndexError("an operator has no code")
    inputs, outputs = _numbers(operator, "Inputs"), _numbers(operator, "Outputs")
    return Operator(codes[index], inputs, outputs, {**_options(operator), **_custom_options(operator, data)})


def _options(operator: Any) -> dict[str, Any]:
    table = operator.BuiltinOptions()
    kind = _name_in(tflite.BuiltinOptions, operator.BuiltinOptionsType())
    if table is None or kind in (None, "NONE") or not hasattr(tflite, kind or ""):
        return {}
    options = getattr(tflite, kind)()
    options.Init(table.Bytes, table.Pos)
    fields = {name: method for name, method in vars(type(options)).items() if callable(method) and name != "Init"}
    vectors = {name.removesuffix("AsNumpy") for name in fields if name.endswith("AsNumpy")}
    derived = {f"{name}{suffix}" for name in vectors for suffix in ("", "AsNumpy", "Length", "IsNone")}
    scalars = {name: getattr(options, name)() for name in fields if name not in derived and name[0] != "_"}
    return {**scalars, **{name: _numbers(options, name) for name in vectors}}


def _custom_options(operator: Any, data: bytes) -> dict[str, Any]:
    offset, size = operator.LargeCustomOptionsOffset(), operator.LargeCustomOptionsSize()
    array = operator.CustomOptionsAsNumpy()
    content = data[offset : offset + size] if offset > 1 else b"" if isinstance(array, int) else array.tobytes()
    if len(content) < 3:
        return {}
    root = flexbuffers.GetRoot(bytearray(content))
    if not root.IsMap or len(root.AsMap) > _MOST_OPTIONS:
        return {}
    entries = zip((key.AsKey for key in root.AsMap.Keys), root.AsMap.Values, strict=True)
    return {str(key): value.AsInt for key, value in entries if value.IsInt or value.IsBool}


def _check_references(graph: TfliteGraph, where: str) -> None:
    """Checks the numbers of tensors, and that each is computed once."""
    count = len(graph.tensors)
    computed = set(graph.inputs)
    for operator in graph.operators:
        for number in operator.inputs:
            if not -1 <= number < count:
                raise ModelError(f"{where} is damaged: {operator.name} reads tensor {number} of {count}")
        for number in operator.outputs:
            if not 0 <= number < count or number in computed:
                raise ModelError(f"{where} is damaged: {operator.name} cannot compute tensor {number} of {count}")
        computed.update(operator.outputs)
        if not operator.outputs:
            raise ModelError(f"{where} is damaged: {operator.name} computes nothing")
    for number in (*graph.inputs, *graph.outputs):
        if not 0 <= number < count:
            raise ModelError(f"{where} is damaged: tensor {number} of {count} is an input or output")
    if not graph.outputs or len(set(graph.inputs)) != len(graph.inputs):
        raise ModelError(f"{where} is damaged: it has no outputs, or the same input twice; convert it again")
