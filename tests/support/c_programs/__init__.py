"""Programs in C around exported models, compiled by the system's compiler, or else by ziglang's."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import pytest

from sbnn_tvm.deploy.linking import find_zig

HERE = Path(__file__).parent
WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror")


@cache
def compiler(language: str = "c") -> tuple[str, ...]:
    """The command of a compiler for programs that run here."""
    for name in ("gcc", "clang") if language == "c" else ("g++", "clang++"):
        if shutil.which(name):
            return (name,)
    return (str(find_zig()), "cc" if language == "c" else "c++")


@cache
def sanitizer(kind: str) -> tuple[str, ...]:
    """The flags of a sanitizer, for example ``"address,undefined"``; the test is skipped where there is none."""
    flags = (f"-fsanitize={kind}", "-fno-sanitize-recover=all", "-g")
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "main.c")
        source.write_text("int main(void) { return 0; }\n")
        command = [*compiler(), *flags, str(source), "-o", str(Path(folder, "main"))]
        if subprocess.run(command, capture_output=True, check=False).returncode != 0:
            pytest.skip(f"the compiler here has no -fsanitize={kind}")
    return flags


def build(output: Path, files: Sequence[Path | str], *options: str, language: str = "c") -> Path:
    """Compile and link a program."""
    standard = "-std=c11" if language == "c" else "-std=c++17"
    command = [*compiler(language), standard, "-O1", *options, "-o", str(output), *map(str, files), "-lm", "-pthread"]
    caches = {key: str(output.parent / "zig") for key in ("ZIG_LOCAL_CACHE_DIR", "ZIG_GLOBAL_CACHE_DIR")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **caches})
    assert done.returncode == 0, done.stderr
    return output


def run(program: Path, *arguments: str | Path, seconds: float = 120, **environment: str) -> str:
    """Run a program that must succeed; what it prints."""
    done = subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="backslashreplace",
        check=False,
        timeout=seconds,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout


def models_source(names: Sequence[str]) -> str:
    """C source that declares ``models``, a table of the functions of some models (models.h)."""
    includes = "".join(f'#include "{name}.h"\n' for name in names)
    functions = ("context_bytes", "init", "run", "close", "inputs", "outputs", "last_error", "version")
    rows = "".join(
        f'    {{"{name}", {name.upper()}_CONTEXT_BYTES, {", ".join(f"{name}_{each}" for each in functions)}}},\n'
        for name in names
    )
    return f'{includes}#include "models.h"\nconst struct model models[] = {{\n{rows}    {{0}}}};\n'
