"""Compile and link C for any target, with the compiler in the Python package ``ziglang``.

It has the headers and the libraries of every target, so neither a cross compiler nor a system root is needed.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import LibraryError
from ..linking import find_zig

_STAND_INS: dict[tuple[str, str], bytes] = {}
"""The libraries of Toolchain.stand_in by target and name: they never change, and every model needs one."""


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
        hidden = ("-std=c11", "-Os", "-g0", "-fPIC", "-fvisibility=hidden", "-ffunction-sections", "-fno-sanitize=all",
                  "-fno-unwind-tables", "-fno-asynchronous-unwind-tables", "-fno-stack-protector")  # fmt: skip
        self._zig("cc", "-target", self.target, *hidden, *self.flags, "-c", source.name, "-o", str(output),
                  folder=source.parent)  # fmt: skip

    def link_dylib(self, output: Path, objects: Sequence[Path]) -> None:
        """Link object files to a shared library for macOS.

        Raises:
            LibraryError: If the linker is missing or fails.
        """
        name = f"-Wl,-install_name,@rpath/{output.name}"
        # libSystem has all that zig's own compiler library has, which takes a minute to build.
        system = ("-nostdlib", "-lSystem", "-Wl,-dead_strip")
        self._zig("cc", "-target", self.target, "-dynamiclib", *system, name, "-o", str(output), *map(str, objects))

    def stand_in(self, name: str) -> Path:
        """An empty shared library that is called ``name``: a library that is linked with it will ask for that name.

        Raises:
            LibraryError: If the compiler or linker is missing or fails.
        """
        library = self.folder / name
        if (self.target, name) not in _STAND_INS:
            source = self.folder / "empty.c"
            source.write_text("typedef int empty;\n")
            self.compile(source, source.with_suffix(".o"))
            self._zig("ld.lld", "-shared", "-soname", name, "-o", str(library), str(source.with_suffix(".o")))
            _STAND_INS[self.target, name] = library.read_bytes()
        library.write_bytes(_STAND_INS[self.target, name])
        return library

    def link_shared(self, output: Path, objects: Sequence[Path], options: Sequence[str] = ()) -> None:
        """Link object files to a shared library.

        Raises:
            LibraryError: If the linker is missing or fails.
        """
        small = ("-s", "--gc-sections", "--hash-style=gnu")
        self._zig("ld.lld", "-shared", *small, "-z", "noexecstack", *options, "-o", str(output),
                  *map(str, objects))  # fmt: skip

    def link_program(self, output: Path, objects: Sequence[Path], script: Sequence[str] = ()) -> frozenset[str]:
        """Link object files and static libraries to a static program without a C library.

        Args:
            output: The file to write.
            objects: The object files and libraries.
            script: Options that name a linker script.

        Returns:
            The symbols that none of the files define. A call of such a function would crash.

        Raises:
            LibraryError: If the linker is missing or fails.
        """
        options = (
            "-static",
            "-s",
            "--gc-sections",
            "-z",
            "noexecstack",
            "--warn-unresolved-symbols",
            "--error-limit=0",
        )
        said = self._zig("ld.lld", *options, *script, "-o", str(output), *map(str, objects))
        return frozenset(re.findall(r"undefined symbol: (\w+)", said))

    def build_program(self, output: Path, sources: Sequence[Path], options: Sequence[str] = ()) -> None:
        """Compile and link C sources, object files and static libraries to a static program with a C library.

        zig builds the C library of a target once, in a minute or two, and keeps it.

        Raises:
            LibraryError: If the compiler is missing or fails.
        """
        self._zig("cc", "-target", self.target, *self.flags, "-O2", "-static", "-s", *options, "-o",
                  str(output), *map(str, sources), "-lm", keep=True)  # fmt: skip

    def link_wasm(self, output: Path, objects: Sequence[Path], exports: Sequence[str], stack: int) -> None:
        """Link object files to a WebAssembly module that imports nothing.

        Args:
            output: The file to write.
            objects: The object files.
            exports: The symbols that others may use.
            stack: The size of the stack in bytes. It lies below all data, so that an overflow traps.

        Raises:
            LibraryError: If the linker is missing or fails, or a function is missing.
        """
        options = ["--no-entry", *(f"--export={each}" for each in exports), "-z", f"stack-size={stack}"]
        files = [*map(str, objects), "-o", str(output)]
        try:
            self._zig("wasm-ld", "--fatal-warnings", "--gc-sections", "--strip-all", "--stack-first", *options, *files)
        except LibraryError as error:
            if "undefined symbol" not in str(error):
                raise
            # Functions of mathematics are in a C library, which zig builds once, in half a minute, and keeps.
            passed = "-Wl," + ",".join(options)
            kind = ("-target", self.target, "-mexec-model=reactor", "-nostartfiles", "-s")
            self._zig("cc", *kind, passed, *files, "-lm", keep=True)

    def archive(self, output: Path, objects: Sequence[Path]) -> None:
        """Put object files into a static library.

        Raises:
            LibraryError: If the archiver is missing or fails.
        """
        self._zig("ar", "rcsD", str(output), *map(str, objects))

    def _zig(self, *arguments: str, folder: Path | None = None, keep: bool = False) -> str:
        """Run zig.

        Args:
            arguments: The command.
            folder: Where to run it.
            keep: Whether to use zig's own cache, for the libraries that it builds.

        Returns:
            Its warnings.
        """
        zig = find_zig()
        if zig is None:
            raise LibraryError("a C library is compiled by the Python package ziglang: pip install ziglang")
        folders = ("ZIG_LOCAL_CACHE_DIR",) if keep else ("ZIG_LOCAL_CACHE_DIR", "ZIG_GLOBAL_CACHE_DIR")
        caches = {name: str(self.folder / "cache") for name in folders}
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
        return done.stderr
