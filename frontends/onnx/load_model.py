"""Reads an ONNX model from a file, from bytes or from memory, and checks it; errors say what is wrong."""

from __future__ import annotations

import os
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_model, uses_external_data

from sbnn_tvm.errors import ModelError

_PROTOBUF_LIMIT = 2**31 - 1
"""Largest size of a serialised protobuf in bytes; the checker serialises models that are in memory."""


def load_model(model: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """Reads and checks an ONNX model.

    Args:
        model: The path of an ``.onnx`` file (its external data is expected in the same folder), the bytes of one, or a
            model in memory, which is returned as it is.

    Returns:
        The model, with all its tensors in memory.

    Raises:
        ModelError: If the file is missing, unreadable, empty, damaged or not ONNX, its external data is missing, or
            it violates the ONNX specification.
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
    _check_outline(proto, where)
    _load_external_data(proto, where, folder)
    _check(proto, where)
    return proto


def _read(path: Path) -> bytes:
    if not path.exists():
        raise ModelError(f"the ONNX model {str(path)!r} does not exist; check the path")
    if path.is_dir():
        raise ModelError(f"{str(path)!r} is a directory, not an ONNX file; pass the .onnx file inside it")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"the ONNX model {str(path)!r} cannot be read: {error.strerror or error}") from error


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{where} is empty; export it again")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(f"{where} is damaged, truncated or not an ONNX file; export or copy it again") from error
    return proto


def _check_outline(proto: onnx.ModelProto, where: str) -> None:
    """Rejects other files that happen to parse as a protobuf."""
    if not proto.HasField("graph") or not proto.ir_version:
        raise ModelError(f"{where} holds no ONNX graph: it is truncated or not an ONNX file; export or copy it again")
    if not proto.graph.output:
        raise ModelError(f"{where} has no outputs; export it with at least one")


def _load_external_data(proto: onnx.ModelProto, where: str, folder: Path | None) -> None:
    external = [tensor for tensor in proto.graph.initializer if uses_external_data(tensor)]
    if not external:
        return
    if folder is None:
        raise ModelError(
            f"{where} keeps the tensor {external[0].name!r} in an external file, which cannot be found from memory; "
            "pass the path of the .onnx file, or load it with onnx.load first"
        )
    try:
        load_external_data_for_model(proto, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as error:
        locations = (entry.value for tensor in external for entry in tensor.external_data if entry.key == "location")
        raise ModelError(
            f"{where} keeps weights in {', '.join(map(repr, sorted(set(locations))))}, which cannot be read from "
            f"{str(folder)!r} ({_first_line(error)}); put the external data into the folder of the model"
        ) from error


def _check(proto: onnx.ModelProto, where: str) -> None:
    if proto.ByteSize() > _PROTOBUF_LIMIT:
        return  # too large for the checker; the importer still names a node that is wrong
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{where} is not valid ONNX: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__
