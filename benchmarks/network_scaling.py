"""What do several threads gain for whole networks, and for each of their kernels?

Run ``python benchmarks/network_scaling.py``. Networks of networks.py and int8_networks.py, or ONNX files, become C
libraries, and a program in C runs each on 1, 2, ... threads in turns (network_scaling.c). The first table has
milliseconds of a run: the minimum, and the median in brackets; then the speed relative to one thread, by both. If the
medians say something else, the machine did not have all cores all the time. ``--kernels`` adds the minimum of every
kernel within these runs, in microseconds.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import int8_networks
import numpy as np
import onnx
import torch
from command_line import console, parser
from int8_version import int8_version
from networks import NETWORKS, random_network, randomise_statistics
from records import Machine, write_json
from rich.table import Table

import sbnn_tvm
from sbnn_tvm.frontends.torch import to_onnx
from sbnn_tvm.module import CompiledModule


@dataclass(frozen=True)
class Result:
    """The measurements of a network.

    Attributes:
        name: Its name.
        threads: Numbers of threads.
        kernels: The symbols of its kernels, in the order of the calls.
        times: For each number of threads, minimum and median of each kernel and, last, of the run, in seconds.
    """

    name: str
    threads: tuple[int, ...]
    kernels: tuple[str, ...]
    times: list[list[tuple[float, float]]]


def measure(name: str, module: CompiledModule, threads: tuple[int, ...], seconds: float) -> Result:
    """Time a model on several numbers of threads."""
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(spec.shape).astype(spec.dtype) for spec in module.inputs]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "inputs").write_bytes(b"".join(array.tobytes() for array in inputs))
        program, kernels = _program(module, folder)
        command = [program, folder / "inputs", str(seconds), *map(str, threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Result(name, threads, kernels, json.loads(done.stdout))


def _program(module: CompiledModule, folder: Path) -> tuple[Path, tuple[str, ...]]:
    """The program with the model inside, and the kernels that it times."""
    parts = module.export(folder / "model", "c")
    name = next(parts.glob("*_constants.bin")).name.removesuffix("_constants.bin")
    source = parts / f"{name}.c"
    before, run = re.split(rf"(?=static int {name}_\w+_run\()", source.read_text("utf-8"), maxsplit=1)
    kernels: list[str] = []

    def timed(call: re.Match[str]) -> str:
        kernels.append(call[1])
        return f"    scaling_step({len(kernels) - 1});\n{call[0]}"

    run = re.sub(r"^    if \((\w+)\(", timed, run, flags=re.MULTILINE)
    run = run.replace("    return SBNN_OK;\n}", f"    scaling_step({len(kernels)});\n    return SBNN_OK;\n}}", 1)
    source.write_text(f"extern void scaling_step(int step);\n{before}{run}", "utf-8")
    found = next((each for each in ("gcc", "clang") if shutil.which(each)), None)
    compiler = [found] if found else [sys.executable, "-m", "ziglang", "cc"]
    defined = [f"-DMODEL={name}", f'-DHEADER="{name}.h"', f"-I{parts}", "-D_GNU_SOURCE"]
    objects = [each for each in sorted(parts.glob("*.o")) if each.stem != name]
    program, host = folder / "program", Path(__file__).with_suffix(".c")
    subprocess.run(
        [*compiler, "-O2", "-std=c11", *defined, host, source, *objects, "-o", program, "-lm", "-pthread"], check=True
    )
    return program, tuple(kernels)


def network_table(results: list[Result]) -> Table:
    """One row per network."""
    out = Table(title=f"C libraries on several threads, batch 1, milliseconds: {Machine()}")
    out.add_column("network")
    for number in results[0].threads:
        out.add_column(f"{number} threads", justify="right")
        out.add_column("speed", justify="right")
    for result in results:
        cells = []
        first = result.times[0][-1]
        for *_, (minimum, median) in result.times:
            cells += [
                f"{minimum * 1e3:.3f} ({median * 1e3:.3f})",
                f"{first[0] / minimum:.2f} ({first[1] / median:.2f})",
            ]
        out.add_row(result.name, *cells)
    return out


def kernel_table(result: Result) -> Table:
    """One row per kernel of a network."""
    out = Table(title=f"{result.name}: microseconds of each kernel, and the speed")
    out.add_column("kernel")
    for number in result.threads:
        out.add_column(f"{number} threads", justify="right")
    for index, kernel in enumerate(result.kernels):
        first = result.times[0][index][0]
        out.add_row(kernel, *(f"{each[index][0] * 1e6:.1f} ({first / each[index][0]:.2f})" for each in result.times))
    return out


def _int8(build: Callable[[], torch.nn.Module]) -> onnx.ModelProto:
    torch.manual_seed(0)
    module = build()
    randomise_statistics(module)
    return int8_version(to_onnx(module.eval(), (1, 3, 224, 224)))


def main() -> None:
    """Measure the networks."""
    options = parser(__doc__, seconds=6.0, timed="per network")
    options.add_argument("--only", default="", metavar="TEXT", help="measure only networks whose name contains TEXT")
    options.add_argument("--onnx", type=Path, nargs="+", default=(), help="these files instead")
    options.add_argument("--threads", type=int, nargs="+", default=(1, 2), help="numbers of threads (default: 1 2)")
    options.add_argument("--kernels", action="store_true", help="show every kernel as well")
    arguments = options.parse_args()
    models: dict[str, Callable[[], object]] = {path.stem: lambda path=path: path for path in arguments.onnx}  # type: ignore[misc]
    if not models:
        models = {each.name: lambda each=each: random_network(each) for each in NETWORKS}  # type: ignore[misc]
        for name, build in int8_networks.NETWORKS.items():
            models[f"{name}, int8"] = lambda build=build: _int8(build)  # type: ignore[misc]
    results = []
    for name, build in models.items():
        if arguments.only.lower() in name.lower():
            module = sbnn_tvm.compile(build(), arguments.target, name="network")
            results.append(measure(name, module, tuple(arguments.threads), arguments.seconds))
    out = console()
    out.print(network_table(results))
    for result in results if arguments.kernels else ():
        out.print(kernel_table(result))
    if arguments.output:
        write_json(arguments.output, {"machine": asdict(Machine()), "networks": [asdict(each) for each in results]})


if __name__ == "__main__":
    main()
