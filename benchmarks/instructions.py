"""How many instructions do the binary ARM kernels execute, and how many cycles do they take?

Run ``python benchmarks/instructions.py``; it works on any machine. An emulator counts the instructions, exactly. For
aarch64, LLVM's models of six cores tell the cycles (core_cycles.py); without LLVM 19 they are skipped. Whole calls of
kernels for dense binary layers are counted: bits in, thresholded bits out, zero padding. For every layer there are the
kernel that the compiler chooses and, if that is another one, the kernel that counts bits with popcounts.

The tables give instructions and cycles per 128 multiply-accumulates, which is what a vector register holds. The cycles
of a popcount kernel are those of its inner loop, and of the whole call. The kernels on bytes follow, for aarch64
(int8_instructions.py). The exit code is 1 if a bar is missed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import tvm
from chains import BinaryChain
from command_line import console, parser
from core_cycles import CORES, Block, Execution, execute, missing_tools
from int8_instructions import integer_counts, integers_table
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

MOST = {BINARY_LAYERS[0].name: 3.9}
"""The bars for aarch64: instructions per 128 multiply-accumulates. A plain loop of popcounts needs 4.1."""

LOOP_MOST = dict(zip(CORES, (4.3, 4.0, 1.52, 1.50, 0.75, 1.0), strict=True))
"""The bars for the inner loop of popcounts: cycles per 128 multiply-accumulates that it computes."""

WHOLE_MOST = 1.12
"""The whole call may take so much more per multiply-accumulate of the layer than the bar of the loop."""

LARQ_LOOP = dict(zip(CORES, (4.22, 3.88, 1.50, 1.50, 0.75, 1.00), strict=True))
"""For comparison: cycles of the published inner loop of Larq Compute Engine (8x4x4), by the same models."""

_DIGITS = 0.005
"""Bars have two digits."""


@dataclass(frozen=True)
class Count:
    """The instructions that a layer executes, and its cycles.

    Attributes:
        layer: Its name in the tables.
        kernel: Name of its kernel.
        chosen: Whether it is the kernel that the compiler chooses.
        instructions: Instructions of one call.
        macs: Multiply-accumulates of the layer.
        cycles: Cycles of one call on each core; empty if they were skipped.
        loop_cycles: For kernels with popcounts, cycles of the inner loop per 128 multiply-accumulates that it computes.
    """

    layer: str
    kernel: str
    chosen: bool
    instructions: int
    macs: int
    cycles: dict[str, float]
    loop_cycles: dict[str, float]

    @property
    def for_128_macs(self) -> float:
        """Instructions per 128 multiply-accumulates."""
        return self.instructions * 128 / self.macs

    def whole(self, core: str) -> float:
        """Cycles per 128 multiply-accumulates on a core."""
        return self.cycles[core] * 128 / self.macs


def counts_of(layer: Layer, target: CpuTarget, cycles: bool) -> list[Count]:
    """The kernel that the compiler chooses for a layer, and the popcount kernel if that is another one."""
    chain = BinaryChain.random(layer, np.random.default_rng(0)).start(1)
    shape, isa = layer.shape, target.isa
    counters = counters_cost(shape, chain.signs[0], isa, floats=False, domain=SIGN)
    planes = counters < popcount_cost(shape, isa, floats=False)
    return [
        count(layer, chain, target, by, cycles, chosen=by == planes) for by in ((True, False) if planes else (False,))
    ]


def count(layer: Layer, chain: BinaryChain, target: CpuTarget, planes: bool, cycles: bool, chosen: bool) -> Count:
    """Run a binary kernel of a layer in the emulator, by counters or popcounts; its output is checked."""
    shape, isa = layer.shape, target.isa
    epilogue = IntegerThreshold(chain.thresholds[0], np.zeros(shape.out_channels, bool))
    kernel = (sparse_conv2d if planes else popcount_conv2d)(shape, chain.signs[0], 0, epilogue, isa)
    layout = plane_layout(shape.batch, shape.height, shape.width, shape.in_channels, isa)
    data = layout.encode(chain.bits) if planes else pack_channels(chain.bits, isa)
    ((out_shape, dtype),) = kernel.outputs
    arrays = [data, *kernel.constants, np.zeros(out_shape, dtype)]
    execution = execute(Emulator(tvm.IRModule({"kernel": kernel.func}), target), target.machine, "kernel", arrays)
    result = plane_layout(shape.batch, shape.out_height, shape.out_width, shape.out_channels, isa)
    bits = result.decode(arrays[-1]) if planes else unpack_channels(arrays[-1], shape.out_channels)
    np.testing.assert_array_equal(bits, chain.output(resolve("native")))
    whole = {core: execution.cycles(core) for core in CORES} if cycles else {}
    loop = {core: _loop_cycles(execution, core) for core in CORES} if cycles and not planes else {}
    return Count(layer.name, kernel.name, chosen, execution.instructions, shape.macs, whole, loop)


def _loop_cycles(execution: Execution, core: str) -> float:
    """Cycles of the blocks that count bits, per instruction that does: it counts those of 128 products."""

    def counts(block: Block) -> int:
        return sum(line.startswith("cnt") for line in block.assembly)

    cycles = execution.cycles(core, lambda block: counts(block) > 0)
    return cycles / sum(block.count * counts(block) for block in execution.blocks)


def instructions_table(counts: list[Count], target: CpuTarget) -> tuple[Table, bool]:
    """Instructions per 128 multiply-accumulates, and whether a bar is missed."""
    table, missed = Table(title=f"Instructions of the binary kernels, {target} ({target.isa.name})"), False
    for heading in ("layer", "kernel", "chosen", "instructions", "per 128 MAC", "at most"):
        table.add_column(heading, justify="left" if heading in ("layer", "kernel") else "right")
    for each in counts:
        bar = MOST.get(each.layer) if each.chosen and target.machine == "aarch64" else None
        failed = bar is not None and each.for_128_macs > bar
        missed |= failed
        verdict = "" if bar is None else f"{bar} {'FAIL' if failed else 'pass'}"
        chosen = "yes" if each.chosen else ""
        table.add_row(each.layer, each.kernel, chosen, f"{each.instructions:,}", f"{each.for_128_macs:.2f}", verdict)
    return table, missed


def cycles_table(counts: list[Count], target: CpuTarget) -> tuple[Table, bool]:
    """Cycles per 128 multiply-accumulates on each core, and whether a bar is missed."""
    table, missed = Table(title=f"Cycles per 128 multiply-accumulates: loop / whole call, {target}"), False
    for heading in ("layer", "kernel", *CORES):
        table.add_column(heading, justify="left" if heading in ("layer", "kernel") else "right")
    for each in counts:
        cells = []
        for core in CORES:
            loop, whole = each.loop_cycles.get(core), each.whole(core)
            bar = LOOP_MOST[core] + _DIGITS
            failed = loop is not None and (loop > bar or whole > WHOLE_MOST * bar)
            missed |= failed
            cells.append(("-" if loop is None else f"{loop:.2f}") + f" / {whole:.2f}" + " FAIL" * failed)
        table.add_row(each.layer, each.kernel, *cells)
    table.add_section()
    table.add_row("bar of popcounts", "", *(f"{bar:.2f} / {WHOLE_MOST * bar:.2f}" for bar in LOOP_MOST.values()))
    table.add_row("Larq Compute Engine 8x4x4", "", *(f"{cycles:.2f}" for cycles in LARQ_LOOP.values()))
    return table, missed


def main() -> int:
    """Count for every layer; the exit code is 1 if a bar is missed."""
    options = parser(__doc__)
    options.add_argument("--target", default="arm", help="an ARM target (default: %(default)s)")
    arguments = options.parse_args()
    target, out = resolve(arguments.target), console()
    skipped = missing_tools() if target.machine == "aarch64" else "cycles are modelled for aarch64 only"
    counts = [each for layer in BINARY_LAYERS for each in counts_of(layer, target, not skipped)]
    table, missed = instructions_table(counts, target)
    out.print(table)
    if skipped:
        out.print(skipped)
    else:
        table, slow = cycles_table(counts, target)
        out.print(table)
        missed |= slow
    integers = integer_counts(not skipped) if target.machine == "aarch64" else []
    if integers:
        table, more = integers_table(integers)
        out.print(table)
        missed |= more
    if arguments.output:
        rows = [{**asdict(each), "for_128_macs": each.for_128_macs} for each in counts]
        bytes_ = [asdict(each) for each in integers]
        content = {"target": str(target), "isa": target.isa.name, "counts": rows, "bytes": bytes_}
        write_json(arguments.output, content)
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
