"""Checks of an ONNX model before anything is computed from it: ours, then those of ONNX."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Iterable, Iterator
from typing import TypeAlias, TypeVar

import onnx
from onnx import AttributeProto, FunctionProto, GraphProto, ModelProto, NodeProto, TensorProto

from sbnn_tvm.errors import ModelError

from . import opset
from .model_parts import Part, parts, tensors
from .node import describe
from .size_limits import check_shape, tensor_bytes, type_name

MOST_NESTED = 24
"""Most subgraphs inside each other; a file of protobuf can hold about 30."""
MOST_NODES = 2**20
"""Most nodes of a model after its functions are replaced by their bodies."""

_Caller: TypeAlias = tuple[str, str]
"""Domain and name of a function."""
_GRAPH: _Caller = ("", "")
"""Stands for the graph among the functions."""

_Name = TypeVar("_Name", bound=Hashable)

_CONTROL = re.compile(r"[\0-\x1f\x7f-\x9f\u2028\u2029]")
_LARGE = 2**16
"""Bytes of an initialiser that ONNX's checks need not see: shapes, axes and scales are smaller."""


def check_outline(model: ModelProto, where: str) -> None:
    """Rejects other files that happen to parse as a protobuf, and what no later step may walk through.

    Args:
        model: The model as it was read.
        where: What messages call it.

    Raises:
        ModelError: If there is no graph or output, if a name is no text or not unique, if subgraphs are nested too
            deep, or functions call themselves.
    """
    if not model.HasField("graph") or not model.ir_version:
        raise ModelError(f"{where} holds no ONNX graph: it is truncated or not an ONNX file; export or copy it again")
    if not model.graph.output:
        raise ModelError(f"{where} has no outputs; export it with at least one")
    for part in parts(model):
        if part.depth > MOST_NESTED:
            raise ModelError(f"{where} nests subgraphs more than {MOST_NESTED} deep, in {part.where}; flatten them")
        try:
            _check_names(part)
        except ModelError as error:
            raise ModelError(f"{where} is not valid ONNX: {error}") from None
    _check_operator_sets(model, where)
    _check_calls(model, where)


def check_contents(model: ModelProto, where: str) -> None:
    """Checks the constants and attributes of all parts of a model whose tensors are in memory.

    Raises:
        ModelError: If a constant does not have the data that its shape needs, or an attribute is none.
    """
    for part in parts(model):
        try:
            _check_constants(part)
            _check_nodes(part)
        except ModelError as error:
            raise ModelError(f"{where} is not valid ONNX: {error}") from None


def check_specification(model: ModelProto, where: str) -> None:
    """ONNX's own checks of a model of standard operators. The importer infers and checks types, node by node.

    Raises:
        ModelError: If the model violates the ONNX specification.
    """
    try:
        onnx.checker.check_model(skeleton(model))
    except Exception as error:  # besides ValidationError, whatever C++ throws
        raise ModelError(f"{where} is not valid ONNX: {_first_line(error)}") from error


def _check_operator_sets(model: ModelProto, where: str) -> None:
    for entry in model.opset_import:
        _check_name(entry.domain, where)
    versions = {(entry.domain or "ai.onnx", entry.version) for entry in model.opset_import}
    for domain in _repeated(domain for domain, _ in versions):
        raise ModelError(f"{where} has two versions of the operator set {domain!r}; export it again")
    for domain, name, _ in _repeated((f.domain, f.name, f.overload) for f in model.functions):
        raise ModelError(f"{where} has two functions {domain}::{name}; export it again")
    newer = any(domain == opset.DOMAIN and version > opset.VERSION for domain, version in versions)
    for function in model.functions:
        if function.domain == opset.DOMAIN and not newer and opset.has_other_body(function):
            raise ModelError(
                f"{where} defines {function.domain}::{function.name} otherwise than version {opset.VERSION} of the "
                "operator set, which is what would be compiled; export the model again"
            )


def _check_calls(model: ModelProto, where: str) -> None:
    """Counts the nodes that inlining makes, before it makes them."""
    functions = {(f.domain, f.name) for f in model.functions}
    calls: dict[_Caller, list[_Caller]] = {_GRAPH: [], **{key: [] for key in functions}}
    sizes: dict[_Caller, int] = dict.fromkeys(calls, 0)
    for part in parts(model):
        caller = _GRAPH if part.function is None else (part.function.domain, part.function.name)
        sizes[caller] += len(part.body.node)
        calls[caller] += [key for node in part.body.node if (key := (node.domain, node.op_type)) in functions]
    total: dict[_Caller, int] = {}
    waiting: list[_Caller] = [_GRAPH]
    begun: set[_Caller] = set()
    while waiting:
        caller = waiting[-1]
        missing = [callee for callee in dict.fromkeys(calls[caller]) if callee not in total]
        if missing and caller in begun:  # its callees wait for something that is begun as well
            raise ModelError(f"{where} has a function that calls itself, {'::'.join(missing[0])}; unroll it")
        begun.add(caller)
        waiting += missing
        if not missing:
            waiting.pop()
            total[caller] = sizes[caller] + sum(total[callee] for callee in calls[caller])
            if total[caller] > MOST_NODES:
                raise ModelError(
                    f"{where} has more than {MOST_NODES:,} nodes once its functions are replaced by bodies"
                )


def _check_names(part: Part) -> None:
    body = part.body
    values = [*body.input, *body.output] if isinstance(body, FunctionProto) else []
    if isinstance(body, GraphProto):
        declared = [value.name for value in (*body.input, *body.output, *body.value_info)]
        constants = [t.name for t in body.initializer] + [sparse.values.name for sparse in body.sparse_initializer]
        values = [body.name, *declared, *constants]
        for name in _repeated(constants):
            raise ModelError(f"{part.where} has two initializers {name!r}")
        for role, infos in (("inputs", body.input), ("outputs", body.output)):
            for name in _repeated(info.name for info in infos):
                raise ModelError(f"{part.where} has two {role} {name!r}")
        for info in (*body.input, *body.output):
            if not info.name:
                raise ModelError(f"{part.where} has an input or output without a name")
    else:
        values += [body.name, body.domain, *body.attribute, *(default.name for default in body.attribute_proto)]
    for name in values:
        _check_name(name, part.where)
    for node in body.node:
        where = f"a node of {part.where}"
        for name in (node.name, node.op_type, node.domain, *node.input, *node.output):
            _check_name(name, where)
        for attribute in node.attribute:
            _check_name(attribute.name, where)
            _check_name(attribute.ref_attr_name, where)


def _check_name(name: object, where: str) -> None:
    if not isinstance(name, str):  # protobuf gives bytes for what is not UTF-8
        raise ModelError(f"{where} has a name that is not UTF-8, {name!r}")
    if _CONTROL.search(name):
        raise ModelError(f"{where} has a name with control characters, {name[:80]!r}")


def _check_constants(part: Part) -> None:
    for what, tensor in tensors(part):
        if tensor.data_type != TensorProto.STRING:
            _check_data(what, tensor, tensor_bytes(what, tensor))
        else:
            check_shape(what, tensor.dims)
    if isinstance(part.body, GraphProto):
        for sparse in part.body.sparse_initializer:
            check_shape(f"the sparse initializer {sparse.values.name!r}", sparse.dims)


def _check_data(what: str, tensor: TensorProto, size: int) -> None:
    """Compares the data of a tensor with its shape."""
    if tensor.HasField("raw_data"):
        held, needed, unit = len(tensor.raw_data), size, "bytes"
    else:
        fields = (tensor.float_data, tensor.int32_data, tensor.int64_data, tensor.double_data, tensor.uint64_data)
        elements = math.prod(tensor.dims)
        packed = {"UINT4": 2, "INT4": 2, "FLOAT4E2M1": 2, "UINT2": 4, "INT2": 4}.get(type_name(tensor.data_type), 1)
        parts_of_one = 2 if tensor.data_type in (TensorProto.COMPLEX64, TensorProto.COMPLEX128) else 1
        held, needed, unit = max(map(len, fields)), -(-elements // packed) * parts_of_one, "numbers"
    if held != needed:
        raise ModelError(
            f"{what} of shape {list(tensor.dims)} is damaged (it needs {needed} {unit}, but has {held}); "
            "export the model again"
        )


def _check_nodes(part: Part) -> None:
    for node in part.body.node:
        for name in _repeated(attribute.name for attribute in node.attribute):
            raise ModelError(f"{describe(node)} has two attributes {name!r}")
        for attribute in node.attribute:
            if (
                attribute.type == AttributeProto.UNDEFINED
                or attribute.type not in AttributeProto.AttributeType.values()
            ):
                raise ModelError(f"{describe(node)} has the attribute {attribute.name!r} of an unknown type")
            if attribute.ref_attr_name and part.function is None:
                raise ModelError(f"{describe(node)} is outside of functions, but refers to an attribute of one")
        if node.op_type == "Split" and node.domain in ("", "ai.onnx"):
            _check_split(node)


def _check_split(node: NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.name == "num_outputs" and attribute.i != len(node.output):
            raise ModelError(f"{describe(node)} has num_outputs {attribute.i}, but {len(node.output)} outputs")


def _repeated(names: Iterable[_Name]) -> Iterator[_Name]:
    seen: set[_Name] = set()
    for name in names:
        if name in seen:
            yield name
        seen.add(name)


def skeleton(model: ModelProto) -> ModelProto:
    """A copy for ONNX's checks and inference, which copy the model several times: large initialisers become inputs."""
    outline = ModelProto(ir_version=max(model.ir_version, 4) if model.ir_version > 0 else model.ir_version)
    outline.opset_import.extend(model.opset_import)
    outline.functions.extend(model.functions)
    graph = outline.graph
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(model.graph, field))
    inputs = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _LARGE:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return outline


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
