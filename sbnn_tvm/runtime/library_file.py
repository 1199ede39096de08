"""The file of a compiled model: it is whole, or refused.

An ELF note of the file holds, in this order: the file's size (8 bytes), a digest (32 bytes), and the record
(sbnn_tvm.runtime.metadata) as JSON. The digest is the SHA-256 of the whole file with these 32 bytes as zeros. So it
covers every byte, and what was cut off or appended. It finds damage; it is no signature, since anyone can compute it.
The type of the note is the version of this format.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from ..errors import LibraryError
from .elf import ElfError, ElfHeader, find_note, header_of, note_object
from .metadata import Metadata

FORMAT = 3
"""The version of the format, the record and its report."""

_READABLE = (2, FORMAT)
"""What this version reads. Format 2 had no libraries for the C runtime."""

OWNER = "sbnn_tvm"
"""The owner of the ELF note."""

_SEAL = struct.Struct("<Q32s")  # size of the file, digest
_DIGEST_AT = 8
_LARGEST = 1 << 32  # bytes; code addresses its data within 2 GiB
_BITS = {"x86_64": 64, "aarch64": 64, "arm": 32, "riscv64": 64}


@dataclass(frozen=True)
class Library:
    """A library that was read whole.

    Attributes:
        path: Where it was.
        data: The bytes of the file.
        header: Its ELF header.
        metadata: Its record.
        digest: Its digest, 32 bytes.
        file: Device and inode of the file.
    """

    path: Path
    data: bytes
    header: ElfHeader
    metadata: Metadata
    digest: bytes
    file: tuple[int, int]


def record_object(machine: str, metadata: Metadata) -> bytes:
    """An object file with the record, to be linked into a library, which ``seal`` then completes.

    Raises:
        LibraryError: If ``read_library`` would refuse the record.
    """
    record = metadata.to_json().encode()
    try:
        Metadata.from_json(record)
    except ValueError as error:
        raise LibraryError(f"the model {metadata.name} cannot be exported: {error}") from None
    return note_object(machine, OWNER, FORMAT, _SEAL.pack(0, bytes(32)) + record)


def seal(path: Path) -> None:
    """Write the size and the digest of a new library into its note.

    Raises:
        ElfError: If the file has no record, or is not complete.
        OSError: If it cannot be read or written.
    """
    with path.open("r+b") as file:
        note = find_note(file, OWNER)
        if note is None or note.size < _SEAL.size:
            raise ElfError("it has no record")
        file.seek(0)
        data = bytearray(file.read())
        _SEAL.pack_into(data, note.offset, len(data), bytes(32))
        digest = sha256(data).digest()
        file.seek(note.offset)
        file.write(_SEAL.pack(len(data), digest))


def read_library(path: str | os.PathLike[str]) -> Library:
    """Read a library for any architecture, and check every byte of it. It is neither loaded nor run.

    This takes about 1 ms per megabyte.

    Raises:
        LibraryError: If the file is missing, damaged, not a compiled model, or made by an incompatible version.
    """
    path = Path(path)
    with _opened(path) as file:
        status = os.fstat(file.fileno())
        if status.st_size > _LARGEST:
            raise LibraryError(f"{path} is not a compiled model: it has {status.st_size} bytes, which is too large")
        try:
            if not header_of(file.read(20)).shared:
                raise ElfError("not a shared library")
            note = find_note(file, OWNER)
        except ElfError as error:
            raise LibraryError(f"{path} is not a compiled model, or is damaged: {error}") from None
        if note is None:
            raise LibraryError(f"{path} is a shared library, but not a model compiled by sbnn_tvm")
        if note.kind not in _READABLE:
            raise LibraryError(
                f"{path} cannot be read: it has format {note.kind}, but this version reads format {FORMAT}; "
                f"compile the model again with this version"
            )
        if note.size < _SEAL.size:
            raise _damaged(path, "its record is cut short")
        file.seek(note.offset)
        size = int.from_bytes(file.read(_DIGEST_AT), "little")
        if size != status.st_size:
            raise _damaged(path, f"it has {status.st_size} bytes instead of {size}")
        # What follows is about these bytes alone: somebody may write to the file at any time.
        file.seek(0)
        data = file.read(size)
    digest_at = note.offset + _DIGEST_AT
    digest = data[digest_at : digest_at + 32]
    if digest != _digest(data, digest_at):
        raise _damaged(path, "some of its bytes are not those that were written")
    try:
        metadata = Metadata.from_json(data[note.offset + _SEAL.size : note.offset + note.size])
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    header = header_of(data)
    if (header.machine, header.bits) != (metadata.machine, _BITS.get(metadata.machine)):
        raise _damaged(path, f"its code is for {header.machine}, but its record for {metadata.machine}")
    return Library(path, data, header, metadata, digest, (status.st_dev, status.st_ino))


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file; anything else is refused without waiting for it."""
    try:
        _check_regular(path, os.stat(path).st_mode)
        # O_NONBLOCK: it may have become a pipe since.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY), "rb") as file:
            _check_regular(path, os.fstat(file.fileno()).st_mode)
            yield file
    except FileNotFoundError:
        raise LibraryError(f"there is no file {path}: export a compiled model to it first") from None
    except OSError as error:
        raise LibraryError(f"{path} cannot be read: {error.strerror}") from None
    except MemoryError:
        raise LibraryError(f"{path} cannot be read: it does not fit in memory") from None
    except ValueError as error:  # a name with a zero byte
        raise LibraryError(f"{path} cannot be read: {error}") from None


_KINDS = {
    stat.S_IFDIR: "folder",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def _check_regular(path: Path, mode: int) -> None:
    kind = _KINDS.get(stat.S_IFMT(mode))
    if kind is not None:
        raise LibraryError(f"{path} is a {kind}, not a compiled model: name the file that export wrote")


def _digest(data: bytes, at: int) -> bytes:
    digest = sha256(memoryview(data)[:at])
    digest.update(bytes(32))
    digest.update(memoryview(data)[at + 32 :])
    return digest.digest()


def _damaged(path: Path, reason: str) -> LibraryError:
    return LibraryError(f"{path} is damaged: {reason}; copy it again, or compile the model again")
