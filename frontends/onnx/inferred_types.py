"""The types that ONNX's own inference gives to the outputs of a node, which every imported value must have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TypeProto, helper, numpy_helper
from onnx.shape_inference import infer_node_outputs

from .function_bodies import schema_of, with_defaults
from .node import Value, dtype_of, shape_of

_INFERRED_FROM = {"GreaterOrEqual": 16, "LessOrEqual": 16}
"""Operators that ONNX infers from this operator set on, though they exist since an older one and are the same."""

_LARGEST_READ = 1024  # elements of a constant that the inference may read, such as a shape; weights are larger


@dataclass(frozen=True)
class InferredType:
    """The type of a value, as far as ONNX's inference knows it.

    Attributes:
        dtype: The element type by ONNX's number.
        shape: The sizes, each None if it depends on data; None if the rank does.
    """

    dtype: int
    shape: tuple[int | None, ...] | None

    @property
    def dtype_name(self) -> str:
        """The element type as a numpy dtype name."""
        return helper.tensor_dtype_to_np_dtype(self.dtype).name

    @property
    def empty(self) -> bool:
        """Whether a value of this type is known to have no elements."""
        return self.shape is not None and 0 in self.shape and None not in self.shape

    def without_elements(self) -> np.ndarray:
        """The only value of an empty type."""
        return np.empty([dim or 0 for dim in self.shape or ()], self.dtype_name)

    def holds(self, dtype: str, shape: Sequence[int]) -> bool:
        """Whether a value with this dtype and shape is of the type."""
        if dtype != self.dtype_name:
            return False
        if self.shape is None:
            return True
        return len(shape) == len(self.shape) and all(
            known in (None, size) for known, size in zip(self.shape, shape, strict=True)
        )

    def __str__(self) -> str:
        if self.shape is None:
            return self.dtype_name
        return f"{self.dtype_name}[{', '.join('?' if dim is None else str(dim) for dim in self.shape)}]"


def infer_types(node: NodeProto, inputs: Sequence[Value | None], opsets: Mapping[str, int]) -> dict[str, InferredType]:
    """The types of a standard node's outputs.

    Args:
        node: The node.
        inputs: Its inputs in order; None for an omitted optional input.
        opsets: The operator set versions of the model, by domain.

    Returns:
        The types by output name; an output is missing if the inference does not know it.

    Raises:
        InferenceError: If the node contradicts its operator's specification; describes the first contradiction.
    """
    types, data = {}, {}
    for name, value in zip(node.input, inputs, strict=True):
        if value is None:
            continue
        types[name] = type_proto(value)
        if isinstance(value, np.ndarray) and value.size <= _LARGEST_READ:
            data[name] = numpy_helper.from_array(np.asarray(value), name)
    schema = schema_of(node.op_type, max(opsets[""], _INFERRED_FROM.get(node.op_type, 0)))
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    complete = with_defaults(node, schema)  # the inference of STFT does not know its own default
    found = infer_node_outputs(schema, complete, types, data, opset_imports=imports)
    return {name: inferred for name, proto in found.items() if (inferred := _inferred(proto)) is not None}


def type_proto(value: Value) -> TypeProto:
    """ONNX's type of a value with a static shape."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype_of(value)))
    return helper.make_tensor_type_proto(element, shape_of(value))


def contradiction(error: Exception) -> str:
    """What a node contradicts, as the end of a sentence about it."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    for prefix in ("[ShapeInferenceError]", "[TypeInferenceError]"):
        text = text.split(prefix, 1)[-1]
    return text.strip(" ,:.")


def _inferred(proto: TypeProto) -> InferredType | None:
    if proto.WhichOneof("value") != "tensor_type" or not proto.tensor_type.elem_type:
        return None
    tensor = proto.tensor_type
    if not tensor.HasField("shape"):
        return InferredType(tensor.elem_type, None)
    return InferredType(
        tensor.elem_type, tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim)
    )
