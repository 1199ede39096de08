"""Compile and link C for any target, with the compiler in the Python package ``ziglang``.

It has the headers and the libraries of every target, so neither a cross compiler nor a system root is needed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import LibraryError
from ..linking import find_zig

_THREADS = ("-Wl,-u,pthread_create",)
"""The library takes threads if the program has them, and a static program has what it asks for."""


@dataclass(frozen=True)
class Toolchain:
    """A C compiler and a linker for one target.

    Attributes:
        target: zig's name of the target, for example ``"aarch64-linux-gnu"``.
        folder: Where the compiler keeps its temporary files.
        flags: Options for the compiler.
    """

    target: str
    folder: Path
    flags: tuple[str, ...] = ()

    def compile(self, source: Path, output: Path) -> None:
        """Compile a source in C or assembler to an object file, in the folder of the source.

        The same source gives the same file: it holds no path and no debug information.

        Raises:
            LibraryError: If the compiler is missing or fails.
        """
        hidden = ("-std=c11", "-Os", "-g0", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fno-sanitize=all")
        self._zig("cc", "-target", self.target, *hidden, *self.flags, "-c", source.name, "-o", str(output),
                  folder=source.parent)  # fmt: skip

    def link_dylib(self, output: Path, objects: Sequence[Path]) -> None:
        """Link object files to a shared library for macOS.

        Raises:
            LibraryError: If the linker is missing or fails.
        """
        name = f"-Wl,-install_name,@rpath/{output.name}"
        self._zig("cc", "-target", self.target, "-dynamiclib", name, "-Wl,-dead_strip", "-o", str(output),
                  *map(str, objects))  # fmt: skip

    def stand_in(self, name: str) -> Path:
        """An empty shared library that is called ``name``: a library that is linked with it will ask for that name.

        Raises:
            LibraryError: If the compiler or linker is missing or fails.
        """
        source, library = self.folder / "empty.c", self.folder / name
        source.write_text("typedef int empty;\n")
        self.compile(source, source.with_suffix(".o"))
        self._zig("ld.lld", "-shared", "-soname", name, "-o", str(library), str(source.with_suffix(".o")))
        return library

    def link_shared(self, output: Path, objects: Sequence[Path], options: Sequence[str] = ()) -> None:
        """Link object files to a shared library.

        Raises:
            LibraryError: If the linker is missing or fails.
        """
        self._zig("ld.lld", "-shared", "-s", "--gc-sections", "-z", "noexecstack", *options, "-o", str(output),
                  *map(str, objects))  # fmt: skip

    def link_static_program(self, output: Path, inputs: Sequence[Path], options: Sequence[str] = ()) -> None:
        """Compile and link C sources and static libraries to a program that needs no shared library.

        The compiler builds musl for each architecture once, in about a minute, and keeps it in its own cache.

        Raises:
            LibraryError: If the compiler is missing or fails.
        """
        static = ("-static", "-s", "-std=c11", "-D_GNU_SOURCE", "-O2", *_THREADS)
        self._zig("cc", "-target", self.target, *static, *options, *map(str, inputs), "-o", str(output), kept=True)

    def archive(self, output: Path, objects: Sequence[Path]) -> None:
        """Put object files into a static library.

        Raises:
            LibraryError: If the archiver is missing or fails.
        """
        self._zig("ar", "rcsD", str(output), *map(str, objects))

    def _zig(self, *arguments: str, folder: Path | None = None, kept: bool = False) -> None:
        zig = find_zig()
        if zig is None:
            raise LibraryError("a C library is compiled by the Python package ziglang: pip install ziglang")
        names = ("ZIG_LOCAL_CACHE_DIR", *(() if kept else ("ZIG_GLOBAL_CACHE_DIR",)))
        caches = {name: str(self.folder / "cache") for name in names}
        done = subprocess.run(
            [str(zig), *arguments],
            capture_output=True,
            text=True,
            errors="backslashreplace",
            check=False,
            cwd=folder,
            env={**os.environ, **caches},
        )
        if done.returncode != 0:
            said = (done.stderr.strip() or done.stdout.strip()).splitlines()
            reason = next(
                (line for line in said if "error" in line), said[-1] if said else f"exit code {done.returncode}"
            )
            raise LibraryError(f"ziglang's {arguments[0]} failed: {reason}")
