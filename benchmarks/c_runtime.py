"""Is a model as a C library as fast as on TVM's runtime, and as small as it should be?

    python benchmarks/c_runtime.py [--digits MODEL.onnx]

A program in C and TVM's virtual machine run the same model in turns, on one thread and on two. Each call is timed
alone; the table gives the minimum, and the median in brackets. TVM's threads wait awake for a while after a burst, so
there is a pause after it. "first" is the time of init and the first run, "peak" the peak memory of the whole program,
"arena" the memory of intermediate values, and how much more it is than those that live at the same time.

Needs a C compiler (gcc, clang or the package ziglang). The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from command_line import console, parser
from networks import NETWORKS, random_network
from records import Machine, write_json
from rich.table import Table
from tvm import relax

import sbnn_tvm
from sbnn_tvm.deploy.c_library.memory_plan import plan_memory
from sbnn_tvm.deploy.c_library.write_library import CompiledProgram
from sbnn_tvm.frontends.torch import to_onnx
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.profiling.timing import Timing, burst, interleave_bursts
from sbnn_tvm.runtime.threads import use_threads

RATIO = {1: 1.02, 2: 1.0}
"""The bar: time of the C library relative to TVM's runtime, by number of threads."""

ARENA = 1.05
"""The bar: bytes of the arena relative to the largest set of values that are alive at the same time."""

SIZES = {"cortex-a53": 140_000, "armv7": 80_000}
"""The bars: bytes of the shared library of digits for other targets."""

_NETWORK = "Bi-Real ResNet-18, 32x32"
_PAUSE = 0.25  # seconds until TVM's threads sleep


@dataclass(frozen=True)
class Bars:
    """Largest values that a network may have; None: not judged.

    Attributes:
        ratio: Whether the time relative to TVM's runtime is judged (RATIO).
        run: Seconds of a run on one thread.
        first: Seconds of init and the first run.
        peak: Bytes of peak memory of the program.
        size: Bytes of the shared library.
    """

    ratio: bool = False
    run: float | None = None
    first: float | None = None
    peak: int | None = None
    size: int | None = None


@dataclass(frozen=True)
class Result:
    """The measurements of a network on some threads. Times are in seconds, sizes in bytes.

    Attributes:
        name: Name of the network.
        threads: Number of threads.
        c: A run of the C library.
        tvm: A run on TVM's runtime.
        first: Init and the first run, the fastest of some programs.
        peak: Peak memory of the program.
        size: Size of the shared library.
        tvm_size: Size of the shared library for TVM's runtime.
        context: Size of a context.
        arena: Size of the arena.
        live: Largest set of values that are alive at the same time.
        bars: The bars.
    """

    name: str
    threads: int
    c: Timing
    tvm: Timing
    first: float
    peak: int
    size: int
    tvm_size: int
    context: int
    arena: int
    live: int
    bars: Bars

    @property
    def ratio(self) -> float:
        """Time relative to TVM's runtime."""
        return self.c.minimum / self.tvm.minimum

    @property
    def missed(self) -> list[str]:
        """The bars that are missed."""
        measured = {
            "ratio": (self.ratio, RATIO[self.threads] if self.bars.ratio else None),
            "run": (self.c.minimum, self.bars.run),
            "first": (self.first, self.bars.first),
            "peak": (self.peak, self.bars.peak),
            "size": (self.size, self.bars.size),
            "arena": (self.arena / self.live, ARENA),
        }
        return [name for name, (value, bar) in measured.items() if bar is not None and value > bar]


def measure(name: str, module: CompiledModule, threads: int, bars: Bars, seconds: float) -> Result:
    """Compare a model in both runtimes."""
    program = module._program
    assert isinstance(program, CompiledProgram), program
    plan = plan_memory(program.program)
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal(spec.shape).astype(spec.dtype) for spec in module.inputs]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        library = module.export(folder / "c.so", "c").stat().st_size
        on_tvm = module.export(folder / "tvm.so", "tvm")
        (folder / "inputs").write_bytes(b"".join(array.tobytes() for array in inputs))
        command = [str(_host(module, folder)), str(folder / "inputs"), str(threads)]
        first, peak, context = _starts(command)
        host = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        _line(host)

        def c_burst() -> list[float]:
            assert host.stdin is not None
            host.stdin.write("\n")
            host.stdin.flush()
            return _line(host)

        virtual_machine = _virtual_machine(module, on_tvm, inputs, threads)

        def tvm_burst() -> list[float]:
            times = burst(virtual_machine)
            if threads > 1:
                time.sleep(_PAUSE)
            return times

        rounds = interleave_bursts({"c": c_burst, "tvm": tvm_burst}, seconds)
        host.communicate()
        timings = {key: Timing.of([call for turn in turns for call in turn]) for key, turns in rounds.items()}
        return Result(
            name, threads, timings["c"], timings["tvm"], first, peak, library, on_tvm.stat().st_size, context,
            plan.size, plan.largest_live_set, bars,
        )  # fmt: skip


def _host(module: CompiledModule, folder: Path) -> Path:
    """The program in C, with the model inside."""
    parts = module.export(folder / "model", "c")
    name = next(parts.glob("*_constants.bin")).name.removesuffix("_constants.bin")
    found = next((each for each in ("gcc", "clang") if shutil.which(each)), None)
    compiler = [found] if found else [sys.executable, "-m", "ziglang", "cc"]
    defined = [f"-DMODEL={name}", f'-DHEADER="{name}.h"', f"-I{parts}"]
    source = Path(__file__).with_name("c_runtime.c")
    objects = map(str, sorted(parts.glob("*.o")))
    program = folder / "host"
    subprocess.run(
        [*compiler, "-O2", "-std=c11", *defined, str(source), *objects, "-o", str(program), "-lm", "-pthread"],
        check=True,
    )
    return program


def _starts(command: list[str], number: int = 20) -> tuple[float, int, int]:
    """Least seconds of init and first run, and the peak memory and the context's size in bytes."""
    lines = []
    for _ in range(number):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        lines.append(json.loads(done.stdout.splitlines()[0]))
    first = min(line["init"] + line["first"] for line in lines)
    return first, min(line["peak_kib"] for line in lines) * 1024, lines[0]["context"]


def _line(host: subprocess.Popen[str]) -> Any:
    assert host.stdout is not None
    return json.loads(host.stdout.readline())


def _virtual_machine(
    module: CompiledModule, library: Path, inputs: list[np.ndarray], threads: int
) -> Callable[[], object]:
    """A call of the model on TVM's virtual machine, which costs a microsecond more than from C++."""
    use_threads(threads)
    machine = relax.VirtualMachine(tvm.runtime.load_module(str(library)), tvm.cpu())
    constants = list(machine["prepare"]()) if module.lowered.prepares else []
    arguments = [*map(tvm.runtime.tensor, inputs), *constants]
    main = machine["main"]
    return lambda: main(*arguments)


def sizes(digits: Path) -> dict[str, int]:
    """Bytes of the shared library of digits for each target of SIZES."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            target: sbnn_tvm.compile(digits, target, name="digits").export(Path(folder, target + ".so")).stat().st_size
            for target in SIZES
        }


def table(results: list[Result]) -> Table:
    """The results, one network and number of threads a row."""
    made = Table(title=f"C library and TVM's runtime, {Machine()}")
    columns = ("network", "threads", "C us", "TVM us", "ratio", "first us", "peak KB", ".so KB", "TVM's", "context KB",
               "arena / live", "missed")  # fmt: skip
    for column in columns:
        made.add_column(column, justify="left" if column in ("network", "missed") else "right")
    for each in results:
        made.add_row(
            each.name,
            str(each.threads),
            _times(each.c),
            _times(each.tvm),
            f"{each.ratio:.3f}",
            f"{each.first * 1e6:.0f}",
            f"{each.peak / 1e3:.0f}",
            f"{each.size / 1e3:.1f}",
            f"{each.tvm_size / 1e3:.1f}",
            f"{each.context / 1e3:.1f}",
            f"{each.arena / each.live:.3f}",
            ", ".join(each.missed),
        )
    return made


def _times(timing: Timing) -> str:
    return f"{timing.minimum * 1e6:.1f} ({timing.median * 1e6:.1f})"


def main() -> int:
    """Print the table."""
    options = parser(__doc__, seconds=20.0, timed="per network and number of threads")
    options.add_argument("--digits", type=Path, help="the network of examples/demo.py, as ONNX")
    options.add_argument("--network", type=Path, help=f"another ONNX file instead of {_NETWORK}")
    args = options.parse_args()
    results = []
    other = sizes(args.digits) if args.digits else {}
    if args.digits:
        module = sbnn_tvm.compile(args.digits, args.target, name="digits")
        bars = Bars(run=10e-6, first=1e-3, peak=2_000_000, size=95_000)
        results.append(measure("digits", module, 1, bars, args.seconds))
    name = args.network.stem if args.network else _NETWORK
    network = args.network or to_onnx(random_network(next(each for each in NETWORKS if each.name == _NETWORK)))
    module = sbnn_tvm.compile(network, args.target, name="network")
    for threads in RATIO:
        results.append(measure(name, module, threads, Bars(ratio=True), args.seconds))
    console().print(table(results))
    for target, size in other.items():
        print(f"digits for {target}: {size / 1e3:.1f} KB, at most {SIZES[target] / 1e3:.0f}")
    if args.output:
        write_json(args.output, {"machine": asdict(Machine()), "networks": [asdict(each) for each in results]})
    return int(any(each.missed for each in results) or any(size > SIZES[target] for target, size in other.items()))


if __name__ == "__main__":
    sys.exit(main())
