"""Does a model give the same results on every target?

Run ``python benchmarks/targets.py MODEL.onnx``. The model is compiled for each target, and its library runs here: on
this machine, or in an emulator (qemu-user, qemu-system-arm, Node.js), which must be installed. Its outputs are compared
with those of TVM's runtime on this machine. The values that its layers exchange as bits are compared one by one.

Differences of floats are in units in the last place: of the largest value of an output, and of each value itself, which
may be small by cancellation. Without a fused multiply-add a CPU rounds float layers once more. The exit code is 1 if
bits differ, or floats by more than 4 units of the largest value.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from command_line import console, parser
from records import write_json
from rich.table import Table

import sbnn_tvm
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.execution.programs import how, why_not
from sbnn_tvm.execution.run_kernels import run_kernels
from sbnn_tvm.execution.value_layout import decode
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.passes.layers.forms import Form
from sbnn_tvm.runtime.inputs import random_inputs
from sbnn_tvm.temporary_folder import temporary_folder

TARGETS = (
    *("native", "x86-64", "x86-64-v3", "arm", "cortex-a53", "armv7", "aarch64-linux-musl", "aarch64-linux-android"),
    *("riscv64", "riscv64-v", "wasm", "cortex-m4", "cortex-m7", "cortex-m55"),
)
MOST_ULPS = 4


@dataclass(frozen=True)
class Agreement:
    """The results of a target beside those of TVM's runtime on this machine.

    Attributes:
        target: The target.
        ran: What ran the library.
        bits: Number of bits that were compared.
        flipped: Number of bits that differ.
        ulps: Largest difference of an output, in units in the last place of its largest value.
        own_ulps: Largest difference of a value of an output, in units in its last place.
    """

    target: str
    ran: str
    bits: int
    flipped: int
    ulps: float
    own_ulps: float


def bits_of(module: CompiledModule, inputs: tuple[np.ndarray, ...]) -> dict[str, np.ndarray]:
    """The values that are stored as bits, by the name of the ONNX value, as uint8 codes."""
    found = {}
    for step in run_kernels(module.lowered, module.kernel_runner, (*inputs, *module.constants)):
        physical = step.physical
        if physical is not None and physical.form in (Form.BITS, Form.PLANES):
            name = module.imported.trace.get(physical.value, physical.value)
            found[name] = decode(step.array, physical, module.target.isa)
    return found


def compare(path: Path, target: str, inputs: list[tuple[np.ndarray, ...]], expected: Expected) -> Agreement:
    """Compile a model for a target, and compare."""
    module = sbnn_tvm.compile(path, target=target)
    bits = flipped = 0
    ulps = own_ulps = 0.0
    for arrays, (outputs, known) in zip(inputs, expected, strict=True):
        if module.program is None:
            raise SystemExit(f"{module.needs_tvm}: this model has no C library")
        for got, want in zip(module.program.run(*arrays), outputs, strict=True):
            units = np.spacing(np.abs(want)) if want.dtype.kind == "f" else np.ones_like(want)
            differences = np.abs(got.astype(np.float64) - want)
            ulps = max(ulps, float(differences.max() / units.max()))
            own_ulps = max(own_ulps, float((differences / units).max()))
        for name, value in bits_of(module, arrays).items():
            if name in known and known[name].shape == value.shape:
                bits += value.size
                flipped += int((known[name] != value).sum())
    return Agreement(target, how(module.target), bits, flipped, ulps, own_ulps)


Expected = list[tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]]


def main() -> int:
    """Compare all targets; the exit code is 1 if a bar is missed."""
    options = parser(__doc__)
    options.add_argument("model", type=Path, help="an ONNX file")
    options.add_argument("--samples", type=int, default=3, help="number of random inputs (default: %(default)s)")
    options.add_argument("--targets", default=",".join(TARGETS), help="names, separated by commas")
    arguments = options.parse_args()
    module = sbnn_tvm.compile(arguments.model)
    rng = np.random.default_rng(0)
    inputs = [tuple(random_inputs(module.inputs, rng)) for _ in range(arguments.samples)]
    with temporary_folder(sbnn_tvm.SbnnError) as folder:
        tvm = sbnn_tvm.load(module.export(folder / "model.so", "tvm"))
    expected: Expected = []
    for arrays in inputs:
        result = tvm.run(*arrays)
        expected.append((result if isinstance(result, tuple) else (result,), bits_of(module, arrays)))
    table = Table(title=f"{arguments.model.stem}: beside TVM's runtime on this machine")
    for heading in (
        "target",
        "ran in",
        "bits compared",
        "bits that differ",
        "units of the largest value",
        "units of each value",
    ):
        table.add_column(heading, justify="left" if heading in ("target", "ran in") else "right")
    found = []
    for target in arguments.targets.split(","):
        if reason := why_not(resolve(target)):
            table.add_row(target, f"not: {reason}", "", "", "", "")
            continue
        found.append(compare(arguments.model, target, inputs, expected))
        each = found[-1]
        table.add_row(
            each.target, each.ran, f"{each.bits:,}", str(each.flipped), f"{each.ulps:g}", f"{each.own_ulps:g}"
        )
    console().print(table)
    if arguments.output:
        write_json(arguments.output, {"model": arguments.model.stem, "targets": [asdict(each) for each in found]})
    return int(any(each.flipped or each.ulps > MOST_ULPS for each in found))


if __name__ == "__main__":
    raise SystemExit(main())
