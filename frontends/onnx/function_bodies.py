"""The bodies of standard operators that ONNX defines by other operators (``Attention``, losses, normalizations)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import onnx
from onnx import AttributeProto, FunctionProto, NodeProto, TypeProto, helper
from onnx.defs import SchemaError

from .model_parts import graphs_of
from .node import STANDARD


@cache
def schema_of(operator: str, version: int) -> Any:
    """The OpSchema of a standard operator in an operator set; None if the set lacks it."""
    try:
        return onnx.defs.get_schema(operator, version, "")
    except SchemaError:
        return None


def has_body(node: NodeProto, version: int) -> bool:
    """Whether ONNX defines the node's operator by others."""
    schema = schema_of(node.op_type, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def off_default(node: NodeProto, version: int, honoured: Collection[str]) -> str:
    """The first attribute that is neither honoured nor at its default, as text ``name=value``, or an empty text."""
    schema = schema_of(node.op_type, version) if node.domain in STANDARD else None
    for attribute in node.attribute:
        if attribute.name in honoured or attribute.ref_attr_name:
            continue
        known = schema.attributes.get(attribute.name) if schema is not None else None
        value = helper.get_attribute_value(attribute)
        if known is not None and known.default_value.name and value == helper.get_attribute_value(known.default_value):
            continue
        text = repr(value.decode(errors="replace")) if isinstance(value, bytes) else value
        return f"{attribute.name}={text}"
    return ""


def body(node: NodeProto, types: Sequence[TypeProto | None], version: int) -> FunctionProto | None:
    """The definition of a node by other operators.

    Args:
        node: A node of the standard domain.
        types: The types of its inputs; None for an omitted one.
        version: The version of the operator set.

    Returns:
        A function with the node's attributes in place of references to them, or None if ONNX has no definition for
        inputs of these types.
    """
    schema = schema_of(node.op_type, version)
    if schema is None:
        return None
    complete = with_defaults(node, schema)
    found = _find(complete, schema, types, version)
    if found is None:
        return None
    function = FunctionProto.FromString(found)
    attributes = {attribute.name: attribute for attribute in complete.attribute}
    for inner in function.node:
        _bind_attributes(inner, attributes)
    return function


def _find(node: NodeProto, schema: Any, types: Sequence[TypeProto | None], version: int) -> bytes | None:
    """The newest definition for an operator set that is not newer than the model's."""
    for known in sorted(schema.function_opset_versions, reverse=True):
        if known <= version:
            return schema.get_function_with_opset_version(known)
    serialized = [(TypeProto() if proto is None else proto).SerializeToString() for proto in types]
    for known in sorted(schema.context_dependent_function_opset_versions, reverse=True):
        if known <= version:
            found = schema.get_context_dependent_function_with_opset_version(
                known, node.SerializeToString(), serialized
            )
            return found or None
    return None


def with_defaults(node: NodeProto, schema: Any) -> NodeProto:
    """A copy of a node in which every attribute is given that has a default."""
    complete = NodeProto()
    complete.CopyFrom(node)
    given = {attribute.name for attribute in node.attribute}
    for name, attribute in schema.attributes.items():
        if name not in given and attribute.default_value.name:
            complete.attribute.append(attribute.default_value)
    return complete


def _bind_attributes(node: NodeProto, attributes: dict[str, AttributeProto]) -> None:
    bound = []
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            if attribute.ref_attr_name not in attributes:
                continue  # optional and not given: the inner node has its own default
            copy = AttributeProto()
            copy.CopyFrom(attributes[attribute.ref_attr_name])
            copy.name = attribute.name
            bound.append(copy)
        else:
            for graph in graphs_of(attribute):
                for inner in graph.node:
                    _bind_attributes(inner, attributes)
            bound.append(attribute)
    del node.attribute[:]
    node.attribute.extend(bound)
