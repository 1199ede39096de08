"""Reads an ONNX model from a file, from bytes or from memory, and checks it; errors say what is wrong."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from sbnn_tvm.errors import ModelError

from .check_model import check_contents, check_outline, check_specification
from .dialects.standard_form import in_standard_operators
from .external_data import load_external_data

_PROTOBUF_LIMIT = 2**31 - 1
"""Largest size of a protobuf in bytes."""


def load_model(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """Reads and checks an ONNX model.

    Args:
        model: The path of an ``.onnx`` file (its external data are read from the same folder, and from nowhere else),
            the bytes of one, or a model in memory, which is not changed.

    Returns:
        The model, with all its tensors in memory, and standard operators in place of those of QONNX and FINN.

    Raises:
        ModelError: If the file is missing, unreadable, empty, damaged or not ONNX, its external data are missing or
            outside its folder, or it violates the ONNX specification.
    """
    if isinstance(model, onnx.ModelProto):
        where, proto, folder = "the given ONNX model", model, None
    elif isinstance(model, bytes):
        where, folder = "the given ONNX data", None
        proto = _parse(model, where)
    elif isinstance(model, str | os.PathLike):
        path = Path(model)
        where, folder = f"the ONNX model {str(path)!r}", path.parent
        proto = _parse(_read(path), where)
    else:
        raise ModelError(
            f"a model must be the path of an ONNX file, its bytes or an onnx.ModelProto, but got {type(model).__name__}"
        )
    check_outline(proto, where)
    load_external_data(proto, where, folder)
    check_contents(proto, where)
    proto = in_standard_operators(proto, where)
    check_specification(proto, where)
    return proto


def _read(path: Path) -> bytes:
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise ModelError(f"{str(path)!r} is a directory, not an ONNX file; pass the .onnx file inside it")
        if not stat.S_ISREG(status.st_mode):  # reading a FIFO or a device could take for ever
            raise ModelError(f"{str(path)!r} is no ordinary file; copy the ONNX model to one")
        if status.st_size > _PROTOBUF_LIMIT:
            raise ModelError(f"the ONNX model {str(path)!r} is larger than 2 GiB; save it with external data")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"the ONNX model {str(path)!r} does not exist; check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a NUL
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ModelError(f"the ONNX model {str(path)!r} cannot be read: {reason}") from error


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{where} is empty; export it again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{where} is damaged, truncated or not an ONNX file; export or copy it again") from error
    return proto
