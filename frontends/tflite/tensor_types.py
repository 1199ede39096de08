"""The element types of tensors."""

from __future__ import annotations

from sbnn_tvm.errors import ModelError

from .flatbuffer_file import Tensor

_DTYPES = {
    "BOOL": "bool",
    "FLOAT16": "float16",
    "FLOAT32": "float32",
    "FLOAT64": "float64",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "INT8": "int8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "UINT8": "uint8",
}


def dtype_of(tensor: Tensor, where: str) -> str:
    """The element type of a tensor as numpy names it.

    Raises:
        ModelError: If numpy has none; ``where`` begins the message.
    """
    if tensor.dtype not in _DTYPES:
        raise ModelError(f"{where} has the tensor {tensor.name!r} of type {tensor.dtype}, which is not supported")
    return _DTYPES[tensor.dtype]
