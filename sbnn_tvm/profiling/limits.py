"""What this machine can do at most, on one thread: loops of nothing but the instructions a kernel cannot do without."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.direct.popcount_lookup import lookup
from sbnn_tvm.schedules.direct.popcount_threes import COUNT
from sbnn_tvm.schedules.direct.tiles import THREE
from sbnn_tvm.schedules.isa import AVX512_VPOPCNTDQ
from sbnn_tvm.schedules.tir.llvm import LlvmFunction, link

from ..deploy.targets import CpuTarget
from .timing import interleave

# Enough independent accumulators to hide every latency, few enough for 16 registers.
_ACCUMULATORS = 12
_STEPS = 65536

# Working sets that fit the caches of every CPU of the last ten years, with room to spare.
_L1_BYTES = 16 * 1024
_L2_BYTES = 192 * 1024

_Vectors = list[tirx.Expr]


@dataclass(frozen=True, eq=False)
class Probe:
    """A loop of known work.

    Attributes:
        name: What is measured.
        instructions: What the loop consists of.
        work: Units of one call.
        unit: ``"MAC"``, multiply-accumulates; ``"set MAC"``, those with set weights only; or ``"byte"``.
        run: Runs the loop once.
    """

    name: str
    instructions: str
    work: int
    unit: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Limit:
    """What a probe found: units of work a second."""

    name: str
    instructions: str
    per_second: float
    unit: str


def popcount_probe(target: CpuTarget) -> Probe:
    """What counts differing bits, on registers: the limit of a binary convolution without any load or store.

    xor, popcount and add, or these of three words at once; or two byte shuffles and two additions, where those are
    faster.
    """
    isa = target.isa
    if isa.popcount_by_lookup:
        lanes = isa.vector_bits // 8
        choose = lookup(lanes)

        def look_up(sums: _Vectors, w: tirx.Expr) -> _Vectors:
            tables = [tirx.Shuffle([w], list(range(first, first + 16))) for first in (0, lanes - 16)]
            return [x + (choose(tables[0], x) + choose(tables[1], x)) for x in sums]

        run = _register_loop(target, "uint8", lanes, look_up, [choose])
        return Probe("popcount", "2 shuffle, 2 add", _ACCUMULATORS * _STEPS * isa.vector_bits, "MAC", run)

    if isa == AVX512_VPOPCNTDQ:

        def count(sums: _Vectors, w: tirx.Expr) -> _Vectors:
            weights = [w, w + w, ~w]
            return [COUNT(x, x, x, x, *weights) for x in sums]

        run = _register_loop(target, isa.word, isa.word_lanes, count, [COUNT])
        instructions = "4 xor or ternary, 2 popcount, add, multiply-add"
        return Probe("popcount", instructions, THREE * _ACCUMULATORS * _STEPS * isa.vector_bits, "MAC", run)

    def step(sums: _Vectors, w: tirx.Expr) -> _Vectors:
        return [x + tirx.popcount(tirx.bitwise_xor(x, w)) for x in sums]

    run = _register_loop(target, isa.word, isa.word_lanes, step)
    return Probe("popcount", "xor, popcount, add", _ACCUMULATORS * _STEPS * isa.vector_bits, "MAC", run)


def float_probe(target: CpuTarget) -> Probe:
    """Fused multiply-adds on registers: the limit of a float32 convolution."""
    lanes = target.isa.float_lanes
    run = _register_loop(target, "float32", lanes, lambda sums, w: [x * w + w for x in sums])
    return Probe("float32", "multiply-add", _ACCUMULATORS * _STEPS * lanes, "MAC", run)


def adder_probe(target: CpuTarget) -> Probe:
    """Full adders on registers: the limit of counters in bit planes, one adder for every plane that is counted.

    Two ternary-logic instructions on AVX-512, eor, eor and bsl on NEON, five bitwise instructions elsewhere.
    """
    isa = target.isa
    if isa.family == "x86" and isa.vector_bits == 512:
        majority = _majority()
        run = _register_loop(target, isa.word, 8, lambda planes, w: [majority(x, w, ~w) for x in planes], [majority])
        return Probe("full adder", "2 ternary logic", _ACCUMULATORS * _STEPS * isa.vector_bits // 2, "set MAC", run)

    def step(planes: _Vectors, w: tirx.Expr) -> _Vectors:
        added = []
        for ones, twos in zip(planes[::2], planes[1::2], strict=True):
            differ = T.bind(ones ^ twos)
            added += [T.bind(differ ^ w), T.bind((differ & w) | (~differ & ones))]
        return added

    run = _register_loop(target, isa.word, isa.word_lanes, step)
    name = "5 bitwise" if isa.family == "x86" else "eor, eor, bsl"
    return Probe("full adder", name, _ACCUMULATORS // 2 * _STEPS * isa.vector_bits, "set MAC", run)


def load_probe(target: CpuTarget, size: int, cache: str) -> Probe:
    """Loads of full vectors, from ``size`` bytes again and again."""
    isa = target.isa
    vectors, passes = size * 8 // isa.vector_bits, (64 << 20) // size
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("probe")
        data = T.arg("data", T.buffer((vectors, isa.word_lanes), isa.word))
        result = T.arg("result", T.buffer((_ACCUMULATORS, isa.word_lanes), isa.word))
        registers = _Registers(isa.word, isa.word_lanes)
        registers.put([result.vload([i, 0], registers.vector) for i in range(_ACCUMULATORS)])
        with T.serial(0, passes), T.serial(0, vectors // _ACCUMULATORS) as i:
            loaded = [data.vload([i * _ACCUMULATORS + j, 0], registers.vector) for j in range(_ACCUMULATORS)]
            registers.put([x ^ y for x, y in zip(registers.get(), loaded, strict=True)])
        registers.store(result)
    arrays = [np.ones((rows, isa.word_lanes), isa.word) for rows in (vectors, _ACCUMULATORS)]
    work = vectors // _ACCUMULATORS * _ACCUMULATORS * passes * isa.vector_bits // 8
    return Probe(f"loads, {cache}", "xor with memory", work, "byte", _compiled(target, builder.get(), arrays))


def probes(target: CpuTarget) -> list[Probe]:
    """All of them."""
    loads = [load_probe(target, size, cache) for size, cache in ((_L1_BYTES, "L1"), (_L2_BYTES, "L2"))]
    return [popcount_probe(target), float_probe(target), adder_probe(target), *loads]


def _majority() -> LlvmFunction:
    """The carry of a full adder, in one instruction of AVX-512."""
    vector, intrinsic = "<8 x i64>", "@llvm.x86.avx512.pternlog.q.512"
    text = (
        f"declare {vector} {intrinsic}({vector}, {vector}, {vector}, i32)\n"
        f"define linkonce_odr {vector} @probe_majority({vector} %a, {vector} %b, {vector} %c) alwaysinline {{\n"
        f"  %r = call {vector} {intrinsic}({vector} %a, {vector} %b, {vector} %c, i32 {0b11101000})\n"
        f"  ret {vector} %r\n}}\n"
    )
    return LlvmFunction("probe_majority", "uint64x8", text)


class _Registers:
    """Vectors that the code generator keeps in registers."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.lanes, self.vector = lanes, f"{dtype}x{lanes}"
        self._buffer = T.alloc_buffer((_ACCUMULATORS, lanes), dtype)

    def get(self) -> _Vectors:
        return [self._buffer.vload([i, 0], self.vector) for i in range(_ACCUMULATORS)]

    def put(self, values: _Vectors, to: tirx.Buffer | None = None) -> None:
        buffer = self._buffer if to is None else to
        for i, value in enumerate(values):
            T.buffer_store(buffer, value, [i, tirx.Ramp(0, 1, self.lanes)])

    def store(self, to: tirx.Buffer) -> None:
        self.put(self.get(), to)


def _register_loop(
    target: CpuTarget,
    dtype: str,
    lanes: int,
    step: Callable[[_Vectors, tirx.Expr], _Vectors],
    functions: Iterable[LlvmFunction] = (),
) -> Callable[[], None]:
    """``registers = step(registers, w)``, again and again."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("probe")
        data = T.arg("data", T.buffer((_ACCUMULATORS, lanes), dtype))
        registers = _Registers(dtype, lanes)
        weight = T.bind(data.vload([0, 0], registers.vector))
        registers.put([data.vload([i, 0], registers.vector) for i in range(_ACCUMULATORS)])
        with T.serial(0, _STEPS):
            registers.put(step(registers.get(), weight))
        registers.store(data)
    return _compiled(target, link(builder.get(), functions), [np.ones((_ACCUMULATORS, lanes), dtype)])


def _compiled(target: CpuTarget, func: tirx.PrimFunc, arrays: list[np.ndarray]) -> Callable[[], None]:
    run = tvm.compile(tvm.IRModule({"probe": func}), target.target)["probe"]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    return lambda: run(*tensors)


def measure(probes: Iterable[Probe], seconds: float) -> dict[str, Limit]:
    """Run probes in turn, ``seconds`` for all of them; the limits by name."""
    found = {probe.name: probe for probe in probes}
    times = interleave({name: probe.run for name, probe in found.items()}, seconds)
    return {
        name: Limit(name, probe.instructions, probe.work / times[name].minimum, probe.unit)
        for name, probe in found.items()
    }
