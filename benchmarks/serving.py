"""Do many request threads get as much out of the CPUs as two busy threads?

Run ``python benchmarks/serving.py model.so``, by default with a small binary network. Threads call ``run`` of one
loaded model again and again, in turns: two threads, then eight. The model is loaded once with ``num_threads=1``, once
with 2.

The output is the number of runs per second, and per second of CPU time, which other programs on the machine disturb
less. The exit code is 1 if the ratio of eight threads to two misses its bar in CPU time.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import numpy as np
from command_line import console, parser
from records import Machine, write_json
from rich.table import Table

import sbnn_tvm
from sbnn_tvm.runtime.inputs import random_inputs

BAR = 0.95
"""The bar: the speed of eight threads relative to two."""

CALLERS = (2, 8)


@dataclass(frozen=True)
class Rate:
    """How often a model ran.

    Attributes:
        num_threads: Threads of the model.
        callers: Threads that call it.
        per_second: Runs per second.
        per_cpu_second: Runs per second of CPU time of the process.
    """

    num_threads: int
    callers: int
    per_second: float
    per_cpu_second: float


def measure(model: sbnn_tvm.LoadedModule, callers: int, seconds: float) -> Rate:
    """Run a model in threads that do nothing else."""
    inputs = random_inputs(model.inputs, np.random.default_rng(0))
    counts, stop = [0] * callers, threading.Event()

    def work(caller: int) -> None:
        while not stop.is_set():
            model.run(*inputs)
            counts[caller] += 1

    threads = [threading.Thread(target=work, args=(caller,)) for caller in range(callers)]
    cpu, start = time.process_time(), time.perf_counter()
    for thread in threads:
        thread.start()
    time.sleep(seconds)
    stop.set()
    for thread in threads:
        thread.join()
    cpu, elapsed = time.process_time() - cpu, time.perf_counter() - start
    return Rate(model.num_threads, callers, sum(counts) / elapsed, sum(counts) / cpu)


def example(folder: Path) -> Path:
    """The library of a small binary network."""
    from sbnn_tvm.frontends.torch import vgg_small

    return sbnn_tvm.compile(vgg_small(classes=10, image_size=32)).export(folder / "vgg_small.so")


def main() -> int:
    """Measure; the exit code is 1 if the bar is missed."""
    options = parser(__doc__)
    options.add_argument("library", nargs="?", type=Path, help="a library that export wrote")
    options.add_argument("--seconds", type=float, default=1.0, help="time per measurement (default: %(default)s)")
    options.add_argument("--rounds", type=int, default=9, help="measurements of each kind (default: %(default)s)")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = arguments.library or example(Path(folder))
        models = [sbnn_tvm.load(library, num_threads) for num_threads in (1, 2)]
    rates = [
        [[measure(model, callers, arguments.seconds) for callers in CALLERS] for model in models]
        for _ in range(arguments.rounds)
    ]
    table = Table(title=f"Runs of {models[0].metadata.name}, median of {arguments.rounds}, {Machine()}")
    for heading in ("num_threads", "callers", "per second", "ratio", "per second of CPU", "ratio"):
        table.add_column(heading, justify="right")
    worst = float("inf")
    for of_model in zip(*rates, strict=True):
        for i, callers in enumerate(CALLERS):
            wall = median(pair[i].per_second / pair[0].per_second for pair in of_model)
            cpu = median(pair[i].per_cpu_second / pair[0].per_cpu_second for pair in of_model)
            worst = min(worst, cpu)
            speed = median(pair[i].per_second for pair in of_model)
            cpu_speed = median(pair[i].per_cpu_second for pair in of_model)
            cells = (str(of_model[0][i].num_threads), str(callers))
            table.add_row(*cells, f"{speed:.0f}", f"{wall:.2f}", f"{cpu_speed:.0f}", f"{cpu:.2f}")
    console().print(table)
    print(f"eight threads reach {worst:.2f} of two: {'pass' if worst >= BAR else 'FAIL'} (>= {BAR})")
    if arguments.output:
        flat = [asdict(rate) for of_round in rates for of_model in of_round for rate in of_model]
        write_json(arguments.output, {"machine": asdict(Machine()), "results": flat, "ratio": worst})
    return 0 if worst >= BAR else 1


if __name__ == "__main__":
    raise SystemExit(main())
