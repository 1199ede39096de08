"""Bit-sliced counters and carry-save adders.

Bit-sliced counters are many small integers whose l-th bits are stored together, in one vector (a *plane*).

A full adder turns three planes of weight 2^l into one of weight 2^l and one of weight 2^(l + 1). It costs two
instructions with AVX-512's ternary logic, three on NEON (eor, eor, bsl) and five elsewhere. Each full adder reduces the
number of planes by one, so n planes cost about n adders, whatever the order of the additions. The tree used here (by
Harley and Seal) keeps few planes live.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeAlias

from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Architecture, Isa
from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType, load, store

Plane: TypeAlias = Callable[[], tirx.Expr]
"""Emits a plane at the point of use: planes that are loaded early would fill the registers."""

Logic = Literal["xor", "and", "xor3", "majority", "carry_of_sum"]

# Truth tables for AVX-512's vpternlogq: bit 4 * a + 2 * b + c is the result.
_TABLES = {"xor3": 0x96, "majority": 0xE8, "carry_of_sum": 0x8E}

# The generic instructions; LLVM removes common subexpressions.
_STEPS = {
    "xor": ("%r = xor {t} %a, %b",),
    "and": ("%r = and {t} %a, %b",),
    "xor3": ("%d = xor {t} %a, %b", "%r = xor {t} %d, %c"),
    "majority": ("%d = xor {t} %a, %b", "%x = and {t} %d, %c", "%y = and {t} %a, %b", "%r = or {t} %x, %y"),
}

# bsl selects c where a and b differ, and a elsewhere. Inline assembly, because LLVM would rewrite it to the three
# logic instructions of _STEPS.
_BSL = ("%d = xor {t} %a, %b", '%r = call {t} asm "bsl $0.16b, $2.16b, $3.16b", "=w,0,w,w"({t} %d, {t} %c, {t} %a)')


@dataclass(frozen=True, eq=False)
class Adder:
    """Full and half adders on vectors of 64-bit words.

    Attributes:
        isa: The instruction set.
        words: 64-bit words per vector.
    """

    isa: Isa
    words: int

    @property
    def vector(self) -> VectorType:
        """The type of a plane."""
        return VectorType("uint64", self.words)

    def majority(self, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        """The carry of three bits."""
        return self._apply("majority", a, b, c)

    def full(self, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The sum of three bits and its carry."""
        total = self._apply("xor3", a, b, c)
        if self._has_ternary:
            # Compute the carry from the sum instead of ``a``. The sum may then overwrite ``a``, which saves a copy.
            return total, self._apply("carry_of_sum", total, b, c)
        return total, self._apply("majority", a, b, c)

    def half(self, a: tirx.Expr, b: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The sum of two bits and its carry."""
        return self._apply("xor", a, b), self._apply("and", a, b)

    def halves(self, value: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The low and the high half of a vector of ``2 * words`` words."""
        low, high = list(range(self.words)), list(range(self.words, 2 * self.words))
        return T.bind(tirx.Shuffle([value], low)), T.bind(tirx.Shuffle([value], high))

    @property
    def _has_ternary(self) -> bool:
        return self.isa.ternary_logic and self.words > 1

    def _apply(self, logic: Logic, *planes: tirx.Expr) -> tirx.Expr:
        ternary = self._has_ternary and logic in _TABLES
        return logic_function(logic, self.words, self.isa.architecture, ternary).call_once(*planes)


@cache
def logic_function(logic: Logic, words: int, architecture: Architecture, ternary: bool) -> LlvmFunction:
    """A bitwise function of two or three planes.

    Args:
        logic: The function.
        words: 64-bit words per plane.
        architecture: The architecture.
        ternary: Whether to use AVX-512's ternary logic.
    """
    vector = VectorType("uint64", words)
    kind = vector.llvm
    arguments = [f"{kind} %{name}" for name in ("ab" if logic in ("xor", "and") else "abc")]
    declare = ""
    if ternary:
        intrinsic = f"@llvm.x86.avx512.pternlog.q.{64 * words}"
        declare = f"declare {kind} {intrinsic}({kind}, {kind}, {kind}, i32)\n"
        lines = [f"%r = call {kind} {intrinsic}({', '.join(arguments)}, i32 {_TABLES[logic]})"]
    else:
        select = logic == "majority" and architecture == "aarch64" and words == 2
        lines = [step.format(t=kind) for step in (_BSL if select else _STEPS[logic])]
    name = f"sbnn_{logic}_{words}{'_ternary' if ternary else ''}"
    return LlvmFunction.of(name, vector, arguments, [*lines, f"ret {kind} %r"], declare)


@dataclass(eq=False)
class Counters:
    """The counters of one channel: ``levels`` planes in registers. They wrap around on overflow.

    Attributes:
        adder: Adds planes.
        levels: Number of planes.
    """

    adder: Adder
    levels: int
    _planes: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        self._planes = T.alloc_buffer((self.levels, self.adder.words), "uint64")

    def __getitem__(self, level: int) -> tirx.Expr:
        return T.bind(load(self._planes, (level,), 0, self.adder.words))

    def __setitem__(self, level: int, plane: tirx.Expr) -> None:
        store(self._planes, plane, (level,), 0)

    @property
    def planes(self) -> list[tirx.Expr]:
        """All planes, lowest first."""
        return [self[level] for level in range(self.levels)]

    def start(self, planes: Sequence[tirx.Expr] = ()) -> None:
        """Initialise the counters, by default with 0."""
        for level in range(self.levels):
            self[level] = planes[level] if planes else self.adder.vector.constant(0)

    def add(self, planes: Sequence[Plane], small: bool = False) -> None:
        """Add planes of weight 1.

        Args:
            planes: 1, 2, 4, 8, ... functions, each of which emits a plane at the point of use.
            small: Whether the counters are known to be less than ``len(planes)``. Carries then need not ripple.
        """
        end = min(len(planes).bit_length() - 1, self.levels)
        waiting: list[list[tirx.Expr]] = [[] for _ in range(self.levels + 1)]

        def push(at: int, plane: tirx.Expr) -> None:
            waiting[at].append(plane)
            if at < end and len(waiting[at]) == 3:
                total, carry = self.adder.full(*waiting[at])
                waiting[at] = [total]
                push(at + 1, carry)

        for plane in planes:
            push(0, plane())
        # Add the counters last: then only one adder per level depends on the previous block.
        for at in range(end):
            push(at, self[at])
            (self[at],) = waiting[at]
        for carry in waiting[end] if end < self.levels else []:
            if small:
                self[end] = carry
            else:
                self._ripple(end, carry)

    def add_number(self, planes: Sequence[tirx.Expr], first: int = 0) -> None:
        """Add bit-sliced integers times ``2^first``, lowest plane first."""
        carry = None
        for at, plane in enumerate(planes, first):
            if carry is None:
                self[at], carry = self.adder.half(self[at], plane)
            else:
                self[at], carry = self.adder.full(self[at], plane, carry)
        if carry is not None:
            self._ripple(first + len(planes), carry)

    def _ripple(self, level: int, carry: tirx.Expr) -> None:
        for at in range(level, self.levels):
            self[at], carry = self.adder.half(self[at], carry)


@cache
def load_plane(words: int, unit: int) -> LlvmFunction:
    """Load a plane from a pointer and an offset. The pointer stays in a register, which TIR cannot express.

    Args:
        words: 64-bit words per plane.
        unit: Unit of the offset, in 64-bit words; free if an addressing mode can scale by it.
    """
    vector = VectorType("uint64", words)
    lines = [
        f"%at = getelementptr [{unit} x i64], ptr %vector, i64 %offset",
        f"%r = load {vector.llvm}, ptr %at, align 8",
        f"ret {vector.llvm} %r",
    ]
    return LlvmFunction.of(f"sbnn_load_plane_{words}_{unit}", vector, ["ptr %vector", "i64 %offset"], lines)


@cache
def load_pieces(count: int, unit: int) -> LlvmFunction:
    """Load ``count`` words at given offsets from a pointer into one vector, with AVX-512.

    Each word after the first is loaded by a masked broadcast: one instruction, on any load port. If LLVM knew the
    masks, it would shuffle pairs of words instead, and only one port can shuffle. So the masks come from inline
    assembly.

    Args:
        count: Number of words, 2 or 4.
        unit: Unit of the offsets, in 64-bit words.
    """
    kind, lanes = f"<{count} x i64>", f"<{count} x i1>"
    order = ", ".join(f"i32 {i}" for i in range(count))
    lines = []
    for i in range(count):
        lines += [
            f"%at{i} = getelementptr [{unit} x i64], ptr %vector, i64 %offset{i}",
            f"%word{i} = load i64, ptr %at{i}, align 8",
        ]
    lines.append(f"%r0 = insertelement {kind} zeroinitializer, i64 %word0, i32 0")
    for i in range(1, count):
        lines += [
            f'%mask{i} = call i8 asm "movl $${1 << i}, ${{0:k}}", "=r"() memory(none) nounwind willreturn',
            f"%bits{i} = bitcast i8 %mask{i} to <8 x i1>",
            f"%lanes{i} = shufflevector <8 x i1> %bits{i}, <8 x i1> poison, <{count} x i32> <{order}>",
            f"%one{i} = insertelement {kind} poison, i64 %word{i}, i32 0",
            f"%all{i} = shufflevector {kind} %one{i}, {kind} poison, <{count} x i32> zeroinitializer",
            f"%r{i} = select {lanes} %lanes{i}, {kind} %all{i}, {kind} %r{i - 1}",
        ]
    lines.append(f"ret {kind} %r{count - 1}")
    arguments = ["ptr %vector", *(f"i64 %offset{i}" for i in range(count))]
    return LlvmFunction.of(f"sbnn_load_pieces_{count}_{unit}", VectorType("uint64", count), arguments, lines)
