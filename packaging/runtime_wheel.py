"""Build the wheel ``sbnn-tvm-runtime``: the part of the package that a device needs, from the same sources.

Run ``python packaging/runtime_wheel.py [FOLDER]`` (or ``make runtime-wheel``). It writes the wheel to that folder, by
default ``dist``. The wheel is pure Python: one for every architecture and C library.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

MODULES = ("__init__", "errors", "extras", "litter", "printable", "temporary_folder")
"""The modules of ``sbnn_tvm`` that ``sbnn_tvm.runtime`` imports."""


def stage(folder: Path) -> None:
    """Put the sources of the distribution into an empty folder, laid out as setuptools expects them."""
    package = folder / "sbnn_tvm"
    shutil.copytree(ROOT / "sbnn_tvm" / "runtime", package / "runtime", ignore=shutil.ignore_patterns("__pycache__"))
    for name in (*(f"{module}.py" for module in MODULES), "py.typed"):
        shutil.copy(ROOT / "sbnn_tvm" / name, package)
    shutil.copy(ROOT / "LICENSE", folder)
    shutil.copy(Path(__file__).with_name("runtime.toml"), folder / "pyproject.toml")


def build(destination: Path) -> Path:
    """Write the wheel to a folder, with the setuptools that is installed; returns its path."""
    with tempfile.TemporaryDirectory() as folder:
        sources, wheels = Path(folder) / "sources", Path(folder) / "wheels"
        sources.mkdir()
        stage(sources)
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--no-build-isolation", "--wheel-dir", str(wheels), str(sources)], check=True)
        (wheel,) = wheels.iterdir()
        destination.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, destination))


if __name__ == "__main__":
    wheel = build(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist")
    print(f"{wheel}: {wheel.stat().st_size} bytes")
