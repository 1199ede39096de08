"""How many instructions do the binary ARM kernels execute?

Run ``python benchmarks/instructions.py``; it works on any machine, since an emulator counts, exactly. It counts whole
calls of the kernels that the compiler chooses for dense binary layers: bits in, thresholded bits out, zero padding.

The table gives instructions per call, and per 128 multiply-accumulates. The exit code is 1 if the bar is missed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import tvm
from chains import BinaryChain
from command_line import console, parser
from layers import BINARY_LAYERS, Layer
from records import write_json
from rich.table import Table

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.passes.families.counters import counters_cost
from sbnn_tvm.passes.families.popcount import popcount_cost
from sbnn_tvm.schedules.counters.conv2d import sparse_conv2d
from sbnn_tvm.schedules.direct.conv2d import popcount_conv2d
from sbnn_tvm.schedules.epilogue.program import IntegerThreshold
from sbnn_tvm.schedules.layouts.bit_planes import plane_layout
from sbnn_tvm.schedules.layouts.words import pack_channels, unpack_channels

MOST = {BINARY_LAYERS[0].name: 3.2}
"""The bars for aarch64: instructions per 128 multiply-accumulates. A plain loop of popcounts needs 4.1."""


@dataclass(frozen=True)
class Count:
    """The number of instructions that a layer executes.

    Attributes:
        layer: Its name in the tables.
        kernel: Name of its kernel.
        instructions: Instructions of one call.
        macs: Multiply-accumulates of the layer.
    """

    layer: str
    kernel: str
    instructions: int
    macs: int

    @property
    def for_128_macs(self) -> float:
        """Instructions per 128 multiply-accumulates; a vector register has 128 bits."""
        return self.instructions * 128 / self.macs


def count(layer: Layer, target: CpuTarget) -> Count:
    """Run the binary kernel of a layer in the emulator; its output is checked."""
    chain = BinaryChain.random(layer, np.random.default_rng(0)).start(1)
    shape, isa = layer.shape, target.isa
    epilogue = IntegerThreshold(chain.thresholds[0], np.zeros(shape.out_channels, bool))
    counters = counters_cost(shape, chain.signs[0], isa, floats=False, domain=SIGN)
    planes = counters < popcount_cost(shape, isa, floats=False)
    kernel = (sparse_conv2d if planes else popcount_conv2d)(shape, chain.signs[0], 0, epilogue, isa)
    layout = plane_layout(shape.batch, shape.height, shape.width, shape.in_channels, isa)
    data = layout.encode(chain.bits) if planes else pack_channels(chain.bits, isa)
    ((out_shape, dtype),) = kernel.outputs
    arrays = [data, *kernel.constants, np.zeros(out_shape, dtype)]
    emulator = Emulator(tvm.IRModule({"kernel": kernel.func}), target)
    instructions = emulator.instructions("kernel", arrays)
    result = plane_layout(shape.batch, shape.out_height, shape.out_width, shape.out_channels, isa)
    bits = result.decode(arrays[-1]) if planes else unpack_channels(arrays[-1], shape.out_channels)
    np.testing.assert_array_equal(bits, chain.output(resolve("native")))
    return Count(layer.name, kernel.name, instructions, shape.macs)


def main() -> int:
    """Count for every layer; the exit code is 1 if a bar is missed."""
    options = parser(__doc__)
    options.add_argument("--target", default="arm", help="an ARM target (default: %(default)s)")
    arguments = options.parse_args()
    target = resolve(arguments.target)
    counts = [count(layer, target) for layer in BINARY_LAYERS]
    bars = MOST if target.machine == "aarch64" else {}
    table = Table(title=f"Instructions of the binary kernels, {target} ({target.isa.name})")
    for heading in ("layer", "kernel", "instructions", "per 128 MAC", "at most"):
        table.add_column(heading, justify="left" if heading in ("layer", "kernel") else "right")
    missed = False
    for each in counts:
        bar = bars.get(each.layer)
        failed = bar is not None and each.for_128_macs > bar
        missed |= failed
        verdict = "" if bar is None else f"{bar} {'FAIL' if failed else 'pass'}"
        table.add_row(each.layer, each.kernel, f"{each.instructions:,}", f"{each.for_128_macs:.2f}", verdict)
    console().print(table)
    if arguments.output:
        rows = [{**asdict(each), "for_128_macs": each.for_128_macs} for each in counts]
        content = {"target": str(target), "isa": target.isa.name, "counts": rows}
        write_json(arguments.output, content)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
