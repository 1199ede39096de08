"""How long does a program wait for its first result, when it starts anew?

Run ``python benchmarks/cold_start.py model.so``, by default with the small network of examples/digits.py. The library
must be a C library. Each row is the median over new processes:

- ``numpy``: its import, which no program of this kind can avoid.
- ``sbnn_tvm``: the import of the package and its runtime.
- ``load``: ``sbnn_tvm.load``: read, check, load, decode constants.
- ``first run``, ``second run``: ``run``.
- ``library alone``: the dynamic loader, ``init`` and the first ``run``, called by ctypes from the file itself: what a C
  program waits for.

The exit code is 1 if ``library alone`` misses its bar of 2 ms.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from command_line import console, parser
from records import Machine, write_json
from rich.table import Table

BAR = 2.0
"""The bar: milliseconds of ``library alone``."""

_PROGRAM = """
import json, sys, time
marks = [time.perf_counter()]
def mark():
    marks.append(time.perf_counter())
import numpy
mark()
import sbnn_tvm
sbnn_tvm.load
from sbnn_tvm.runtime import standalone_module
mark()
model = sbnn_tvm.load(sys.argv[1], num_threads=1)
mark()
arrays = [numpy.zeros(spec.shape, spec.dtype) for spec in model.inputs]
mark()
model.run(*arrays)
mark()
model.run(*arrays)
mark()
assert "tvm" not in sys.modules
steps = [(end - begin) * 1e3 for begin, end in zip(marks, marks[1:])]
print(json.dumps(dict(zip(["numpy", "sbnn_tvm", "load", "", "first run", "second run"], steps))))
"""

_ALONE = """
import json, sys, time
import ctypes
from sbnn_tvm.runtime.c_interface import Functions, Input, Output, options
from sbnn_tvm.runtime.library_file import read_library
from sbnn_tvm.runtime.loaded_module import aligned_array, aligned_bytes
metadata = read_library(sys.argv[1]).metadata
inputs, outputs = ([aligned_array(spec) for spec in specs] for specs in (metadata.inputs, metadata.outputs))
ins = (Input * len(inputs))(*(Input(array.ctypes.data, array.nbytes) for array in inputs))
outs = (Output * len(outputs))(*(Output(array.ctypes.data, array.nbytes) for array in outputs))
one = ctypes.byref(options(1))
begin = time.perf_counter()
functions = Functions.of(ctypes.CDLL(sys.argv[1]), metadata.symbol)
memory = aligned_bytes(functions.context_bytes(one))
codes = functions.init(memory.ctypes.data, memory.nbytes, one), functions.run(memory.ctypes.data, ins, outs)
end = time.perf_counter()
assert codes == (0, 0), codes
print(json.dumps({"library alone": (end - begin) * 1e3}))
"""


@dataclass(frozen=True)
class Step:
    """One part of a cold start.

    Attributes:
        name: Its name in the table.
        milliseconds: The median over all processes.
        fastest: The fastest process.
    """

    name: str
    milliseconds: float
    fastest: float


def measure(library: Path, processes: int) -> list[Step]:
    """Start processes that run the library."""
    steps: dict[str, list[float]] = {}
    for _ in range(processes):
        for program in (_PROGRAM, _ALONE):
            command = [sys.executable, "-c", program, str(library.resolve())]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            for name, milliseconds in json.loads(done.stdout).items():
                steps.setdefault(name, []).append(milliseconds)
    return [Step(name, median(times), min(times)) for name, times in steps.items() if name]


def digits_library(folder: Path) -> Path:
    """The network of examples/digits.py, untrained, as a C library for this machine."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
    import digits
    import torch

    import sbnn_tvm

    torch.manual_seed(0)
    return sbnn_tvm.compile(digits.tiny_network(digits.binary_layer).eval()).export(folder / "digits.so", "c")


def main() -> int:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("library", nargs="?", type=Path, help="a C library (default: digits)")
    options.add_argument("--processes", type=int, default=15, help="how many processes (default: %(default)s)")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = arguments.library or digits_library(Path(folder))
        steps = measure(library, arguments.processes)
        size = library.stat().st_size
    table = Table("step", "median ms", "fastest ms", title=f"Cold start of {library.name}, {size} bytes")
    for step in steps:
        table.add_row(step.name, f"{step.milliseconds:.3f}", f"{step.fastest:.3f}")
    console().print(table)
    if arguments.output:
        write_json(arguments.output, {"machine": asdict(Machine()), "steps": [asdict(step) for step in steps]})
    alone = next(step for step in steps if step.name == "library alone")
    met = alone.milliseconds <= BAR
    print(f"library alone: {alone.milliseconds:.2f} ms, the bar is {BAR} ms: {'met' if met else 'MISSED'}")
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
