"""Symbols of object files: those of a model carry its name, and are hidden outside of the program or library.

TVM defines some functions in every object file under the same name, for example the conversion of float16. A linker
would take one of them for all, though that of another build may use instructions that the CPU lacks. So what a build
defines is given a name of its own. Only ELF files are changed; the files of other systems are returned as they are.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ...errors import LibraryError
from ..linking import C_LIBRARY, MATHEMATICS, undefined_symbols

# The runtime's threads, and its question for the CPU; what a compiler's own library has, such as divisions of 32-bit
# ARM and memory of threads.
_KNOWN = re.compile(r"pthread_\w+|sigfillset|getpid|syscall|getauxval|_GLOBAL_OFFSET_TABLE_|__(?!tvm|TVM)\w+")

_SHT_SYMTAB = 2
_STB_LOCAL = 0
_STV_HIDDEN = 2
_SHN_UNDEF = 0


@dataclass(frozen=True)
class _Layout:
    """Structures of 32-bit or 64-bit ELF files: formats, and the positions of fields."""

    sections: tuple[str, int]  # offset of the section headers, in the file header
    section: str  # name, type, flags, address, offset, size, link, info, alignment, entry size
    symbol: str
    fields: tuple[int, int, int, int]  # name, info, other, section of a symbol


_LAYOUTS = {
    1: _Layout(("I", 32), "10I", "IIIBBH", (0, 3, 4, 5)),
    2: _Layout(("Q", 40), "IIQQQQIIQQ", "IBBHQQ", (0, 1, 2, 3)),
}


def own_symbols(data: bytes, name: str, prefix: str) -> bytes:
    """Give what an ELF object file defines names that begin with a model's, and hide it from other libraries.

    Args:
        data: The object file, little endian.
        name: The name of the model; symbols that begin with it keep their names.
        prefix: What the names of the other defined symbols begin with afterwards.
    """
    if data[:4] != b"\x7fELF":
        return data
    layout = _LAYOUTS[data[4]]
    result = bytearray(data)
    sections_at = struct.unpack_from("<" + layout.sections[0], data, layout.sections[1])[0]
    size, count = struct.unpack_from("<HH", data, 46 if data[4] == 1 else 58)
    headers = [list(struct.unpack_from("<" + layout.section, data, sections_at + i * size)) for i in range(count)]
    for header in headers:
        if header[1] != _SHT_SYMTAB:
            continue
        table = headers[header[6]]  # the names
        names = bytearray(data[table[4] : table[4] + table[5]])
        for at in range(header[4], header[4] + header[5], struct.calcsize("<" + layout.symbol)):
            symbol = list(struct.unpack_from("<" + layout.symbol, data, at))
            text, info, other, section = layout.fields
            if symbol[section] == _SHN_UNDEF or symbol[info] >> 4 == _STB_LOCAL:
                continue
            symbol[other] |= _STV_HIDDEN
            old = bytes(names[symbol[text] : names.index(0, symbol[text])]).decode()
            if not old.startswith((name, "sbnn")):  # sbnn: hooks, which have the model's name as a digest
                symbol[text] = len(names)
                names += f"{prefix}{old}".encode() + b"\0"
            struct.pack_into("<" + layout.symbol, result, at, *symbol)
        table[4], table[5] = len(result), len(names)
        result += names
        struct.pack_into("<" + layout.section, result, sections_at + header[6] * size, *table)
    return bytes(result)


def check_imports(objects: Sequence[Path], target: object) -> None:
    """Check that the object files of a model need nothing but each other and functions that every C library has.

    Args:
        objects: The files; only ELF files are read.
        target: What they were compiled for, for messages.

    Raises:
        LibraryError: If not.
    """
    imported, defined = set[str](), set[str]()
    for path in objects:
        with path.open("rb") as file:
            if file.read(4) != b"\x7fELF":
                return
            table = ELFFile(file).get_section_by_name(".symtab")
            assert isinstance(table, SymbolTableSection)
            defined |= {symbol.name for symbol in table.iter_symbols() if symbol["st_shndx"] != "SHN_UNDEF"}
        imported |= undefined_symbols(path)
    foreign = [name for name in sorted(imported - defined - C_LIBRARY - MATHEMATICS) if not _KNOWN.fullmatch(name)]
    if foreign:
        raise LibraryError(
            f"the C library for {target} would need {', '.join(foreign)}, which no C library has; "
            f'export the model with runtime="tvm"'
        )
