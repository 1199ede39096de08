"""Seeded mutations of small models: of bytes, of the fields of messages, and what an attacker would write."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import onnx
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from .base_models import BASE_MODELS, base_model

INTEGERS = (0, 1, -1, 2, 3, 7, 127, 255, 2**16, 2**24, 2**31 - 1, -(2**31), 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, 3e38, float("inf"), float("-inf"), float("nan"))
STRINGS = ("", "x", "y", "nowhere", "a\0b", "\x1b[31mred", "é", "n" * 300, "../w.bin", "[red]", "ai.onnx", "%s%n")
OPERATORS = (
    *("Relu", "Conv", "MatMul", "Gemm", "Reshape", "Expand", "Tile", "Range", "ConstantOfShape", "Pad", "Resize"),
    *("Gather", "Where", "OneHot", "EyeLike", "Concat", "Split", "Slice", "Transpose", "Squeeze", "Unsqueeze", "Cast"),
    *("Flatten", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean", "TopK", "If", "Loop", "Identity"),
    *("Div", "Mod", "Softmax", "Clip", "BatchNormalization", "NoSuchOperator", "Constant", "NonZero", "ConvTranspose"),
    *("DepthToSpace", "Einsum", "CumSum", "LSTM", "GatherND", "ScatterND", "ScatterElements", "Trilu", "LRN", "Gelu"),
)


def mutated(seed: int) -> bytes:
    """A damaged file, which depends on the seed alone.

    Args:
        seed: Any number from 0 on. Those divisible by 4 change bytes, the others fields and structure.
    """
    rng = np.random.default_rng(seed)
    data = base_model(_pick(rng, list(BASE_MODELS)))
    if seed % 4 == 0:
        return _change_bytes(rng, data)
    model = onnx.ModelProto.FromString(data)
    for _ in range(int(rng.choice([1, 1, 1, 2, 3, 8]))):
        change = _change_field if rng.random() < 0.6 else _pick(rng, _CHANGES)
        change(rng, model)
    return model.SerializeToString()


def _pick(rng: np.random.Generator, things: Any) -> Any:
    return things[int(rng.integers(len(things)))]


# Bytes


def _change_bytes(rng: np.random.Generator, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(int(rng.choice([1, 1, 2, 4, 16]))):
        place = int(rng.integers(len(changed) + 1))
        match int(rng.integers(7)):
            case 0:
                changed[place : place + 1] = bytes([int(rng.integers(256))])
            case 1 if place < len(changed):
                changed[place] ^= 1 << int(rng.integers(8))
            case 2:
                changed[place:place] = rng.bytes(int(rng.integers(1, 9)))
            case 3:
                del changed[place : place + int(rng.integers(1, 17))]
            case 4 if len(changed) > 1:
                del changed[max(1, place) :]
            case 5:
                length = int(rng.integers(1, 65))
                start = int(rng.integers(len(changed) + 1))
                changed[place:place] = changed[start : start + length]
            case _:
                changed[place : place + 8] = struct.pack("<q", _pick(rng, INTEGERS))
    return bytes(changed)


# Fields


def _messages(message: Message) -> Iterator[Message]:
    yield message
    for field, value in message.ListFields():
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for child in value if field.is_repeated else (value,):
                yield from _messages(child)


def _value(rng: np.random.Generator, field: FieldDescriptor, model: onnx.ModelProto) -> Any:
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            return _pick(rng, (b"", b"\0", b"SAME_UPPER", b"\xff\xfe", bytes(64), rng.bytes(7), b"linear"))
        case FieldDescriptor.CPPTYPE_STRING:
            return _pick(rng, STRINGS) if rng.random() < 0.4 else _pick(rng, _names(model) or STRINGS)
        case FieldDescriptor.CPPTYPE_ENUM:
            return int(_pick(rng, list(field.enum_type.values_by_number)))
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return _pick(rng, FLOATS)
        case FieldDescriptor.CPPTYPE_INT32:
            return int(np.clip(_pick(rng, INTEGERS), -(2**31), 2**31 - 1))
        case FieldDescriptor.CPPTYPE_UINT64:
            return abs(_pick(rng, INTEGERS)) % 2**63
        case _:
            return _pick(rng, INTEGERS)


def _names(model: onnx.ModelProto) -> list[str]:
    graph = model.graph
    named = [*graph.input, *graph.output, *graph.initializer]
    return [v.name for v in named] + [name for node in graph.node for name in (*node.input, *node.output)]


def _change_field(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Sets, removes, repeats or reorders one field of one message anywhere in the model."""
    messages = [m for m in _messages(model) if m.DESCRIPTOR.name not in ("StringStringEntryProto",)]
    message = _pick(rng, messages)
    fields = [field for field in message.DESCRIPTOR.fields if field.name not in ("doc_string", "metadata_props")]
    present = [field for field, _ in message.ListFields()]
    field = _pick(rng, present) if present and rng.random() < 0.85 else _pick(rng, fields)
    if field.is_repeated:
        _change_list(rng, getattr(message, field.name), field, model)
    elif rng.random() < 0.15:
        message.ClearField(field.name)
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        same = [m for m in messages if m.DESCRIPTOR is field.message_type and m is not message]
        if same:
            copy = type(_pick(rng, same))()
            copy.CopyFrom(_pick(rng, same))
            getattr(message, field.name).CopyFrom(copy)
    else:
        setattr(message, field.name, _value(rng, field, model))


def _change_list(rng: np.random.Generator, values: Any, field: FieldDescriptor, model: onnx.ModelProto) -> None:
    size = len(values)
    first, second = (int(rng.integers(max(size, 1))) for _ in range(2))
    scalar = field.type != FieldDescriptor.TYPE_MESSAGE
    match int(rng.integers(6)):
        case 0 if size:
            del values[first]
        case 1 if size:
            values.append(values[first])
        case 2 if size > 1:
            held = list(values) if scalar else [type(v).FromString(v.SerializePartialToString()) for v in values]
            held[first], held[second] = held[second], held[first]
            del values[:]
            values.extend(held)
        case 3 if size:
            del values[first:]
        case 4 if scalar:
            values.append(_value(rng, field, model))
        case _ if scalar and size:
            values[first] = _value(rng, field, model)


# Structure


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [m for m in _messages(model) if isinstance(m, onnx.NodeProto)]


def _swap_inputs(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    node = _pick(rng, _nodes(model) or [onnx.NodeProto()])
    if node.input:
        node.input[int(rng.integers(len(node.input)))] = _pick(rng, _names(model) or [""])


def _other_operator(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    node = _pick(rng, _nodes(model) or [onnx.NodeProto()])
    node.op_type = _pick(rng, OPERATORS)
    if rng.random() < 0.7:
        del node.attribute[:]


def _new_node(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Puts a node between two others."""
    graph, names = model.graph, _names(model)
    if not graph.node:
        return
    place = int(rng.integers(len(graph.node)))
    read = graph.node[place].input
    inputs = [_pick(rng, names) for _ in range(int(rng.integers(1, 4)))]
    new = helper.make_node(_pick(rng, OPERATORS), inputs, [f"new_{len(graph.node)}"])
    if read and rng.random() < 0.8:
        new.input[0] = read[0]
        read[0] = new.output[0]
    held = [onnx.NodeProto.FromString(node.SerializeToString()) for node in graph.node]
    del graph.node[:]
    graph.node.extend([*held[:place], new, *held[place:]])


def _attribute(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Replaces or adds an attribute, of any type."""
    node = _pick(rng, _nodes(model) or [onnx.NodeProto()])
    known = ("axis", "axes", "to", "pads", "strides", "kernel_shape", "value", "group", "mode", "keepdims", "perm")
    name = _pick(rng, [a.name for a in node.attribute] or known) if rng.random() < 0.8 else _pick(rng, known)
    kept = [a for a in node.attribute if a.name != name]
    integers = [_pick(rng, INTEGERS) for _ in range(int(rng.integers(0, 5)))]
    value: Any = _pick(rng, [_pick(rng, INTEGERS), _pick(rng, FLOATS), "text", b"\xff", integers, ["a", "b"]])
    if isinstance(value, list) and not value:
        new = AttributeProto(name=name, type=AttributeProto.INTS)
    else:
        new = helper.make_attribute(name, value)
    del node.attribute[:]
    node.attribute.extend([*kept, new])


def _constants(model: onnx.ModelProto) -> list[TensorProto]:
    return [m for m in _messages(model) if isinstance(m, TensorProto)]


def _extreme_constant(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Gives one element of a constant (a shape, an axis, a count, a weight) an extreme value."""
    tensor = _pick(rng, _constants(model) or [TensorProto()])
    try:
        array = np.array(numpy_helper.to_array(tensor))
    except Exception:  # damaged by an earlier mutation
        return
    if not array.size or array.dtype.kind not in "iuf":
        return
    value = _pick(rng, FLOATS if array.dtype.kind == "f" else INTEGERS)
    with np.errstate(all="ignore"):
        array.flat[int(rng.integers(array.size))] = np.array(value).astype(array.dtype)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _other_type(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Changes the element type of a constant together with its data."""
    tensor = _pick(rng, _constants(model) or [TensorProto()])
    try:
        array = numpy_helper.to_array(tensor)
        with np.errstate(all="ignore"):
            array = array.astype(_pick(rng, ("float16", "float64", "int8", "uint8", "int32", "int64", "bool")))
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    except Exception:  # damaged by an earlier mutation
        return


def _other_shape(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Changes the shape of a constant together with its data, or of an input."""
    if rng.random() < 0.5 and model.graph.input:
        dims = _pick(rng, model.graph.input).type.tensor_type.shape.dim
        if dims:
            _pick(rng, dims).dim_value = _pick(rng, INTEGERS)
        return
    tensor = _pick(rng, _constants(model) or [TensorProto()])
    shape = [int(rng.integers(0, 5)) for _ in range(int(rng.integers(0, 6)))]
    try:
        array = np.resize(numpy_helper.to_array(tensor), shape)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    except Exception:  # damaged by an earlier mutation
        return


def _operator_sets(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    entry = _pick(rng, list(model.opset_import) or [onnx.OperatorSetIdProto()])
    entry.version = int(_pick(rng, (0, -1, 1, 6, 7, 8, 9, 10, 11, 12, 13, 17, 18, 22, 25, 26, 99, 2**62)))


def _external(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Turns a constant into one whose data are elsewhere."""
    tensor = _pick(rng, _constants(model) or [TensorProto()])
    places = ("weights.bin", "/etc/passwd", "../weights.bin", "/dev/zero", ".", "", "a\0b", "missing", "C:\\w.bin")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", _pick(rng, places)), ("length", str(_pick(rng, INTEGERS)))):
        tensor.external_data.add(key=key, value=value)


def _nest(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Wraps the graph's first node into branches in branches."""
    if not model.graph.node or not model.graph.output:
        return
    node = onnx.NodeProto.FromString(model.graph.node[0].SerializeToString())
    if not node.output:
        return
    for depth in range(int(_pick(rng, (1, 2, 8, 20)))):
        result = helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None)
        branch = helper.make_graph([node], f"branch_{depth}", [], [result])
        output = model.graph.node[0].output[0] if rng.random() < 0.8 else f"nested_{depth}"
        node = helper.make_node("If", ["yes"], [output], then_branch=branch, else_branch=branch)
        if depth > 8:
            node.attribute[1].g.CopyFrom(helper.make_graph([], "none", [], [result]))
    model.graph.node[0].CopyFrom(node)
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))


def _recursive_function(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Calls a function that calls itself, or two others each."""
    if not model.graph.node:
        return
    deep = int(_pick(rng, (0, 3, 18, 40)))
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("evil", 1)]
    for level in range(deep + 1):
        follower = f"F{level + 1}" if level < deep else _pick(rng, ("F0", "Leaf"))
        body = [helper.make_node(follower, ["a"], ["b"], domain="evil")]
        body.append(helper.make_node(follower, ["b"], ["c"], domain="evil"))
        model.functions.append(helper.make_function("evil", f"F{level}", ["a"], ["c"], body, opsets))
    leaf = [helper.make_node("Identity", ["a"], ["c"])]
    model.functions.append(helper.make_function("evil", "Leaf", ["a"], ["c"], leaf, opsets))
    model.opset_import.append(helper.make_opsetid("evil", 1))
    node = model.graph.node[-1]
    if node.input:
        call = helper.make_node("F0", [node.input[0]], ["called"], domain="evil")
        last = onnx.NodeProto.FromString(node.SerializeToString())
        last.input[0] = "called"
        del model.graph.node[-1]
        model.graph.node.extend([call, last])


def _sparse_initializer(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Turns an initialiser into a sparse one, with any shape."""
    if not model.graph.initializer:
        return
    tensor = _pick(rng, model.graph.initializer)
    dims = list(tensor.dims) if rng.random() < 0.3 else [_pick(rng, INTEGERS) for _ in range(2)]
    values = numpy_helper.from_array(np.float32([1, 2]), tensor.name)
    indices = numpy_helper.from_array(np.int64([_pick(rng, INTEGERS), _pick(rng, INTEGERS)]))
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=dims)
    model.graph.initializer.remove(tensor)
    model.graph.sparse_initializer.append(sparse)


def _more_outputs(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Returns an intermediate value too."""
    names = [name for node in model.graph.node for name in node.output]
    if names:
        model.graph.output.append(onnx.ValueInfoProto(name=_pick(rng, names)))


def _wrong_value_info(rng: np.random.Generator, model: onnx.ModelProto) -> None:
    """Declares a wrong type of an intermediate value or an output."""
    known = [*model.graph.value_info, *model.graph.output]
    if known:
        value = _pick(rng, known)
        element = int(_pick(rng, list(TensorProto.DataType.values())))
        shape = [_pick(rng, INTEGERS) for _ in range(int(rng.integers(0, 4)))]
        value.CopyFrom(helper.make_tensor_value_info(value.name, element, shape))


_CHANGES: tuple[Callable[[np.random.Generator, onnx.ModelProto], None], ...] = (
    _swap_inputs,
    _other_operator,
    _new_node,
    _attribute,
    _attribute,
    _extreme_constant,
    _extreme_constant,
    _extreme_constant,
    _other_type,
    _other_shape,
    _other_shape,
    _operator_sets,
    _external,
    _nest,
    _recursive_function,
    _sparse_initializer,
    _more_outputs,
    _wrong_value_info,
)
