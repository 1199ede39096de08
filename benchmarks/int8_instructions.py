"""Instructions and cycles of the kernels on bytes for AArch64: part of instructions.py.

Whole calls are executed in an emulator: uint8 in, uint8 out, with a scale per channel. The emulator has no smmla: for
the target with it, there is the inner loop alone, as it is in the machine code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tvm
from core_cycles import Block, Execution, block_cycles, disassembled_blocks, execute
from elftools.elf.elffile import ELFFile
from layers import Layer, convolution
from rich.table import Table

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.passes.lowering.raw_kernels import raw_kernels
from sbnn_tvm.schedules.epilogue.program import Channel, CodesOutput, Program, Ref, Step
from sbnn_tvm.schedules.int8.conv2d import int8_conv2d
from sbnn_tvm.schedules.int8.depthwise import int8_depthwise_conv2d
from sbnn_tvm.schedules.isa import IntegerProducts
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.shapes import Conv2dShape

LAYERS = (
    Layer("3x3 14x14 128", convolution(14, 128, 128)),
    Layer("1x1 14x14 128-256", convolution(14, 128, 256, 1)),
    Layer("stem 7x7/2 56x56 3-64", convolution(56, 3, 64, 7, 2)),
    Layer("depthwise 3x3 14x14 128", Conv2dShape(1, 14, 14, 128, 128, (3, 3), (1, 1), (1, 1, 1, 1), groups=128)),
)

_A55 = {"kind": "llvm", "mtriple": "aarch64-unknown-linux-gnu", "mcpu": "cortex-a55"}
TARGETS: tuple[tuple[str | Mapping[str, Any], tuple[str, ...]], ...] = (
    ("cortex-a53", ("cortex-a53",)),
    ("cortex-a72", ("cortex-a72",)),
    (_A55, ("cortex-a55",)),
    ("neoverse-n1", ("neoverse-n1", "apple-m1")),
    ("neoverse-v1", ("neoverse-v2",)),
)
"""Targets, and the cores whose cycles are modelled."""

MOST = 1.25
"""The bar with sdot, but for cores that execute in order: instructions of the inner loop per 16 products."""

OF_PEAK = 0.8
"""The bar with sdot on the Neoverse N1: the share of two sdot a cycle."""

_BACK = re.compile(r"b\.\w+ #-(\d+)")
_PRODUCTS = {"sdot": 16, "smmla": 32, "usmmla": 32, "smull": 8, "smlal": 8, "smlal2": 8}
_DEPTHWISE = {"smlal": 4, "smlal2": 4, "smull": 4, "smull2": 4}


@dataclass(frozen=True)
class IntegerCount:
    """Figures per 16 products.

    Attributes:
        target, layer, kernel: Names.
        loop: Instructions of the inner loop per 16 products that it computes.
        whole: Instructions of the call per 16 products of the layer; None if it cannot be emulated.
        loop_cycles, whole_cycles: The same for cycles, for each core.
        barred: Whether there is a bar for the loop.
    """

    target: str
    layer: str
    kernel: str
    loop: float
    whole: float | None
    loop_cycles: dict[str, float]
    whole_cycles: dict[str, float]
    barred: bool

    @property
    def missed(self) -> bool:
        """Whether a bar is missed."""
        slow = self.loop_cycles.get("neoverse-n1", 0.0) > 0.5 / OF_PEAK
        return self.barred and (self.loop > MOST or slow)


def integer_counts(cycles: bool) -> list[IntegerCount]:
    """All layers for all targets; without cycles, those without an emulator are skipped."""
    resolved = [(resolve(target), cores if cycles else ()) for target, cores in TARGETS]
    return [
        _count(layer, target, cores)
        for target, cores in resolved
        for layer in LAYERS
        if cycles or target.isa.products != IntegerProducts.MATRICES
    ]


def _count(layer: Layer, target: CpuTarget, cores: tuple[str, ...]) -> IntegerCount:
    shape, products = layer.shape, _DEPTHWISE if layer.shape.depthwise else _PRODUCTS

    def computed(block: Block) -> int:
        return sum(products.get(line.split(maxsplit=1)[0], 0) for line in block.assembly)

    kernel, data = _kernel(shape, target)
    emulated = target.isa.products != IntegerProducts.MATRICES
    if emulated:
        arrays = [data, *kernel.constants, np.zeros(*kernel.outputs[0])]
        execution = execute(Emulator(tvm.IRModule({"kernel": kernel.func}), target), target.machine, "kernel", arrays)
    else:
        execution = Execution(tuple(_blocks(kernel, target)), target.machine)
    hottest = max(execution.blocks, key=lambda block: block.count * computed(block))
    each = 16 / computed(hottest)
    return IntegerCount(
        str(target),
        layer.name,
        kernel.name,
        len(hottest.assembly) * each,
        execution.instructions * 16 / shape.macs if emulated else None,
        {core: block_cycles((hottest.assembly,), core)[0] * each for core in cores},
        {core: execution.cycles(core) * 16 / shape.macs for core in cores if emulated},
        target.isa.products == IntegerProducts.LANES and target.isa.core != "in-order" and layer == LAYERS[0],
    )


def _kernel(shape: Conv2dShape, target: CpuTarget) -> tuple[Kernel, np.ndarray]:
    rng = np.random.default_rng(0)
    weight = rng.integers(-127, 128, (shape.out_channels, shape.group_in_channels, *shape.kernel)).astype(np.int16)
    data = rng.integers(0, 256, (1, shape.height, shape.width, shape.in_channels)).astype(np.uint8)
    scale = Channel(rng.random(shape.out_channels).astype(np.float32) / 100)
    epilogue = Program((Step("multiply", Ref(0), scale),), (CodesOutput(Ref(1), "uint8", 128),))
    build = int8_depthwise_conv2d if shape.depthwise else int8_conv2d
    return build(shape, weight, 128, epilogue, target.isa, data_dtype="uint8"), data


def _blocks(kernel: Kernel, target: CpuTarget) -> list[Block]:
    """The basic blocks of a kernel's machine code, each counted once."""
    module = tvm.IRModule({"kernel": kernel.func.with_attr("global_symbol", "kernel")})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.o"
        raw_kernels(module, target.target, "counted_").code.write_to_file(str(path), "o")
        with path.open("rb") as file:
            code = b"".join(each.data() for each in ELFFile(file).iter_sections() if each["sh_flags"] & 4)
    return [_loop(block) for block in disassembled_blocks(code, target.machine)]


def _loop(block: Block) -> Block:
    """A block that begins where its last instruction jumps back to, if it does."""
    back = _BACK.fullmatch(block.assembly[-1])
    size = int(back[1]) // 4 + 1 if back else len(block.assembly)
    return replace(block, assembly=block.assembly[-size:])


def integers_table(counts: list[IntegerCount]) -> tuple[Table, bool]:
    """Instructions and cycles per 16 products, and whether a bar is missed."""
    table = Table(title="Kernels on bytes, per 16 products: inner loop / whole call")
    for heading in ("target", "layer", "kernel", "instructions", "cycles", "at most"):
        table.add_column(heading, justify="right" if heading in ("instructions", "at most") else "left")
    for each in counts:
        whole = "-" if each.whole is None else f"{each.whole:.2f}"
        cycles = [
            f"{core} {loop:.2f} / " + (f"{each.whole_cycles[core]:.2f}" if core in each.whole_cycles else "-")
            for core, loop in each.loop_cycles.items()
        ]
        bar = f"{MOST} {'FAIL' if each.missed else 'pass'}" if each.barred else ""
        table.add_row(each.target, each.layer, each.kernel, f"{each.loop:.2f} / {whole}", ", ".join(cycles), bar)
    return table, any(each.missed for each in counts)
