"""Read the header of an ELF file, and write and find an ELF note: the metadata of a library is stored in one.

A note (section SHT_NOTE, segment PT_NOTE) is ELF's own place for metadata; build ids are notes, too. Writing one needs
no compiler. It is read without loading the library, so also on a machine that could not load it. Any file may be read
here: every offset is checked, and the work has a limit. Sources: System V ABI, chapters 4 and 5; elf(5).
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_MACHINES = {3: "i386", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64"}
_CODES = {name: code for code, name in _MACHINES.items()}

_ET_REL, _ET_DYN = 1, 3
_PT_NOTE = 4
_SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 1, 3, 7
_SHF_ALLOC = 2
_ABI_FLAGS = {"arm": 0x0500_0000, "riscv64": 5}  # EABI version 5; double floats in registers, compressed instructions
"""The ABI of objects where the header tells it; a linker refuses objects of another one."""

_HEADER_SIZE = 64  # 52 in 32-bit files
_LARGEST_NOTES = 1 << 26
_MOST_NOTES = 1000


class ElfError(ValueError):
    """The file is not an ELF file, is of an unsupported kind, or contradicts itself."""


@dataclass(frozen=True)
class ElfHeader:
    """The beginning of an ELF file.

    Attributes:
        machine: The architecture as in sbnn_tvm.runtime.cpu, for example ``"aarch64"``.
        bits: 32 or 64.
        shared: Whether it is a shared library.
    """

    machine: str
    bits: int
    shared: bool


@dataclass(frozen=True)
class Note:
    """The place of a note's contents in a file.

    Attributes:
        kind: The type of the note, a number that its owner chooses.
        offset, size: Where the contents are, in bytes.
    """

    kind: int
    offset: int
    size: int


def read_header(path: Path) -> ElfHeader:
    """Read the header of a file.

    Raises:
        ElfError: If it does not belong to a little-endian ELF file.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return header_of(file.read(_HEADER_SIZE))


def header_of(data: bytes) -> ElfHeader:
    """The header of a file, from its first 20 bytes or more.

    Raises:
        ElfError: If they do not belong to a little-endian ELF file.
    """
    if len(data) < 20 or data[:4] != b"\x7fELF":
        raise ElfError("not an ELF file")
    if data[4] not in (1, 2) or data[5] != 1:
        raise ElfError("not a little-endian ELF file")
    kind, machine = struct.unpack_from("<HH", data, 16)
    return ElfHeader(_MACHINES.get(machine, f"machine {machine}"), 32 * data[4], kind == _ET_DYN)


def find_note(file: BinaryIO, owner: str) -> Note | None:
    """Find the note of ``owner`` in a library; only the headers and the notes are read.

    Returns:
        Where the note is, or None if there is none.

    Raises:
        ElfError: If ``file`` is not an ELF file, or if its headers or notes reach beyond its end.
        OSError: If the file cannot be read.
    """
    segments = [segment for segment in _segments(file) if segment.kind == _PT_NOTE]
    if sum(segment.size for segment in segments) > _LARGEST_NOTES:
        raise ElfError(f"its notes are larger than {_LARGEST_NOTES} bytes")
    for segment in segments:
        note = _find_note(_read(file, segment.offset, segment.size), owner.encode() + b"\0", segment.align)
        if note is not None:
            return Note(note.kind, segment.offset + note.offset, note.size)
    return None


def check_complete(file: BinaryIO) -> None:
    """Check that a file has all the bytes that its headers speak of.

    Raises:
        ElfError: If not.
    """
    _segments(file)


def note_object(machine: str, owner: str, kind: int, contents: bytes) -> bytes:
    """Make a relocatable object file that has only a note; link it to put the note into a library.

    Args:
        machine: ``"x86_64"``, ``"aarch64"`` or ``"arm"``.
        owner: Name of the note's owner.
        kind: The type of the note, a number that its owner chooses.
        contents: Any bytes.

    Returns:
        The object file.
    """
    wide = machine != "arm"
    name = owner.encode() + b"\0"
    note = struct.pack("<III", len(name), len(contents), kind) + _padded(name) + _padded(contents)
    names = b"\0.note." + name + b".note.GNU-stack\0.shstrtab\0"
    start = 64 if wide else 52
    table = start + len(note) + len(_padded(names))

    def section(label: bytes, kind: int, flags: int, offset: int, size: int, align: int) -> bytes:
        layout = "<IIQQQQIIQQ" if wide else "<IIIIIIIIII"
        return struct.pack(layout, names.index(label), kind, flags, 0, offset, size, 0, 0, align, 0)

    sections = [
        section(b"\0", 0, 0, 0, 0, 0),
        section(b".note." + name, _SHT_NOTE, _SHF_ALLOC, start, len(note), 4),
        # Without this section, linkers make the stack executable.
        section(b".note.GNU-stack\0", _SHT_PROGBITS, 0, start, 0, 1),
        section(b".shstrtab\0", _SHT_STRTAB, 0, start + len(note), len(names), 1),
    ]
    header = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    header += struct.pack("<HHI", _ET_REL, _CODES[machine], 1)
    header += struct.pack("<QQQ" if wide else "<III", 0, 0, table)
    flags = _ABI_FLAGS.get(machine, 0)
    header += struct.pack("<IHHHHHH", flags, start, 0, 0, len(sections[0]), len(sections), len(sections) - 1)
    return header + note + _padded(names) + b"".join(sections)


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    size: int
    align: int


def _segments(file: BinaryIO) -> list[_Segment]:
    """The segments of a file; they and the table of sections must lie inside of it."""
    start = _read(file, 0, min(_HEADER_SIZE, _size(file)))
    wide = header_of(start).bits == 64
    if len(start) < (64 if wide else 52):
        raise ElfError("the file is cut short")
    table, sections = struct.unpack_from("<QQ" if wide else "<II", start, 32 if wide else 28)
    entry_size, count, section_size, section_count = struct.unpack_from("<HHHH", start, 54 if wide else 42)
    layout = struct.Struct("<IIQQQQQQ" if wide else "<IIIIIIII")
    if count and entry_size != layout.size:
        raise ElfError(f"its segments have headers of {entry_size} instead of {layout.size} bytes")
    segments = []
    for fields in layout.iter_unpack(_read(file, table, count * layout.size)):
        if wide:
            kind, _, offset, _, _, length, _, align = fields
        else:
            kind, offset, _, _, length, _, _, align = fields
        segments.append(_Segment(kind, offset, length, align))
    ends = [segment.offset + segment.size for segment in segments]
    if _size(file) < max([sections + section_count * section_size, *ends]):
        raise ElfError("the file is cut short")
    return segments


def _find_note(segment: bytes, name: bytes, align: int) -> Note | None:
    """The note of an owner; its offset counts from the beginning of the segment."""
    align = 8 if align == 8 else 4
    at = 0
    for _ in range(_MOST_NOTES):
        if at + 12 > len(segment):
            return None
        name_size, size, kind = struct.unpack_from("<III", segment, at)
        begin = at + _up(12 + name_size, align)
        if segment[at + 12 : at + 12 + name_size] == name:
            if begin + size > len(segment):
                raise ElfError("a note reaches beyond the end of its segment")
            return Note(kind, begin, size)
        at = begin + _up(size, align)
    raise ElfError(f"it has more than {_MOST_NOTES} notes")


def _read(file: BinaryIO, offset: int, size: int) -> bytes:
    if offset + size > _size(file):
        raise ElfError("the file is cut short")
    file.seek(offset)
    data = file.read(size)
    if len(data) < size:  # it became shorter just now
        raise ElfError("the file is cut short")
    return data


def _size(file: BinaryIO) -> int:
    return file.seek(0, os.SEEK_END)


def _up(size: int, align: int) -> int:
    return -(-size // align) * align


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
