"""Link object files to one shared library, for this machine or another one, with any linker of this machine.

Libraries are linked without a C library: the process that loads them has the functions that they import. So a bare
linker is enough, without cross compiler or system root. The linker in the Python package ``ziglang`` works for every
target.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ..atomic_file import replacing
from ..errors import LibraryError
from ..runtime.cpu import this_cpu
from ..runtime.elf import note_object, read_header
from ..runtime.metadata import OWNER, Metadata
from .targets import CpuTarget

_LIBC = {"memcpy", "memmove", "memset", "memcmp"}
_LIBM = {
    name + suffix
    for name in (
        *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos", "cosh", "erf"),
        *("exp", "exp10", "exp2", "expm1", "fabs", "floor", "fma", "fmax", "fmin", "fmod", "hypot", "ldexp", "log"),
        *("log10", "log1p", "log2", "nearbyint", "nextafter", "pow", "rint", "round", "roundeven", "sin", "sincos"),
        *("sinh", "sqrt", "tan", "tanh", "trunc"),
    )
    for suffix in ("", "f")
}
_RUNTIME = re.compile(r"TVMFFI\w+|TVMBackend\w+|__aeabi_\w+")  # __aeabi: arithmetic of 32-bit ARM, in libgcc_s


@dataclass(frozen=True)
class Linker:
    """A program that links shared libraries.

    Attributes:
        name: Name in messages.
        command: The program and its options, without the output and the objects.
    """

    name: str
    command: tuple[str, ...]

    def link(self, output: Path, objects: list[Path]) -> None:
        """Link ``objects`` to the shared library ``output``.

        Raises:
            LibraryError: If the linker fails.
        """
        command = [*self.command, "-o", str(output), *map(str, objects)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise LibraryError(f"the linker {self.name} cannot be started: {error.strerror}") from None
        if done.returncode != 0:
            reason = (done.stderr.strip() or done.stdout.strip() or f"exit code {done.returncode}").splitlines()[-1]
            raise LibraryError(f"the linker {self.name} failed: {reason}")


def find_linker(target: CpuTarget) -> Linker:
    """The first linker for ``target`` that exists: the system's C compiler, its bare linker, or that of ziglang.

    Raises:
        LibraryError: If there is none.
    """
    for name in _candidates(target):
        program = shutil.which(name)
        if program is None:
            continue
        if name.endswith("ld"):
            return Linker(name, (program, "-shared", "-s", "-z", "noexecstack"))
        return Linker(name, (program, "-shared", "-s", "-fPIC", "-nostartfiles", "-nodefaultlibs"))
    zig = _zig()
    if zig is not None:
        return Linker("ziglang", (str(zig), "ld.lld", "-shared", "-s", "-z", "noexecstack"))
    raise LibraryError(
        f"there is no linker for {target.triple}: pip install ziglang, or install {_PREFIX[target.machine]}gcc"
    )


def write_library(
    executable: Any, path: str | os.PathLike[str], target: CpuTarget, metadata: Metadata | None = None
) -> None:
    """Write a compiled model as one shared library with its metadata inside; the file appears complete or not at all.

    Args:
        executable: What ``tvm.compile`` returned.
        path: The file to write; an existing file is replaced.
        target: The target that it was compiled for.
        metadata: The metadata for ``sbnn_tvm.runtime.loading``; None for kernels without a model.

    Raises:
        LibraryError: If the destination cannot be written, or the linker is missing or fails.
    """
    linker = find_linker(target)
    with replacing(path, LibraryError, 0o777) as draft, tempfile.TemporaryDirectory(prefix="sbnn_tvm-") as folder:
        notes = []
        if metadata is not None:
            notes.append(f"{folder}/metadata.o")
            Path(notes[0]).write_bytes(note_object(target.machine, OWNER, metadata.to_json().encode()))
        executable.export_library(str(draft), fcompile=_fcompile(linker), addons=notes, workspace_dir=folder)
        check_library(draft, target)


def check_library(path: Path, target: CpuTarget) -> None:
    """Check that a library is for ``target`` and imports only C's memory and math functions and TVM's runtime.

    Raises:
        LibraryError: If not.
    """
    header = read_header(path)
    if header.machine != target.machine:
        raise LibraryError(f"the linker made a library for {header.machine} instead of {target.machine}")
    foreign = sorted(undefined_symbols(path) - _LIBC - _LIBM)
    foreign = [symbol for symbol in foreign if not _RUNTIME.fullmatch(symbol)]
    if foreign:
        raise LibraryError(
            f"the library for {target} would need {', '.join(foreign)}, which TVM's runtime does not have"
        )


def undefined_symbols(path: Path) -> set[str]:
    """The symbols that a library imports when it is loaded, except weak ones, which may stay undefined."""
    with path.open("rb") as file:
        table = ELFFile(file).get_section_by_name(".dynsym")
        symbols = list(table.iter_symbols()) if isinstance(table, SymbolTableSection) else []
    return {
        symbol.name
        for symbol in symbols
        if symbol.name and symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
    }


_PREFIX = {"x86_64": "x86_64-linux-gnu-", "aarch64": "aarch64-linux-gnu-", "arm": "arm-linux-gnueabihf-"}


def _candidates(target: CpuTarget) -> list[str]:
    prefix = _PREFIX[target.machine]
    own = ["cc", "gcc", "clang", "ld"] if target.machine == this_cpu().machine else []
    return [*own, prefix + "gcc", prefix + "ld"]


def _zig() -> Path | None:
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("zig")


def _fcompile(linker: Linker) -> Callable[..., None]:
    def link(output: str, objects: list[str], options: list[str] | None = None) -> None:
        linker.link(Path(output), [Path(name) for name in objects])

    link.object_format = "o"  # type: ignore[attr-defined]  # TVM reads the formats of input and output here
    link.output_format = "so"  # type: ignore[attr-defined]
    return link
