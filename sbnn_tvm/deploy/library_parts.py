"""What the bytes of a library are for: a shared or static library in ELF, or a WebAssembly module."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from ..runtime.library_file import OWNER

_ARCHIVE, _MODULE = b"!<arch>\n", b"\0asm"
_MEMBER = 60  # bytes of the header of a file in an archive; its size is at 48
_CODE, _DATA = 10, 11  # sections of WebAssembly


@dataclass(frozen=True)
class LibraryParts:
    """Sizes in bytes; the rest of the file are headers and tables for the loader or linker.

    Attributes:
        file: The whole file.
        code: Machine code.
        constants: Constants of the model and of its code.
        record: The record for ``load`` and ``inspect``, with the report; 0 in files other than shared libraries.
    """

    file: int
    code: int
    constants: int
    record: int

    def __str__(self) -> str:
        named = {"code": self.code, "constants": self.constants, "record": self.record}
        return ", ".join(f"{size / 1024:.1f} KiB {name}" for name, size in named.items() if size)


def library_parts(path: Path) -> LibraryParts | None:
    """Measure the parts of a file that ``export`` wrote; None if it has another format, such as that of macOS."""
    data = path.read_bytes()
    try:
        if data.startswith(_MODULE):
            found = [_of_module(data)]
        elif data.startswith(_ARCHIVE):
            found = [_of_elf(member) for member in _members(data)]
        else:
            found = [_of_elf(data)]
    except ELFError:
        return None
    code, constants, record = (sum(sizes) for sizes in zip(*found, strict=True))
    return LibraryParts(len(data), code, constants, record)


def _of_elf(data: bytes) -> tuple[int, int, int]:
    """Bytes of code, constants and record of a file."""
    code = constants = record = 0
    for section in ELFFile(BytesIO(data)).iter_sections():
        flags, size = section["sh_flags"], section["sh_size"]
        if flags & SH_FLAGS.SHF_EXECINSTR:
            code += size
        elif section["sh_type"] == "SHT_NOTE":
            record += size if section.name == f".note.{OWNER}" else 0
        elif section["sh_type"] == "SHT_PROGBITS" and flags & SH_FLAGS.SHF_ALLOC:
            constants += 0 if section.name.startswith(".eh_frame") else size
    return code, constants, record


def _members(archive: bytes) -> Iterator[bytes]:
    """The files of an archive, without its tables of symbols and names, whose names begin with a slash."""
    at = len(_ARCHIVE)
    while at < len(archive):
        first, size = at + _MEMBER, int(archive[at + 48 : at + 58])
        if archive[at : at + 16].rstrip() not in (b"/", b"//", b"/SYM64/"):
            yield archive[first : first + size]
        at = first + size + size % 2


def _of_module(module: bytes) -> tuple[int, int, int]:
    """Bytes of code, data and record, of which there is none, of a WebAssembly module."""
    sizes, at = {_CODE: 0, _DATA: 0}, 8
    while at < len(module):
        kind, size, shift, at = module[at], 0, 0, at + 1
        while True:  # LEB128: seven bits of the size a byte, the lowest first; the last byte is below 128
            size |= (module[at] & 127) << shift
            shift, at = shift + 7, at + 1
            if module[at - 1] < 128:
                break
        sizes[kind] = sizes.get(kind, 0) + size
        at += size
    return sizes[_CODE], sizes[_DATA], 0
