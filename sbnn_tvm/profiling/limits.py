"""The limits of this machine on one thread, measured with loops of only the instructions that a kernel cannot avoid."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.counters.adders import logic_function
from sbnn_tvm.schedules.direct.popcount_lookup import lookup
from sbnn_tvm.schedules.direct.popcount_threes import COUNT
from sbnn_tvm.schedules.direct.tiles import THREE
from sbnn_tvm.schedules.int8.products import SDOT, SMMLA, add_quads, sum_of_byte_pairs, sum_of_bytes, sum_of_pairs
from sbnn_tvm.schedules.isa import IntegerProducts, PopcountMethod
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.tir.kernel_builder import KernelBuilder
from sbnn_tvm.schedules.tir.vectors import load, store

from ..deploy.targets import CpuTarget
from .timing import interleave

# Enough independent accumulators to hide every latency, and few enough for 16 registers.
_ACCUMULATORS = 12
_STEPS = 65536

# Working sets that fit easily into the caches of every CPU of the last ten years.
_L1_BYTES = 16 * 1024
_L2_BYTES = 192 * 1024

_Vectors = list[tirx.Expr]


@dataclass(frozen=True, eq=False)
class Probe:
    """A loop with a known amount of work.

    Attributes:
        name: Name of the limit.
        instructions: The instructions of the loop.
        work: Work of one call, in ``unit``.
        unit: ``"MAC"`` (multiply-accumulates), ``"set MAC"`` (only those of set weights) or ``"byte"``.
        run: Runs the loop once.
    """

    name: str
    instructions: str
    work: int
    unit: str
    run: Callable[[], None]


@dataclass(frozen=True)
class Limit:
    """The result of a probe: work per second."""

    name: str
    instructions: str
    per_second: float
    unit: str


def popcount_probe(target: CpuTarget) -> Probe:
    """Count differing bits in registers: the limit of a binary convolution without loads and stores.

    The instructions are xor, popcount and add, or their combination for three words at once. Where these are faster,
    they are two byte shuffles and two additions.
    """
    isa = target.isa
    if isa.popcount == PopcountMethod.LOOKUP:
        lanes = isa.vector_bits // 8
        choose = lookup(lanes)

        def look_up(sums: _Vectors, w: tirx.Expr) -> _Vectors:
            tables = [tirx.Shuffle([w], list(range(first, first + 16))) for first in (0, lanes - 16)]
            return [x + (choose(tables[0], x) + choose(tables[1], x)) for x in sums]

        run = _register_loop(target, "uint8", lanes, look_up)
        return Probe("popcount", "2 shuffle, 2 add", _ACCUMULATORS * _STEPS * isa.vector_bits, "MAC", run)

    if isa.popcount_of_threes:

        def count(sums: _Vectors, w: tirx.Expr) -> _Vectors:
            weights = [w, w + w, ~w]
            return [COUNT(x, x, x, x, *weights) for x in sums]

        run = _register_loop(target, isa.word, isa.word_lanes, count)
        instructions = "4 xor or ternary, 2 popcount, add, multiply-add"
        return Probe("popcount", instructions, THREE * _ACCUMULATORS * _STEPS * isa.vector_bits, "MAC", run)

    def step(sums: _Vectors, w: tirx.Expr) -> _Vectors:
        return [x + tirx.popcount(tirx.bitwise_xor(x, w)) for x in sums]

    run = _register_loop(target, isa.word, isa.word_lanes, step)
    return Probe("popcount", "xor, popcount, add", _ACCUMULATORS * _STEPS * isa.vector_bits, "MAC", run)


def float_probe(target: CpuTarget) -> Probe:
    """Fused multiply-adds in registers: the limit of a float32 convolution."""
    lanes = target.isa.float_lanes
    run = _register_loop(target, "float32", lanes, lambda sums, w: [x * w + w for x in sums])
    return Probe("float32", "multiply-add", _ACCUMULATORS * _STEPS * lanes, "MAC", run)


def integer_probe(target: CpuTarget) -> Probe:
    """Products of bytes, or of 16-bit numbers, added in registers: the limit of a convolution of bytes."""
    isa, lanes = target.isa, target.isa.float_lanes
    match isa.products:
        case IntegerProducts.QUADS:
            add = add_quads(lanes)
            step, products, name = (lambda x, w: add(x, x, w)), 4, "dot product of four bytes"
        case IntegerProducts.LANES:
            step, products, name = (lambda x, w: SDOT(x, x, w)), 4, "dot product of four bytes"
        case IntegerProducts.MATRICES:
            step, products, name = (lambda x, w: SMMLA(x, x, w)), 8, "product of matrices of 2x8 bytes"
        case IntegerProducts.PAIRS if isa.architecture == "x86" and isa.vector_bits > 128:
            sums = sum_of_byte_pairs(lanes)
            step, products, name = (lambda x, w: x + sums(x, w)), 4, "sums of pairs of bytes, of pairs of these, add"
        case IntegerProducts.PAIRS:
            sums = sum_of_pairs(lanes, isa.architecture)
            step, products, name = (lambda x, w: x + sums(x, w)), 2, "dot product of two 16-bit numbers, add"
        case IntegerProducts.BYTES:
            sums = sum_of_bytes(isa.architecture)
            step, products, name = (lambda x, w: x + sums(x, w)), 4, "2 multiply, add pairs"
        case _:
            step, products, name = (lambda x, w: w + x * w), 1, "multiply-add of 32 bits"
    run = _register_loop(target, "int32", lanes, lambda sums, w: [step(x, w) for x in sums])
    return Probe("int8", name, products * _ACCUMULATORS * _STEPS * lanes, "MAC", run)


def adder_probe(target: CpuTarget) -> Probe:
    """Full adders in registers: the limit of counters in bit planes, which need one adder per counted plane.

    An adder is two ternary-logic instructions on AVX-512; eor, eor and bsl on NEON; elsewhere five bitwise
    instructions.
    """
    isa = target.isa
    if isa.ternary_logic:
        majority = logic_function("majority", 8, isa.architecture, ternary=True)
        run = _register_loop(target, isa.word, 8, lambda planes, w: [majority(x, w, ~w) for x in planes])
        return Probe("full adder", "2 ternary logic", _ACCUMULATORS * _STEPS * isa.vector_bits // 2, "set MAC", run)

    def step(planes: _Vectors, w: tirx.Expr) -> _Vectors:
        added = []
        for ones, twos in zip(planes[::2], planes[1::2], strict=True):
            differ = T.bind(ones ^ twos)
            added += [T.bind(differ ^ w), T.bind((differ & w) | (~differ & ones))]
        return added

    run = _register_loop(target, isa.word, isa.word_lanes, step)
    name = "5 bitwise" if isa.architecture == "x86" else "eor, eor, bsl"
    return Probe("full adder", name, _ACCUMULATORS // 2 * _STEPS * isa.vector_bits, "set MAC", run)


def load_probe(target: CpuTarget, size: int, cache: str) -> Probe:
    """Loads of full vectors from the same ``size`` bytes, repeated."""
    isa = target.isa
    vectors, passes = size * 8 // isa.vector_bits, (64 << 20) // size
    with KernelBuilder("probe") as builder:
        data = builder.data((vectors, isa.word_lanes), isa.word)
        result = builder.output((_ACCUMULATORS, isa.word_lanes), isa.word)
        registers = _Registers(isa.word, isa.word_lanes)
        registers.put(registers.get(result))
        with T.serial(0, passes), T.serial(0, vectors // _ACCUMULATORS) as i:
            loaded = registers.get(data, i * _ACCUMULATORS)
            registers.put([x ^ y for x, y in zip(registers.get(), loaded, strict=True)])
        registers.put(registers.get(), result)
    arrays = [np.ones((rows, isa.word_lanes), isa.word) for rows in (vectors, _ACCUMULATORS)]
    work = vectors // _ACCUMULATORS * _ACCUMULATORS * passes * isa.vector_bits // 8
    return Probe(f"loads, {cache}", "xor with memory", work, "byte", _compiled(target, builder.kernel(), arrays))


def probes(target: CpuTarget) -> list[Probe]:
    """All probes."""
    loads = [load_probe(target, size, cache) for size, cache in ((_L1_BYTES, "L1"), (_L2_BYTES, "L2"))]
    return [popcount_probe(target), float_probe(target), integer_probe(target), adder_probe(target), *loads]


class _Registers:
    """Vectors that the code generator keeps in registers."""

    def __init__(self, dtype: str, lanes: int) -> None:
        self.lanes = lanes
        self._buffer = T.alloc_buffer((_ACCUMULATORS, lanes), dtype)

    def get(self, source: tirx.Buffer | None = None, first: tirx.Expr | int = 0) -> _Vectors:
        """The registers, or rows of a buffer."""
        buffer = self._buffer if source is None else source
        return [load(buffer, (first + i,), 0, self.lanes) for i in range(_ACCUMULATORS)]

    def put(self, values: _Vectors, target: tirx.Buffer | None = None) -> None:
        """Set the registers, or rows of a buffer."""
        for i, value in enumerate(values):
            store(self._buffer if target is None else target, value, (i,), 0)


def _register_loop(
    target: CpuTarget, dtype: str, lanes: int, step: Callable[[_Vectors, tirx.Expr], _Vectors]
) -> Callable[[], None]:
    """A loop of ``registers = step(registers, w)``."""
    with KernelBuilder("probe") as builder:
        data = builder.data((_ACCUMULATORS, lanes), dtype)
        registers = _Registers(dtype, lanes)
        weight = T.bind(load(data, (0,), 0, lanes))
        registers.put(registers.get(data))
        with T.serial(0, _STEPS):
            registers.put(step(registers.get(), weight))
        registers.put(registers.get(), data)
    return _compiled(target, builder.kernel(), [np.ones((_ACCUMULATORS, lanes), dtype)])


def _compiled(target: CpuTarget, kernel: Kernel, arrays: list[np.ndarray]) -> Callable[[], None]:
    run = tvm.compile(tvm.IRModule({"probe": kernel.func}), target.target)["probe"]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    return lambda: run(*tensors)


def measure(probes: Iterable[Probe], seconds: float) -> dict[str, Limit]:
    """Run probes in turns, ``seconds`` for all together; returns the limits by name."""
    found = {probe.name: probe for probe in probes}
    times = interleave({name: probe.run for name, probe in found.items()}, seconds)
    return {
        name: Limit(name, probe.instructions, probe.work / times[name].minimum, probe.unit)
        for name, probe in found.items()
    }
