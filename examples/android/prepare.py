"""Compile a model for Android: one library and header for each ABI.

``python prepare.py model.onnx build/model`` writes ``build/model/arm64-v8a/libmodel.so`` and ``model.h``, and the same
for ``x86_64`` (the emulator on a PC). They need Android 10 (API 29) or later.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import sbnn_tvm

ABIS = {"arm64-v8a": "aarch64-linux-android", "x86_64": "x86_64-linux-android"}
"""Android's names of its ABIs, and the targets."""


def prepare(model: str | Path, folder: Path, abis: Iterable[str] = ABIS) -> list[Path]:
    """Write the libraries and their headers to a folder for each ABI."""
    written = []
    for abi in abis:
        (folder / abi).mkdir(parents=True, exist_ok=True)
        module = sbnn_tvm.compile(model, target=ABIS[abi], name="model")
        written.append(module.export(folder / abi / "libmodel.so", "c"))
    return written


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="an ONNX file with one input and one output")
    parser.add_argument("folder", type=Path, help="where the folders are written")
    arguments = parser.parse_args()
    prepare(arguments.model, arguments.folder)


if __name__ == "__main__":
    main()
