"""How much slower is a model in WebAssembly than on this CPU?

    python benchmarks/wasm.py --most 9 MODEL.onnx...

Each model runs on one thread in Node.js, through its ES module, and as a C program for this CPU. They take turns; the
fastest run of all rounds counts. The first time, building the C program takes a minute: zig builds a C library.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from command_line import console
from rich.table import Table

import sbnn_tvm
from sbnn_tvm.deploy.c_library.toolchain import Toolchain
from sbnn_tvm.errors import SbnnError

ROUNDS = 4
HERE = Path(__file__).parent


def measure(model: str, folder: Path) -> tuple[float, float, int]:
    """The fastest run in WebAssembly and on this CPU, in microseconds, and the size of the .wasm file."""
    wasm = sbnn_tvm.compile(model, target="wasm").export(folder / "model.wasm")
    native = sbnn_tvm.compile(model)
    native.export(folder / "model.a")
    (name,) = (each.stem for each in folder.glob("*.h"))
    source = folder / "main.c"
    source.write_text((HERE / "time_runs.c.in").read_text().replace("@NAME@", name))
    toolchain = Toolchain(f"{native.target.machine}-linux-musl", folder)
    toolchain.build_program(folder / "main", [source, folder / "model.a"])
    commands = (["node", str(HERE / "time_runs.mjs"), str(wasm.with_suffix(".mjs"))], [str(folder / "main")])
    times = [[float(subprocess.check_output(each, text=True)) for each in commands] for _ in range(ROUNDS)]
    fastest = [min(column) for column in zip(*times, strict=True)]
    return fastest[0], fastest[1], wasm.stat().st_size


def main() -> int:
    """Measure the models that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=float, default=float("inf"), help="the exit code is 1 if a ratio is above this")
    parser.add_argument("models", nargs="+", metavar="MODEL.onnx")
    arguments = parser.parse_args()
    ratios = []
    table = Table("model", "WebAssembly, us", "this CPU, us", "ratio", ".wasm, bytes")
    for model in arguments.models:
        with tempfile.TemporaryDirectory() as folder:
            wasm, native, size = measure(model, Path(folder))
        ratios.append(wasm / native)
        table.add_row(Path(model).stem, f"{wasm:.1f}", f"{native:.1f}", f"{wasm / native:.1f}", f"{size:,}")
    console().print(table)
    return int(max(ratios) > arguments.most)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except SbnnError as error:
        sys.exit(str(error))
