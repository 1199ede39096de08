"""What this machine can do at most: loops of nothing but the instructions that a convolution cannot do without.

Run ``python benchmarks/probes.py`` to print the limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.targets import CpuTarget, resolve

# Enough independent accumulators to hide every latency, few enough for 16 registers.
_ACCUMULATORS = 12
_STEPS = 65536


@dataclass(frozen=True, eq=False)
class Probe:
    """A loop of known work.

    Attributes:
        macs: Multiply-accumulates of one call.
        run: Runs the loop once.
    """

    macs: int
    run: Callable[[], None]


def popcount_probe(target: CpuTarget) -> Probe:
    """xor, popcount and add on registers: the limit of a binary convolution without any load or store."""
    isa = target.isa
    return Probe(
        _ACCUMULATORS * _STEPS * isa.vector_bits,
        _loop(target, isa.word, isa.word_lanes, lambda x, w: x + tirx.popcount(tirx.bitwise_xor(x, w))),
    )


def float_probe(target: CpuTarget) -> Probe:
    """Fused multiply-adds on registers: the limit of a float32 convolution."""
    lanes = target.isa.float_lanes
    return Probe(_ACCUMULATORS * _STEPS * lanes, _loop(target, "float32", lanes, lambda x, w: x * w + w))


def _loop(
    target: CpuTarget, dtype: str, lanes: int, step: Callable[[tirx.Expr, tirx.Expr], tirx.Expr]
) -> Callable[[], None]:
    """``x = step(x, w)`` on every accumulator, again and again."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("probe")
        data = T.arg("data", T.buffer((_ACCUMULATORS, lanes), dtype))
        accumulators = T.alloc_buffer((_ACCUMULATORS, lanes), dtype)
        vector = f"{dtype}x{lanes}"

        def store(buffer: tirx.Buffer, i: int, value: tirx.Expr) -> None:
            T.buffer_store(buffer, value, [i, tirx.Ramp(0, 1, lanes)])

        weight = T.bind(data.vload([0, 0], vector))
        for i in range(_ACCUMULATORS):
            store(accumulators, i, data.vload([i, 0], vector))
        with T.serial(0, _STEPS):
            for i in range(_ACCUMULATORS):
                store(accumulators, i, step(accumulators.vload([i, 0], vector), weight))
        for i in range(_ACCUMULATORS):
            store(data, i, accumulators.vload([i, 0], vector))
    run = tvm.compile(tvm.IRModule({"probe": builder.get()}), target.target)["probe"]
    start = tvm.runtime.tensor(np.ones((_ACCUMULATORS, lanes), dtype))
    return lambda: run(start)


def isa_line(isa: Isa) -> str:
    """The instruction set, as the tables show it."""
    return f"{isa.name}, {isa.vector_bits}-bit vectors"


if __name__ == "__main__":
    from timeit import repeat

    here = resolve("native")
    for name, probe in (("popcount", popcount_probe(here)), ("float32", float_probe(here))):
        print(f"{name:>10}: {probe.macs / min(repeat(probe.run, number=1, repeat=200)) * 1e-9:8.1f} G MAC/s")
