"""An ONNX node as a converter reads it: inputs as constants or Relax expressions, attributes, error messages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from onnx import NodeProto, helper
from tvm import ir, relax, tirx

from sbnn_tvm.errors import ModelError

STANDARD = ("", "ai.onnx")
"""Names of the domain of the standard operators."""

Value: TypeAlias = np.ndarray | relax.Expr
"""An ONNX value during the import: a constant, or an expression of the model's inputs."""


class _Attributes(dict[str, Any]):
    """Attribute values by name, which note in ``read`` what was asked for."""

    def __init__(self, values: dict[str, Any], read: set[str]) -> None:
        super().__init__(values)
        self._read = read

    def __getitem__(self, name: str) -> Any:
        self._read.add(name)
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        self._read.add(str(name))
        return super().__contains__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)


@dataclass(frozen=True, eq=False)
class Node:
    """An ONNX node with its inputs.

    Attributes:
        proto: The node.
        inputs: Its inputs in order; None for an omitted optional input.
        opset: Version of the node's operator set.
        emit: Binds an intermediate expression to a variable. Converters return the last expression unbound.
        define: Adds a function to the module, by a name that resembles the given one.
        bound: The expression that a variable is bound to; None for an input of the model.
        read: The attributes that the converter has asked for, or knows to mean nothing. The importer refuses a node
            with any other attribute off its default.
    """

    proto: NodeProto
    inputs: tuple[Value | None, ...]
    opset: int
    emit: Callable[[relax.Expr], relax.Var]
    define: Callable[[relax.Function, str], ir.GlobalVar]
    bound: Callable[[relax.Var], relax.Expr | None]
    read: set[str] = field(default_factory=set)

    @property
    def where(self) -> str:
        """The node, for error messages."""
        return describe(self.proto)

    @property
    def attributes(self) -> dict[str, Any]:
        """Attribute values by name; strings are decoded."""
        values = {attribute.name: helper.get_attribute_value(attribute) for attribute in self.proto.attribute}
        decoded = {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}
        return _Attributes(decoded, self.read)

    def ignore(self, *names: str) -> None:
        """Says that these attributes mean nothing here."""
        self.read.update(names)

    def attribute(self, name: str) -> Any:
        """The value of a required attribute."""
        values = self.attributes
        if name not in values:
            raise self.error(f"lacks the attribute {name!r}")
        return values[name]

    def value(self, index: int) -> Value | None:
        """Input ``index``, or None if it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def required(self, index: int) -> Value:
        """Input ``index``, which is required."""
        value = self.value(index)
        if value is None:
            raise self.error(f"lacks input {index}")
        return value

    def expr(self, index: int) -> relax.Expr:
        """Input ``index`` as a Relax expression."""
        return as_expr(self.required(index))

    def constant(self, index: int) -> np.ndarray:
        """Input ``index``, which must not depend on the model's inputs."""
        value = self.required(index)
        if not isinstance(value, np.ndarray):
            name = self.proto.input[index]
            raise self.error(f"needs a constant as input {index}, but {name!r} is computed at run time")
        return value

    def aligned(self, index: int, rank: int) -> relax.Expr:
        """Input ``index`` for an elementwise operator: constants get leading 1s up to ``rank``."""
        value = self.required(index)
        return aligned(value, rank) if isinstance(value, np.ndarray) else value

    def uses_output(self, index: int) -> bool:
        """Whether the node names its optional output ``index``."""
        return index < len(self.proto.output) and bool(self.proto.output[index])

    def error(self, problem: str) -> ModelError:
        """An error about this node; ``problem`` continues the sentence."""
        return ModelError(f"{self.where} {problem}")


Converter: TypeAlias = Callable[[Node], "relax.Expr | None"]
"""Turns a node into one expression (a tuple for several outputs), or into None to leave the case to TVM's converter."""


def describe(node: NodeProto) -> str:
    """The name of a node for a message: its operator, and its name or the value that it computes."""
    operator = node.op_type if node.domain in STANDARD else f"{node.domain}::{node.op_type}"
    output = next((name for name in node.output if name), "")
    return f"{operator} node {node.name!r}" if node.name else f"the {operator} node that computes {output!r}"


def as_expr(value: Value) -> relax.Expr:
    """A Relax constant for a constant; any other value unchanged."""
    if isinstance(value, np.ndarray):
        return relax.const(np.ascontiguousarray(value).reshape(value.shape), str(value.dtype))
    return value


def aligned(value: np.ndarray, rank: int) -> relax.Expr:
    """A constant with leading 1s up to ``rank``, which broadcasts the same way as before."""
    return as_expr(value.reshape((1,) * (rank - value.ndim) + value.shape))


def per_channel(values: np.ndarray, rank: int) -> relax.Expr:
    """One number per channel, in the shape [1, C, 1, ...], to broadcast over an NC... tensor."""
    return as_expr(values.reshape((1, -1) + (1,) * (rank - 2)))


def rank_of(value: Value) -> int:
    """The number of dimensions."""
    return value.ndim if isinstance(value, np.ndarray) else value.ty.ndim


def shape_of(value: Value) -> tuple[int, ...]:
    """The static shape of a constant, or of a Relax tensor whose shape is known to be static."""
    if isinstance(value, np.ndarray):
        return value.shape
    return tuple(int(dim) for dim in value.ty.shape.values)


def dtype_of(value: Value) -> str:
    """The element type as a numpy dtype name."""
    return str(value.dtype if isinstance(value, np.ndarray) else value.ty.dtype)


def is_static(value: relax.Expr) -> bool:
    """Whether a Relax value is a tensor with static shape, or a tuple of such tensors."""

    def static(ty: relax.Type) -> bool:
        if isinstance(ty, relax.TupleType):
            return all(static(field) for field in ty.fields)
        if not isinstance(ty, relax.TensorType) or not isinstance(ty.shape, relax.ShapeExpr):
            return False
        return all(isinstance(dim, tirx.IntImm) for dim in ty.shape.values)

    return static(value.ty)
