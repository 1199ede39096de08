"""Constants whose data are in other files: read from the model's own folder, and from nowhere else."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath

from onnx import ModelProto, TensorProto

from sbnn_tvm.errors import ModelError

from .model_parts import parts, tensors
from .size_limits import tensor_bytes


def load_external_data(model: ModelProto, where: str, folder: Path | None) -> None:
    """Moves all external data into the model: of initialisers, attributes, subgraphs and functions.

    Args:
        model: A model; changed in place if it has external data.
        where: What messages call the model.
        folder: The folder of its file; None if the model does not come from a file.

    Raises:
        ModelError: If the model has external data, but no folder; if a location leads out of the folder, is no ordinary
            file, or is too short; if a checksum differs; if the data do not fit into memory.
    """
    files = _Files(where, folder)
    for part in parts(model):
        for name, tensor in tensors(part):
            if tensor.data_location == TensorProto.EXTERNAL:
                tensor.raw_data = files.read(name, tensor)
                tensor.data_location = TensorProto.DEFAULT
                del tensor.external_data[:]


@dataclass(frozen=True)
class _Span:
    """Where the data of a tensor are: entries of ``external_data``."""

    location: str
    offset: int
    length: int | None
    checksum: str | None


@dataclass(eq=False)
class _Files:
    """Reads from the files in one folder.

    Attributes:
        where: What messages call the model.
        folder: The folder; None if there is none.
        left: Bytes that may still be read: several tensors may share data, but not fill the memory with them.
        digests: The SHA1 digest of each file that was asked for, by its path.
    """

    where: str
    folder: Path | None
    left: int = field(default_factory=lambda: os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    digests: dict[Path, str] = field(default_factory=dict)

    def read(self, name: str, tensor: TensorProto) -> bytes:
        """The data of one tensor."""
        if self.folder is None:
            raise ModelError(
                f"{self.where} keeps {name} in an external file, which cannot be found from memory; "
                "pass the path of the .onnx file, or load it with onnx.load first"
            )
        span = self._span(name, tensor)
        problem = f"{self.where} keeps {name} in {span.location!r}"
        path = self._path(problem, self.folder, span.location)
        needed = tensor_bytes(name, tensor)
        try:
            # without O_NONBLOCK, a FIFO or a device would block when it is opened
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                self._check_file(problem, os.fstat(descriptor), span, needed)
                self._check_digest(problem, path, span.checksum)
                with os.fdopen(descriptor, "rb", closefd=False) as file:
                    file.seek(span.offset)
                    data = file.read(needed)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ModelError(self._unreadable(problem, error)) from error
        if len(data) != needed:
            raise ModelError(f"{problem}, which became shorter while it was read; copy it again")
        return data

    def _check_file(self, problem: str, status: os.stat_result, span: _Span, needed: int) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(f"{problem}, which is no ordinary file; put the data into a file beside the model")
        if span.length is not None and span.length != needed:
            raise ModelError(f"{problem}, {span.length} bytes, but its shape and type need {needed}")
        if status.st_size - span.offset < needed:
            raise ModelError(
                f"{problem}, {needed} bytes from byte {span.offset} on, but that file has {status.st_size} bytes; it "
                "is cut short or belongs to another model"
            )
        self.left -= needed
        if self.left < 0:
            raise ModelError(f"{self.where} has more external data than this machine has memory")

    def _span(self, name: str, tensor: TensorProto) -> _Span:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if len(entries) != len(tensor.external_data):
            raise ModelError(f"{self.where} says twice where {name} is stored; export the model again")
        if not all(isinstance(text, str) for text in (*entries, *entries.values())):  # bytes are no UTF-8
            raise ModelError(f"{self.where} says in no text where {name} is stored; export the model again")
        numbers: dict[str, int] = {}
        for key in ("offset", "length"):
            text = entries.get(key, "0")
            if not (text.isascii() and text.isdigit() and len(text) < 20):
                raise ModelError(f"{self.where} gives the {key} {text!r} for {name}; expected a number of bytes")
            numbers[key] = int(text)
        length = numbers["length"] if "length" in entries else None
        return _Span(entries.get("location", ""), numbers["offset"], length, entries.get("checksum"))

    def _path(self, problem: str, folder: Path, location: str) -> Path:
        """The file, which lies in the folder even when all symbolic links are followed."""
        absolute = PurePosixPath(location).is_absolute() or PureWindowsPath(location).drive
        steps = {*PurePosixPath(location).parts, *PureWindowsPath(location).parts}
        if not location or absolute or ".." in steps or not location.isprintable():
            raise ModelError(f"{problem}; expected a path relative to the folder of the model, and inside it")
        try:
            root = folder.resolve(strict=True)
            path = (root / location).resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before Python 3.13
            raise ModelError(self._unreadable(problem, error)) from error
        if not path.is_relative_to(root):
            raise ModelError(f"{problem}, which is a link out of the folder of the model; put the file itself there")
        return path

    def _unreadable(self, problem: str, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return f"{problem}, which cannot be read from {str(self.folder)!r} ({reason}); put the file into that folder"

    def _check_digest(self, problem: str, path: Path, checksum: str | None) -> None:
        if checksum is None:
            return
        if path not in self.digests:
            digest = hashlib.sha1(usedforsecurity=False)
            with path.open("rb") as file:
                while block := file.read(2**20):
                    digest.update(block)
            self.digests[path] = digest.hexdigest()
        if self.digests[path] != checksum.lower():
            raise ModelError(f"{problem}, whose checksum differs from the one in the model; copy both files again")
