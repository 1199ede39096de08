"""Read the header of an ELF file, and write and read an ELF note: the metadata of a library is stored in one.

A note (section SHT_NOTE, segment PT_NOTE) is ELF's own place for metadata; build ids are notes, too. Writing one needs
no compiler, and ``strip`` keeps it. It is read without loading the library, so also on a machine that could not load
it. Sources: System V ABI, chapters 4 and 5; elf(5).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_MACHINES = {3: "i386", 21: "ppc64", 22: "s390x", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv"}
_CODES = {name: code for code, name in _MACHINES.items()}

_ET_REL, _ET_DYN = 1, 3
_PT_NOTE = 4
_SHT_PROGBITS, _SHT_STRTAB, _SHT_NOTE = 1, 3, 7
_SHF_ALLOC = 2
_ARM_FLAGS = 0x0500_0000  # EABI version 5; a linker refuses objects of another one
_NOTE_TYPE = 1


class ElfError(ValueError):
    """The file is not an ELF file, or is of an unsupported kind."""


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


def read_header(path: Path) -> ElfHeader:
    """Read the first 20 bytes of ``path``.

    Raises:
        ElfError: If they do not belong to a little-endian ELF file.
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        return _header(file.read(20))


def read_note(path: Path, owner: str) -> bytes | None:
    """The contents of the note of ``owner`` in a library, or None if there is no such note.

    Raises:
        ElfError: If ``path`` is not an ELF file, or is truncated.
        OSError: If the file cannot be read.
    """
    data = path.read_bytes()
    header = _header(data[:20])
    try:
        segments = _segments(data, header.bits)
    except struct.error:
        raise ElfError("the file is cut short") from None
    for segment in segments:
        if segment.kind == _PT_NOTE:
            notes = data[segment.offset : segment.offset + segment.size]
            found = _find_note(notes, owner.encode() + b"\0", max(segment.align, 4))
            if found is not None:
                return found
    return None


def note_object(machine: str, owner: str, contents: bytes) -> bytes:
    """Make a relocatable object file that has only a note; link it to put the note into a library.

    Args:
        machine: ``"x86_64"``, ``"aarch64"`` or ``"arm"``.
        owner: Name of the note's owner.
        contents: Any bytes.

    Returns:
        The object file.
    """
    wide = machine != "arm"
    name = owner.encode() + b"\0"
    note = struct.pack("<III", len(name), len(contents), _NOTE_TYPE) + _padded(name) + _padded(contents)
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
    flags = _ARM_FLAGS if machine == "arm" else 0
    header += struct.pack("<IHHHHHH", flags, start, 0, 0, len(sections[0]), len(sections), len(sections) - 1)
    return header + note + _padded(names) + b"".join(sections)


def _header(data: bytes) -> ElfHeader:
    if len(data) < 20 or data[:4] != b"\x7fELF":
        raise ElfError("not an ELF file")
    if data[4] not in (1, 2) or data[5] != 1:
        raise ElfError("not a little-endian ELF file")
    kind, machine = struct.unpack_from("<HH", data, 16)
    return ElfHeader(_MACHINES.get(machine, f"machine {machine}"), 32 * data[4], kind == _ET_DYN)


@dataclass(frozen=True)
class _Segment:
    kind: int
    offset: int
    size: int
    align: int


def _segments(data: bytes, bits: int) -> list[_Segment]:
    """The segments of a complete file; refuses a truncated file, because the loader would crash on it."""
    wide = bits == 64
    table, sections = struct.unpack_from("<QQ" if wide else "<II", data, 32 if wide else 28)
    size, count, section_size, section_count = struct.unpack_from("<HHHH", data, 54 if wide else 42)
    segments = []
    for at in range(table, table + count * size, size):
        if wide:
            kind, _, offset, _, _, length, _, align = struct.unpack_from("<IIQQQQQQ", data, at)
        else:
            kind, offset, _, _, length, _, _, align = struct.unpack_from("<IIIIIIII", data, at)
        segments.append(_Segment(kind, offset, length, align))
    ends = [segment.offset + segment.size for segment in segments]
    if len(data) < max([sections + section_count * section_size, *ends]):
        raise ElfError("the file is cut short")
    return segments


def _find_note(segment: bytes, name: bytes, align: int) -> bytes | None:
    at = 0
    while at + 12 <= len(segment):
        name_size, size, _ = struct.unpack_from("<III", segment, at)
        begin = at + -(-(12 + name_size) // align) * align
        if segment[at + 12 : at + 12 + name_size] == name:
            return segment[begin : begin + size]
        at = begin + -(-size // align) * align
    return None


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
