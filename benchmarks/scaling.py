"""What do several threads gain?

Run ``python benchmarks/scaling.py``. The binary layers of a ResNet-18 are timed on 1, 2, 4, ... threads, up to the
number of cores. Each kernel runs alone, in turns with the others:

* popcount and counters (bit planes) with thresholded bits out
* both with the epilogue of a residual network, floats and bits out

For counters 5 % and 25 % of the weights are set. The table gives microseconds, and in brackets the speed relative to
the first number of threads. A layer that would become slower stays on one thread; its speed is then about 1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import records
from chains import binary_contestant
from command_line import console, layer_parser
from contestant import Contestant, seconds_a_layer
from layers import BINARY_LAYERS, Layer
from records import Machine, Record
from rich.table import Table
from sparse_kernels import FLOAT, POPCOUNT, float_contestants, plane_contestant, sparse_chain

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.runtime.thread_counts import default_num_threads
from sbnn_tvm.runtime.threads import use_threads

PLANES, DENSITIES = "bit planes", (0.05, 0.25)


@dataclass(frozen=True)
class Case:
    """A kernel to time; the fields have the same meaning as in Record."""

    kernel: str
    epilogue: str
    density: float | None = None


def measure(layer: Layer, target: CpuTarget, threads: Sequence[int], seconds: float) -> list[Record]:
    """Time a layer by each kernel and number of threads; the kernel names in the records end in the number."""
    chains = {density: sparse_chain(layer, density) for density in DENSITIES}
    contestants = {Case(POPCOUNT, "bits"): binary_contestant(chains[DENSITIES[0]], target)}
    for density, chain in chains.items():
        contestants[Case(PLANES, "bits", density)] = plane_contestant(chain, SIGN, target)
        floats = float_contestants(chain, target)
        contestants[Case(PLANES, FLOAT, density)] = floats[PLANES]
        contestants[Case(POPCOUNT, FLOAT)] = floats[POPCOUNT]
    runs = {(case, number): partial(_run, each.run, number) for case, each in contestants.items() for number in threads}
    names = {str(key): key for key in runs}
    times = seconds_a_layer({str(key): Contestant(run) for key, run in runs.items()}, seconds)
    found = []
    for name, (case, number) in names.items():
        kernel = f"{case.kernel}, {number} threads"
        record = Record(layer.name, layer.shape, kernel, target.isa.name, case.epilogue, times[name], case.density)
        found.append(record)
    return found


def _run(function: Callable[[], object], threads: int) -> None:
    use_threads(threads)
    function()


def table(measured: Sequence[Record], threads: Sequence[int], machine: Machine) -> Table:
    """One row per layer, kernel and epilogue: microseconds per number of threads, and the relative speed."""
    out = Table(title=f"Microseconds per layer (speed relative to the first column), {measured[0].isa}, {machine}")
    for heading in ("layer", "kernel", "set", "stores"):
        out.add_column(heading)
    for number in threads:
        out.add_column(f"{number} thread{'s' * (number > 1)}", justify="right")
    for i in range(0, len(measured), len(threads)):
        row = measured[i : i + len(threads)]
        cells = [f"{each.seconds * 1e6:.1f} ({row[0].seconds / each.seconds:.2f})" for each in row]
        share = "" if row[0].density is None else f"{row[0].density:.0%}"
        out.add_row(row[0].layer, row[0].kernel.split(",")[0], share, row[0].epilogue, *cells)
    return out


def main() -> None:
    """Measure every layer."""
    parser = layer_parser(__doc__, seconds=5.0)
    parser.add_argument("--threads", type=int, nargs="+", help="numbers of threads (default: 1, 2, 4, ..., all cores)")
    arguments = parser.parse_args()
    cores = default_num_threads()
    threads = arguments.threads or [*(1 << i for i in range((cores - 1).bit_length())), cores]
    target, machine = resolve(arguments.target), Machine()
    measured = []
    for layer in BINARY_LAYERS:
        if arguments.only in layer.name:
            measured += measure(replace(layer, links=1), target, threads, arguments.seconds)
    console().print(table(measured, threads, machine))
    if arguments.output:
        records.write(arguments.output, measured, machine)


if __name__ == "__main__":
    main()
