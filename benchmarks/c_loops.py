"""Compile the C loops that some kernels are compared with."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path


def compiled_c(source: Path, *options: str) -> ctypes.CDLL:
    """A C file as a loaded shared library.

    The compiler is clang from the package ziglang. TVM generates code with LLVM too, so both sides are comparable.

    Args:
        source: The C file.
        options: Passed to clang, in addition to ``-O3``.
    """
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "loop.so"
        command = [sys.executable, "-m", "ziglang", "cc", "-O3", *options, "-shared", "-fPIC"]
        subprocess.run([*command, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))
