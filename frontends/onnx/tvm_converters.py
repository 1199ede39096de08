"""The operators that are left to TVM's own converters, and what these honour.

TVM's converters ignore attributes and inputs that they do not know. So a node goes there only if all that it says is in
this table; otherwise it is imported by ONNX's definition of the operator, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto
from tvm import relax
from tvm.relax.frontend.onnx.onnx_frontend import ONNXGraphImporter, onnx_input

from .function_bodies import off_default
from .node import Value, as_expr, dtype_of

_FLOATS = frozenset({"float16", "float32", "float64"})
_NUMBERS = _FLOATS | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class Honoured:
    """What TVM's converter of an operator reads.

    Attributes:
        attributes: Attributes that it honours; all others must have their defaults.
        since: The first operator set whose form it reads.
        constants: Inputs that must not depend on the model's inputs.
        dtypes: Element types of the first input that it converts right.
    """

    attributes: frozenset[str] = field(default_factory=frozenset)
    since: int = 1
    constants: tuple[int, ...] = ()
    dtypes: frozenset[str] = _NUMBERS


def _honours(*attributes: str, since: int = 1, constants: tuple[int, ...] = (), **kinds: frozenset[str]) -> Honoured:
    return Honoured(frozenset(attributes), since, constants, **kinds)


_TRUTH = frozenset({"bool"})
_ALL = _NUMBERS | _TRUTH

HONOURED: dict[str, Honoured] = {
    **dict.fromkeys(
        ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "IsNaN"),
        _honours(dtypes=_FLOATS),
    ),
    **dict.fromkeys(
        ("HardSwish", "Log", "Reciprocal", "Round", "Sigmoid", "Sin", "Sinh", "Softsign", "Sqrt", "Tan", "Tanh"),
        _honours(dtypes=_FLOATS),
    ),
    **dict.fromkeys(("And", "Not", "Or", "Xor"), _honours(since=7, dtypes=_TRUTH)),
    **dict.fromkeys(("Abs", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Neg"), _honours()),
    "BatchNormalization": _honours("epsilon", "momentum", "spatial", since=9, dtypes=_FLOATS),
    "Cast": _honours("to", "saturate", "round_mode", since=6, dtypes=_ALL),
    "Einsum": _honours("equation"),
    "Expand": _honours(constants=(1,), dtypes=_ALL),
    "Gelu": _honours("approximate", dtypes=_FLOATS),
    "GroupNormalization": _honours("epsilon", "num_groups", since=21, dtypes=_FLOATS),
    "InstanceNormalization": _honours("epsilon", since=6, dtypes=_FLOATS),
    "LRN": _honours("alpha", "beta", "bias", "size", dtypes=_FLOATS),
    "LogSoftmax": _honours("axis", dtypes=_FLOATS),
    "Mean": _honours(since=8, dtypes=_FLOATS),
    "MeanVarianceNormalization": _honours("axes", dtypes=_FLOATS),
    "Softmax": _honours("axis", dtypes=_FLOATS),
    "Split": _honours("axis", "num_outputs", "split", constants=(1,), dtypes=_ALL),
    "Transpose": _honours("perm", dtypes=_ALL),
    "Trilu": _honours("upper", constants=(1,), dtypes=_ALL),
}
"""By operator, what TVM's converter of it honours."""


class TvmConverters:
    """TVM's converters, for nodes that say no more than these honour."""

    def __init__(self, builder: relax.BlockBuilder) -> None:
        self._importer = ONNXGraphImporter({}, None)
        self._importer.bb = builder

    def problem(self, node: NodeProto, inputs: Sequence[Value | None], version: int) -> str | None:
        """What TVM's converter would ignore or get wrong, as the end of a sentence about the node.

        Returns:
            None if it honours all of the node; an empty text if TVM has no converter that is to be used.
        """
        honoured = HONOURED.get(node.op_type)
        if honoured is None:
            return ""
        if version < honoured.since:
            return f"of operator set {version} is not supported; export the model for a newer operator set"
        attribute = off_default(node, version, honoured.attributes)
        if attribute:
            return f"has {attribute}, which is not supported; export the model without it"
        for index in honoured.constants:
            if index < len(inputs) and not (inputs[index] is None or isinstance(inputs[index], np.ndarray)):
                return f"needs a constant as input {index}, but {node.input[index]!r} is computed at run time"
        first = next((value for value in inputs if value is not None), None)
        if first is not None and dtype_of(first) not in honoured.dtypes:
            return f"reads {dtype_of(first)}, which is not supported; cast it to float32 or int64 before"
        return None

    def convert(self, node: NodeProto, inputs: Sequence[Value | None], version: int) -> relax.Expr:
        """The expression that TVM's converter makes of a node; it raises errors of any type."""
        self._importer.opset = version
        attributes = self._importer._parse_attr(node.attribute)
        attributes["tvm_custom"] = {"name": node.name, "num_outputs": len(node.output)}
        operands = onnx_input([value if value is None else as_expr(value) for value in inputs])
        return self._importer._convert_operator(node.op_type, operands, attributes, version)
