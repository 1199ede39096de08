"""How close do the float ARM kernels come to the multiply-adds that a core can execute?

Run ``python benchmarks/float_cycles.py``; it works on any machine that has llvm-mca-19. An emulator counts how often
each block of a kernel runs, and LLVM's model of a core says how many cycles a block takes (``core_cycles.py``).

For each layer and core the table has two shares of the peak:

- of the loops: multiply-adds that the blocks with multiply-adds execute, per cycle of these blocks;
- of the whole call: multiply-adds of the layer, per cycle of the call. It includes copies of the image, stores, and
  outputs that are computed twice or thrown away. Minimal filters (7x7/2 before a pooling) need fewer multiply-adds than
  the layer has, so their share may be above 1; the pooling is included.

The peak is what the core's maker or measurements by others say, or what the model allows if that is less (``PEAKS``).
The exit code is 1 if the loops of a layer miss the bar of 0.8 on a core for no known reason (``REASONS``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
import tvm
from command_line import console, parser
from core_cycles import CORES, Execution, block_cycles, execute, missing_tools
from layers import convolution, square
from records import write_json
from rich.table import Table

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.schedules.direct.conv2d import float_conv2d
from sbnn_tvm.schedules.direct.pooled_conv2d import pooled_conv2d
from sbnn_tvm.schedules.epilogue.program import STORE
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d

BAR = 0.8

PEAKS = {
    "cortex-a53": 1.0,  # two 64-bit multiply-add pipes; Arm publishes no guide, LLVM's model says the same
    "cortex-a55": 1.0,  # Arm Cortex-A55 Software Optimization Guide: ASIMD FP multiply accumulate, by element
    "cortex-a72": 1.0,  # two 64-bit pipes; LLVM's model (that of the A57) says the same
    "neoverse-n1": 2.0,  # Arm Neoverse N1 Software Optimization Guide: ASIMD FP multiply accumulate, pipes V0 and V1
    "neoverse-v2": 4.0,  # Arm Neoverse V2 Software Optimization Guide: pipes V0 to V3
    "apple-m1": 4.0,  # measured: dougallj.github.io/applecpu/measurements/firestorm/FMLA_v_4S.html
}
"""Multiply-adds of four float32 numbers that a core can begin per cycle.

LLVM 19's models allow 2 on the Cortex-A55, which is too many, and 2 on the Apple M1 (3 by element), which is too few:
the model is that of an older core. The smaller number counts.
"""

REASONS = {
    ("cortex-a53", ""): "no load ends before an earlier multiply-add in LLVM's model, and these take 10 cycles. So "
    "loads wait 6 cycles, and nothing overlaps them. With 32 registers, no order of the loads and multiply-adds of a "
    "convolution passes 0.72. Depthwise convolutions have a load for every other multiply-add.",
    ("cortex-a55", "depthwise 3x3/2"): "one output reads two new columns: of the instructions, 4 of 10 are loads, and "
    "the border tiles compute an address for each of them.",
    ("cortex-a55", "max pooling"): "a fifth of the multiply-adds are in the transforms, which have as many additions, "
    "loads and constants.",
}
"""Why loops miss the bar: by core, and part of the layer's name."""

_MULTIPLY_ADDS = ("fmla", "fmls")


@dataclass(frozen=True)
class FloatLayer:
    """A layer to measure.

    Attributes:
        name: Its name in the table.
        shape: The convolution.
        pool: Shape of the max pooling that the same kernel computes; None without.
    """

    name: str
    shape: Conv2dShape
    pool: Conv2dShape | None = None

    def kernel(self, weight: np.ndarray, isa: Isa) -> Kernel:
        """The kernel that the compiler builds by default."""
        if self.pool is not None:
            return pooled_conv2d(self.shape, weight, STORE, self.pool, STORE, isa=isa)
        return (depthwise_conv2d if self.shape.depthwise else float_conv2d)(self.shape, weight, STORE, isa)


def depthwise(size: int, channels: int, stride: int = 1) -> FloatLayer:
    """A 3x3 depthwise convolution."""
    shape = Conv2dShape(1, size, size, channels, channels, (3, 3), (stride, stride), (1, 1, 1, 1), groups=channels)
    return FloatLayer(f"depthwise 3x3{'/2' * (stride > 1)} {size}x{size} {channels}", shape)


_STEM = convolution(224, 3, 64, 7, 2)
LAYERS = (
    *(FloatLayer(each.name, each.shape) for each in (square(56, 64), square(28, 128), square(14, 256), square(7, 512))),
    FloatLayer("1x1 56x56 64-128", convolution(56, 64, 128, 1)),
    FloatLayer("1x1 14x14 256-512", convolution(14, 256, 512, 1)),
    depthwise(56, 64),
    depthwise(14, 256),
    depthwise(56, 64, 2),
    FloatLayer("stem 7x7/2 224x224 3-64", _STEM),
    FloatLayer("the same, max pooling", _STEM, Conv2dShape(1, 112, 112, 64, 64, (3, 3), (2, 2), (1, 1, 1, 1))),
    FloatLayer("stem 3x3/2 224x224 3-32", convolution(224, 3, 32, 3, 2)),
    FloatLayer("stem 3x3 32x32 3-64", convolution(32, 3, 64)),
)


@dataclass(frozen=True)
class Share:
    """Shares of a core's peak.

    Attributes:
        layer: Name of the layer.
        kernel: Name of its kernel.
        core: The core.
        loops: Of the blocks with multiply-adds.
        call: Of the whole call.
    """

    layer: str
    kernel: str
    core: str
    loops: float
    call: float

    @property
    def passes(self) -> bool:
        """Whether the loops reach the bar."""
        return self.loops >= BAR


def shares(layer: FloatLayer, target: CpuTarget, cores: Sequence[str] = CORES) -> list[Share]:
    """Run the kernel of a layer in the emulator, and model it on every core."""
    rng = np.random.default_rng(0)
    shape = layer.shape
    weight = rng.standard_normal((shape.out_channels, shape.group_in_channels, *shape.kernel)).astype(np.float32)
    kernel = layer.kernel(weight, target.isa)
    data = rng.standard_normal((shape.batch, shape.height, shape.width, shape.in_channels)).astype(np.float32)
    arrays = [data, *kernel.constants, *(np.zeros(each, dtype) for each, dtype in kernel.outputs)]
    emulator = Emulator(tvm.IRModule({"kernel": kernel.func}), target)
    execution = execute(emulator, target.machine, "kernel", arrays)
    return [_share(layer, kernel, execution, core) for core in cores]


def _share(layer: FloatLayer, kernel: Kernel, execution: Execution, core: str) -> Share:
    loops = [block for block in execution.blocks if block.has(*_MULTIPLY_ADDS)]
    by_element = sum(block.count * sum(map(_by_element, block.assembly)) for block in loops)
    others = sum(block.count * sum(map(_by_vector, block.assembly)) for block in loops)
    # A core is not faster than its peak, though its model may be.
    least = by_element / peak(core, by_element=True) + others / peak(core, by_element=False)
    in_loops = max(least, execution.cycles(core, lambda block: block.has(*_MULTIPLY_ADDS)))
    in_all = max(least, execution.cycles(core))
    needed = least * (layer.shape.macs / 4) / (by_element + others)
    return Share(layer.name, kernel.name, core, loops=least / in_loops, call=needed / in_all)


def _multiplies_add(line: str) -> bool:
    return line.startswith(_MULTIPLY_ADDS) and ".4s" in line


def _by_element(line: str) -> bool:
    return _multiplies_add(line) and ".s[" in line


def _by_vector(line: str) -> bool:
    return _multiplies_add(line) and ".s[" not in line


@cache
def peak(core: str, by_element: bool) -> float:
    """Multiply-adds of four numbers per cycle: ``PEAKS``, or what the model allows if that is less."""
    count, factor = 24, "v31.s[0]" if by_element else "v31.4s"
    block = tuple(f"fmla v{i}.4s, v30.4s, {factor}" for i in range(count))
    (cycles,) = block_cycles((block,), core)
    return min(PEAKS[core], round(count / cycles))


def main() -> int:
    """Model every layer on every core; the exit code is 1 if the bar is missed without a known reason."""
    options = parser(__doc__)
    options.add_argument("--target", default="arm", help="an aarch64 target (default: %(default)s)")
    options.add_argument("--only", default="", metavar="TEXT", help="only layers whose name contains TEXT")
    arguments = options.parse_args()
    if missing := missing_tools():
        raise SystemExit(missing)
    target = resolve(arguments.target)
    if target.machine != "aarch64":
        raise SystemExit(f"the multiply-adds of {target} are not counted: name an aarch64 target")
    table = Table(title=f"Share of the multiply-add peak, {target}: loops / whole call")
    for heading in ("layer", "kernel", *CORES):
        table.add_column(heading, justify="left" if heading in ("layer", "kernel") else "right")
    peaks = (f"{peak(core, by_element=True):g} / {peak(core, by_element=False):g}" for core in CORES)
    table.add_row("peak, multiply-adds per cycle", "", *peaks)
    found: list[Share] = []
    for layer in LAYERS:
        if arguments.only in layer.name:
            row = shares(layer, target)
            found += row
            cells = (f"{each.loops:.2f} / {each.call:.2f}{'' if each.passes else ' *'}" for each in row)
            table.add_row(layer.name, row[0].kernel, *cells)
    console().print(table)
    print("Peak: by element / by vector.")
    missed = [each for each in found if not each.passes]
    for core, part in dict.fromkeys(_reason(each) for each in missed if _reason(each)):
        print(f"* below {BAR} on the {core}{part and ', ' + part}: {REASONS[core, part]}")
    failed = [each for each in missed if not _reason(each)]
    for each in failed:
        print(f"* below {BAR} on the {each.core}, {each.layer}: FAIL, for no known reason")
    if arguments.output:
        write_json(arguments.output, {"target": str(target), "shares": [asdict(each) for each in found]})
    return 1 if failed else 0


def _reason(share: Share) -> tuple[str, str] | None:
    """The key of the reason why a layer misses the bar on a core."""
    return next((key for key in REASONS if key[0] == share.core and key[1] in share.layer), None)


if __name__ == "__main__":
    raise SystemExit(main())
