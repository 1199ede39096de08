"""How many cycles does machine code for ARM take on a core? LLVM's model of the core says it.

There is no ARM machine here. An emulator counts how often each basic block of a kernel is executed, exactly.
llvm-mca (Debian: llvm-19) simulates the pipelines of a core for each block, as if it were repeated without end. Cycles
of a kernel are the sum over its blocks of executions times cycles. The caches are taken to hold all data, every branch
to be predicted. What a block can overlap with its neighbours is not seen.

Other versions of LLVM have other models of the cores: cycles are comparable within one version only.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.schedules.isa import CoreClass

CORES = ("cortex-a53", "cortex-a55", "cortex-a72", "neoverse-n1", "neoverse-v2", "apple-m1")
"""Cores by LLVM's names: two that execute in order, one that begins three instructions a cycle, and three wide ones."""

CLASSES: dict[CoreClass, tuple[str, ...]] = {
    "in-order": CORES[:2],
    "a72": CORES[2:3],
    "wide": CORES[3:],
}
"""The cores above by the class that a target names."""

INSTRUCTION = dict(zip(CORES, (1.2, 1.2, 0.5, 0.5, 0.25, 1 / 3), strict=True))
"""Cycles of a vector instruction of a good loop: a third of those for eor, cnt and uadalp."""

_LLVM = Path("/usr/lib/llvm-19/bin")
_ITERATIONS = ((200, 0, 250), (20, 250, sys.maxsize))  # of blocks of so many instructions: from, up to
_TRIPLES = {"aarch64": "aarch64", "arm": "armv7"}
_BRANCH = re.compile(r"(b|bl|blr|br|ret|bx|b\.\w+|cbn?z|tbn?z|b(eq|ne|[hl][sioe]|[gl][te]|mi|pl|cs|cc|v[sc]))$")


def missing_tools() -> str | None:
    """What is missing to model cores, in a sentence; None if nothing is."""
    missing = [name for name in ("llvm-mc", "llvm-mca") if _tool(name) is None]
    return f"cycles are skipped: {' and '.join(missing)} of LLVM 19 is not installed (llvm-19)" if missing else None


@dataclass(frozen=True)
class Block:
    """A basic block: instructions that are always executed together, the last of which may be a branch.

    Attributes:
        address: Address of the first one in the library.
        assembly: The instructions.
        count: How often it was executed.
    """

    address: int
    assembly: tuple[str, ...]
    count: int

    @property
    def executed(self) -> int:
        """Instructions that were executed."""
        return self.count * len(self.assembly)

    def has(self, *mnemonics: str) -> bool:
        """Whether one of the instructions is called so."""
        return any(_mnemonic(line) in mnemonics for line in self.assembly)


@dataclass(frozen=True)
class Execution:
    """One call of a kernel in the emulator.

    Attributes:
        blocks: The basic blocks that were executed, in the order of their addresses.
        machine: ``"aarch64"`` or ``"arm"``.
    """

    blocks: tuple[Block, ...]
    machine: str

    @property
    def instructions(self) -> int:
        """Instructions of the call."""
        return sum(block.executed for block in self.blocks)

    @property
    def hottest(self) -> Block:
        """The block that executes the most instructions: the inner loop, if it is one block."""
        return max(self.blocks, key=lambda block: block.executed)

    def cycles(self, core: str, of: Callable[[Block], bool] = lambda block: True) -> float:
        """Cycles of the call on a core, or of some of its blocks."""
        some = [block for block in self.blocks if of(block)]
        each = block_cycles(tuple(block.assembly for block in some), core, self.machine)
        return sum(block.count * cycles for block, cycles in zip(some, each, strict=True))


def instructions_of_class(executions: Sequence[Execution], cores: Sequence[str]) -> float:
    """Cycles of several calls, in vector instructions of a good loop: the mean over some cores."""
    cycles = (sum(each.cycles(core) for each in executions) / INSTRUCTION[core] for core in cores)
    return sum(cycles) / len(cores)


def execute(emulator: Emulator, machine: str, name: str, arrays: Sequence[np.ndarray]) -> Execution:
    """Call a kernel in the emulator, and find its basic blocks.

    Args:
        emulator: The library.
        machine: ``"aarch64"`` or ``"arm"``.
        name: The kernel.
        arrays: Its arguments; the outputs among them are written.
    """
    runs = emulator.executions(name, arrays)
    blocks = [block for run in runs for block in disassembled_blocks(run.code, machine, run.address, run.count)]
    return Execution(tuple(blocks), machine)


def disassembled_blocks(code: bytes, machine: str, address: int = 0, count: int = 1) -> list[Block]:
    """The basic blocks of machine code at an address, each of which was executed ``count`` times.

    A block ends with a branch. One that is only a target of branches does not begin a block.
    """
    blocks, first = [], 0
    lines = disassembled(code, machine)
    for end in range(1, len(lines) + 1):
        if end == len(lines) or _BRANCH.match(_mnemonic(lines[end - 1])):
            blocks.append(Block(address + 4 * first, tuple(lines[first:end]), count))
            first = end
    return blocks


def disassembled(code: bytes, machine: str) -> list[str]:
    """The instructions of machine code, in LLVM's syntax; targets of branches are relative."""
    text = " ".join(f"0x{byte:02x}" for byte in code)
    options = ["--disassemble", f"--triple={_TRIPLES[machine]}", *(["-mattr=+all"] if machine == "aarch64" else [])]
    lines = _run("llvm-mc", options, text).splitlines()
    found = [" ".join(line.split("//")[0].split()) for line in lines]
    return [line for line in found if line and not line.startswith(".")]


@cache
def block_cycles(blocks: tuple[tuple[str, ...], ...], core: str, machine: str = "aarch64") -> tuple[float, ...]:
    """Cycles for one execution of each block on a core, if the block is repeated without end."""
    cycles: dict[int, float] = {}
    for iterations, least, end in _ITERATIONS:
        some = {number: block for number, block in enumerate(blocks) if least <= len(block) < end}
        cycles.update(_region_cycles(some, core, machine, iterations) if some else {})
    return tuple(cycles[number] for number in range(len(blocks)))


def _region_cycles(blocks: dict[int, tuple[str, ...]], core: str, machine: str, iterations: int) -> dict[int, float]:
    text = "".join(
        f"# LLVM-MCA-BEGIN {number}\n" + "\n".join(block) + f"\n# LLVM-MCA-END {number}\n"
        for number, block in blocks.items()
    )
    options = [f"-mtriple={_TRIPLES[machine]}", f"-mcpu={core}", f"-iterations={iterations}", "-json"]
    options += ["-instruction-info=0", "-resource-pressure=0"]
    options += ["-skip-unsupported-instructions=lack-sched"]
    regions = json.loads(_run("llvm-mca", options, text))["CodeRegions"]
    return {int(region["Name"]): region["SummaryView"]["TotalCycles"] / iterations for region in regions}


def _mnemonic(line: str) -> str:
    return line.split(maxsplit=1)[0]


@cache
def _tool(name: str) -> str | None:
    path = _LLVM / name
    return str(path) if path.exists() else shutil.which(f"{name}-19")


def _run(tool: str, options: Sequence[str], text: str) -> str:
    path = _tool(tool)
    if path is None:
        raise SystemExit(missing_tools())
    done = subprocess.run([path, *options], input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{tool} {' '.join(options)} failed: {done.stderr.strip().splitlines()[0]}")
    return done.stdout
