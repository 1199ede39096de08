"""Link object files to one shared library, for this machine or another one, with any linker of this machine.

Libraries are linked without a C library: the process that loads them has the functions that they import. So a bare
linker is enough, without cross compiler or system root. The linker in the Python package ``ziglang`` works for every
target.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO

import tvm
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from ..atomic_file import replacing
from ..errors import LibraryError
from ..runtime.cpu import this_cpu
from ..runtime.elf import ElfError, check_complete, read_header
from ..runtime.library_file import record_object, seal
from ..runtime.memory_file import memory_file, path_of
from ..runtime.metadata import Metadata
from .targets import CpuTarget
from .used_features import used_features

C_LIBRARY = {"memcpy", "memmove", "memset", "memcmp"}
"""The functions of the C library for memory."""
MATHEMATICS = {
    name + suffix
    for name in (
        *("acos", "acosh", "asin", "asinh", "atan", "atan2", "atanh", "cbrt", "ceil", "copysign", "cos", "cosh", "erf"),
        *("exp", "exp10", "exp2", "expm1", "fabs", "floor", "fma", "fmax", "fmin", "fmod", "hypot", "ldexp", "log"),
        *("log10", "log1p", "log2", "nearbyint", "nextafter", "pow", "rint", "round", "roundeven", "sin", "sincos"),
        *("sinh", "sqrt", "tan", "tanh", "trunc"),
    )
    for suffix in ("", "f")
}
"""The functions of the C library for mathematics."""
_ENOUGH = 1 << 30  # bytes of an object file
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

    def link(self, output: Path, objects: Sequence[Path | int]) -> None:
        """Link object files to the shared library ``output``.

        Args:
            output: The file to write.
            objects: The object files, as paths or as descriptors of open files.

        Raises:
            LibraryError: If the linker fails.
        """
        files = [each for each in objects if isinstance(each, int)]
        names = [path_of(each) if isinstance(each, int) else os.path.abspath(each) for each in objects]
        command = [*self.command, "-o", os.path.abspath(output), *names]  # a linker reads other meanings into - and @
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="backslashreplace", check=False, pass_fds=files
            )
        except OSError as error:
            raise LibraryError(f"the linker {self.name} cannot be started: {error.strerror}") from None
        if done.returncode != 0:
            raise LibraryError(f"the linker {self.name} failed in the folder {output.parent}: {_reason(done)}")


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
    zig = find_zig()
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
        metadata: The metadata for ``sbnn_tvm.runtime.loading``; None for kernels without a model. Of its features,
            only those that the machine code uses are written.

    Raises:
        LibraryError: If the destination cannot be written, the linker is missing or fails, or the machine code uses a
            CPU feature that the target lacks.
    """
    linker = find_linker(target)
    with replacing(path, LibraryError, 0o777) as draft, ExitStack() as files:
        objects = [files.enter_context(file) for file in _object_files(executable)]
        if metadata is not None:
            used = used_features(objects, target)
            metadata = replace(metadata, features=tuple(each for each in metadata.features if each in used))
            objects.append(files.enter_context(_file_in_memory()))
            objects[-1].write(record_object(target.machine, metadata))
            objects[-1].flush()
        linker.link(draft, [file.fileno() for file in objects])
        check_library(draft, target)
        if metadata is not None:
            seal(draft)


def _object_files(executable: Any) -> Iterator[BinaryIO]:
    """The machine code and the constants of what ``tvm.compile`` returned, as object files in memory.

    TVM's ``export_library`` makes the same files, but LLVM ends the process if it cannot write one, on a full disk for
    example.
    """
    module = getattr(executable, "mod", executable)
    parts = module._collect_dso_modules()
    if module.imports:
        target = parts[0].get_function("_get_target_string")()
        parts.append(tvm.get_global_func("runtime.ModulePackImportsToLLVM")(module, False, target, ""))
    for part in parts:
        yield _object_file(part)


def write_kernels(code: Any, path: Path, target: CpuTarget) -> None:
    """Link a module of machine code alone to a shared library, whose kernels can be called one by one.

    Raises:
        LibraryError: If the linker is missing or fails.
    """
    with _object_file(code) as file:
        find_linker(target).link(path, [file.fileno()])


def write_object(code: Any) -> bytes:
    """The object file of a module of machine code."""
    with _object_file(code) as file:
        return Path(path_of(file.fileno())).read_bytes()


def _object_file(code: Any) -> BinaryIO:
    """The object file of a module of machine code, in memory."""
    file = _file_in_memory()
    with _largest_files():
        code.write_to_file(path_of(file.fileno()), "o")
    return file


def _file_in_memory() -> BinaryIO:
    return os.fdopen(memory_file("object"), "w+b")


@contextmanager
def _largest_files() -> Iterator[None]:
    """Lift the limit on the size of files, which holds in memory too: LLVM would end the process at it."""
    limit, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    if most != resource.RLIM_INFINITY and most < _ENOUGH:
        raise LibraryError(f"files may have at most {most} bytes here (ulimit -f), but LLVM needs {_ENOUGH}: raise it")
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))


def check_library(path: Path, target: CpuTarget) -> None:
    """Check that a library is for ``target`` and imports only C's memory and math functions and TVM's runtime.

    Raises:
        LibraryError: If not.
    """
    try:
        header = read_header(path)
        with path.open("rb") as file:
            check_complete(file)
    except ElfError as error:
        raise LibraryError(f"the linker made a damaged library: {error}") from None
    if header.machine != target.machine:
        raise LibraryError(f"the linker made a library for {header.machine} instead of {target.machine}")
    foreign = sorted(undefined_symbols(path) - C_LIBRARY - MATHEMATICS)
    foreign = [symbol for symbol in foreign if not _RUNTIME.fullmatch(symbol)]
    if foreign:
        raise LibraryError(
            f"the library for {target} would need {', '.join(foreign)}, which TVM's runtime does not have"
        )


def undefined_symbols(path: Path) -> set[str]:
    """The symbols that a library, or an object file, imports, except weak ones, which may stay undefined."""
    with path.open("rb") as file:
        elf = ELFFile(file)
        table = elf.get_section_by_name(".dynsym" if elf["e_type"] == "ET_DYN" else ".symtab")
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


def find_zig() -> Path | None:
    """The program of the Python package ``ziglang``; None if it is not installed."""
    spec = find_spec("ziglang")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).with_name("zig")


_SIGNALS = {-signal.SIGBUS: "the disk may be full", -signal.SIGXFSZ: "files may not become so large (ulimit -f)"}
"""Signals that end a linker which maps the file that it writes, as LLD does."""


def _reason(failed: subprocess.CompletedProcess[str]) -> str:
    """Why a linker failed: what it said last. The compiler's driver then adds that its linker failed."""
    code = failed.returncode
    ended = f"it was ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    if code in _SIGNALS:
        return f"{ended}: {_SIGNALS[code]}"
    said = (failed.stderr.strip() or failed.stdout.strip()).splitlines()
    said = [line for line in said if not line.startswith(("collect2: error: ld returned", "compilation terminated"))]
    return said[-1] if said else ended
