"""What the bytes of a library are for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from ..runtime.library_file import OWNER


@dataclass(frozen=True)
class LibraryParts:
    """Sizes in bytes; the rest of the file are headers and tables for the loader.

    Attributes:
        file: The whole file.
        code: Machine code.
        constants: Constants of the model and of its code.
        record: The record for ``load`` and ``inspect``, with the report.
    """

    file: int
    code: int
    constants: int
    record: int


def library_parts(path: Path) -> LibraryParts:
    """Measure the parts of a library that ``sbnn_tvm.runtime.library_file`` has read."""
    code = constants = record = 0
    with path.open("rb") as file:
        for section in ELFFile(file).iter_sections():
            flags, size = section["sh_flags"], section["sh_size"]
            if flags & SH_FLAGS.SHF_EXECINSTR:
                code += size
            elif section["sh_type"] == "SHT_NOTE":
                record += size if section.name == f".note.{OWNER}" else 0
            elif section["sh_type"] == "SHT_PROGBITS" and flags & SH_FLAGS.SHF_ALLOC:
                constants += 0 if section.name.startswith(".eh_frame") else size
    return LibraryParts(path.stat().st_size, code, constants, record)
