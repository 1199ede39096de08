"""The integers that a model's inputs may hold: indices within their table, lengths within their sequence, and so on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from ..runtime.metadata import TensorSpec

_WHOLE = ("int32", "int64", "uint32", "uint64")
"""Types of which most models take only a part of the range. The others are always drawn from their whole range."""
_NUMBERS = (-(2**15), 2**15 - 1)
"""The range of integers that become floats: larger ones would hide the errors of smaller ones."""
_CARRY = (
    *("Identity", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Transpose", "Slice", "Split", "Concat", "Expand"),
    *("Tile", "Cast", "Where", "Pad", "Max", "Min", "Clip", "Add", "Sub", "Mul", "Neg", "Abs"),
)
"""Operators that pass integers on, or compute integers of a like size from them. What they add is not looked at: if
the reference refuses the result, all integers are drawn from 0 and 1."""

Range = tuple[int, int]


def legal_ranges(model: onnx.ModelProto, specs: Sequence[TensorSpec]) -> dict[str, Range]:
    """The first and last legal value of each input of 32- or 64-bit integers.

    Args:
        model: The model, with the shapes of its values.
        specs: Its inputs.
    """
    shapes = {value.name: _shape(value) for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    constants = {t.name: t for t in model.graph.initializer}
    ranges = {}
    for spec in specs:
        if spec.dtype not in _WHOLE:
            continue
        info = np.iinfo(spec.dtype)
        low, high = int(info.min), int(info.max)
        for first, last in _uses(model.graph.node, spec.name, shapes, constants):
            low, high = max(low, first), min(high, last)
        ranges[spec.name] = (low, max(low, high))
    return ranges


def _uses(
    nodes: Sequence[onnx.NodeProto],
    name: str,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, onnx.TensorProto],
) -> Iterator[Range]:
    """The ranges that the readers of a value, and of what passes it on, allow."""
    carried = {name}
    for node in nodes:
        for position, read in enumerate(node.input):
            if read in carried and (found := _use(node, position, shapes, constants)) is not None:
                yield found
        if node.op_type in _CARRY and carried.intersection(node.input):
            carried.update(node.output)


def _use(
    node: onnx.NodeProto,
    position: int,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, onnx.TensorProto],
) -> Range | None:
    """The range that one operand of an operator may have; None for any."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    data = shapes.get(node.input[0], ())
    operator = node.op_type
    if operator in ("Gather", "GatherElements", "ScatterElements", "Scatter") and position == 1 and data:
        extent = data[attributes.get("axis", 0)]
        return (-extent, extent - 1) if extent else (0, 0)
    if operator in ("GatherND", "ScatterND") and position == 1 and data:
        return 0, max(min(data) - 1, 0)
    if operator == "OneHot" and position == 0 and node.input[1] in constants:
        depth = int(numpy_helper.to_array(constants[node.input[1]]).reshape(-1)[0])
        return -depth, depth
    if operator in ("RNN", "GRU", "LSTM") and position == 4 and data:
        return 1, data[1 if attributes.get("layout") else 0]
    if operator == "ReverseSequence" and position == 1 and data:
        return 1, data[attributes.get("time_axis", 0)]
    if operator == "BitShift" and position == 1:
        return 0, 7
    if operator in ("Div", "Mod"):
        return (1, 2**15) if position == 1 else _NUMBERS
    if operator == "Pow":
        return 0, 7
    if operator == "Cast" and attributes["to"] in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE):
        return _NUMBERS if attributes["to"] != TensorProto.FLOAT16 else (-(2**10), 2**10)
    return None


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
