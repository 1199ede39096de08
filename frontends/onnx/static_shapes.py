"""Static input shapes: the compiler plans memory in advance, so every dimension must be known before the import."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, ValueInfoProto

from sbnn_tvm.errors import ModelError
from sbnn_tvm.runtime.metadata import TensorSpec

from .size_limits import check_shape

_NUMPY_TYPES = {
    *(TensorProto.BOOL, TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE),
    *(TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64),
    *(TensorProto.UINT8, TensorProto.UINT16, TensorProto.UINT32, TensorProto.UINT64),
}


def with_static_inputs(
    model: onnx.ModelProto, input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None
) -> onnx.ModelProto:
    """A copy of ``model`` whose inputs all have static shapes.

    Args:
        model: A checked model.
        input_shape: The shape of the only input, or shapes by input name. They set the dimensions that the model leaves
            open, and must equal the others.

    Returns:
        The copy.

    Raises:
        ModelError: If a dimension stays open, a given shape contradicts the model or names no input, or an input is too
            large.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    inputs = model_inputs(copy.graph)
    given = _shapes_by_name(inputs, input_shape)
    symbols: dict[str, int] = {}
    for value in inputs:
        _make_static(value, given.get(value.name), symbols)
        check_shape(f"input {value.name!r}", [dim.dim_value for dim in value.type.tensor_type.shape.dim])
    return copy


def model_inputs(graph: onnx.GraphProto) -> list[ValueInfoProto]:
    """The inputs that a caller must give: those that are not initialisers (old IR versions list both)."""
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {tensor.values.name for tensor in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in constants]


def check_element_type(role: str, value: ValueInfoProto) -> None:
    """Raises ModelError if a declared input or output has an element type that numpy lacks."""
    check_numpy_type(f"{role} {value.name!r}", value.type.tensor_type.elem_type)


def check_numpy_type(what: str, element: int) -> None:
    """Raises ModelError if numpy lacks an element type; ``what`` begins the sentence."""
    if element not in _NUMPY_TYPES:
        known = element in TensorProto.DataType.values()
        raise ModelError(
            f"{what} has the element type {TensorProto.DataType.Name(element) if known else element}, which is not "
            "supported; export the model with one that numpy has, such as float32 or int64"
        )


def check_declared(value: ValueInfoProto, dtype: str, shape: Sequence[int]) -> None:
    """Raises ModelError if an output does not have the type that the model declares for it."""
    tensor = value.type.tensor_type
    declared = _declared(value)
    same_type = not tensor.elem_type or onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name == dtype
    if same_type and (
        declared is None
        or (
            len(declared) == len(shape)
            and all(not isinstance(dim, int) or dim == size for dim, size in zip(declared, shape, strict=True))
        )
    ):
        return
    wanted = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name if tensor.elem_type else "any type"
    raise ModelError(
        f"the model declares its output {value.name!r} as {wanted} of shape {_text(declared or ())}, but computes "
        f"{dtype} of shape {list(shape)}; correct the declaration, or export the model again"
    )


def tensor_spec(value: ValueInfoProto) -> TensorSpec:
    """The name, shape and dtype of an input with a static shape."""
    tensor = value.type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return TensorSpec(value.name, tuple(dim.dim_value for dim in tensor.shape.dim), dtype)


def _shapes_by_name(
    inputs: Sequence[ValueInfoProto], input_shape: Sequence[int] | Mapping[str, Sequence[int]] | None
) -> dict[str, tuple[int, ...]]:
    names = [value.name for value in inputs]
    listed = ", ".join(repr(name) for name in names) or "none"
    if input_shape is None:
        return {}
    if isinstance(input_shape, Mapping):
        for name in input_shape:
            if name not in names:
                raise ModelError(f"input_shape names {name!r}, but the inputs of the model are: {listed}")
        return {name: _checked(name, shape) for name, shape in input_shape.items()}
    if len(names) != 1:
        raise ModelError(
            f"one input_shape was given, but the model has {len(names)} inputs ({listed}); "
            "pass a mapping from input name to shape"
        )
    return {names[0]: _checked(names[0], input_shape)}


def _checked(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    try:
        dims = tuple(operator.index(dim) for dim in shape)
    except TypeError:
        dims = (0,)
    if isinstance(shape, str) or any(dim <= 0 for dim in dims):
        raise ModelError(f"the shape given for input {name!r} must be positive integers, but is {shape!r}")
    return dims


def _make_static(value: ValueInfoProto, given: tuple[int, ...] | None, symbols: dict[str, int]) -> None:
    if value.type.WhichOneof("value") != "tensor_type":
        raise ModelError(f"input {value.name!r} is not a tensor; only tensors can be inputs of a compiled model")
    tensor = value.type.tensor_type
    check_element_type("input", value)
    declared = _declared(value)
    if given is None:
        if declared is None or any(not isinstance(dim, int) for dim in declared):
            raise ModelError(_dynamic_message(value.name, declared))
        return
    if declared is not None and (
        len(declared) != len(given)
        or any(isinstance(dim, int) and dim != size for dim, size in zip(declared, given, strict=True))
    ):
        raise ModelError(
            f"the shape {list(given)} given for input {value.name!r} contradicts the model, "
            f"where it is {_text(declared)}"
        )
    for dim, size in zip(declared or (), given, strict=False):
        if isinstance(dim, str) and dim != "?" and symbols.setdefault(dim, size) != size:
            raise ModelError(
                f"input {value.name!r} is given {size} for its dimension {dim!r}, "
                f"but another input has {symbols[dim]} there; the two must agree"
            )
    tensor.shape.CopyFrom(onnx.TensorShapeProto())
    for size in given:
        tensor.shape.dim.add().dim_value = size


def _declared(value: ValueInfoProto) -> tuple[int | str, ...] | None:
    """The size of each dimension if it is static, otherwise its name or ``"?"``; None if the rank is open too."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value > 0 else dim.dim_param or "?"
        for dim in tensor.shape.dim
    )


def _dynamic_message(name: str, declared: tuple[int | str, ...] | None) -> str:
    if declared is None:
        return f"input {name!r} has no shape in the model; pass one, {_example(name, (1, 3, 224, 224))}"
    example = [dim if isinstance(dim, int) else 1 if axis == 0 else 224 for axis, dim in enumerate(declared)]
    return f"input {name!r} has the dynamic shape {_text(declared)}; pass a static one, {_example(name, example)}"


def _example(name: str, shape: Sequence[int]) -> str:
    return f"for example input_shape={{{name!r}: {tuple(shape)}}}"


def _text(declared: Sequence[int | str]) -> str:
    return "[" + ", ".join(str(dim) for dim in declared) + "]"
