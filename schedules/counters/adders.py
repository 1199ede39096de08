"""Bit-sliced counters: many small integers, the l-th bit of all of them in one vector, and carry-save adders.

A full adder takes three planes of weight 2^l to one of weight 2^l and one of weight 2^(l + 1): two instructions with
AVX-512's ternary logic, three on NEON (eor, eor, bsl), five elsewhere. Every adder takes one plane out of circulation,
so that n planes cost about n adders whatever the tree; the one here (Harley's and Seal's) keeps few of them alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, TypeAlias

import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Family, Isa
from ..tir.llvm import LlvmFunction

Plane: TypeAlias = Callable[[], tirx.Expr]
"""Makes a plane where it is needed: early ones would fill the registers."""

Logic = Literal["xor", "and", "xor3", "majority", "carry_of_sum"]

# Bit 4 * a + 2 * b + c is the result: AVX-512's vpternlogq.
_TABLES = {"xor3": 0x96, "majority": 0xE8, "carry_of_sum": 0x8E}

# In general; LLVM finds what two of them have in common.
_STEPS = {
    "xor": ("%r = xor {t} %a, %b",),
    "and": ("%r = and {t} %a, %b",),
    "xor3": ("%d = xor {t} %a, %b", "%r = xor {t} %d, %c"),
    "majority": ("%d = xor {t} %a, %b", "%x = and {t} %d, %c", "%y = and {t} %a, %b", "%r = or {t} %x, %y"),
}

# One instruction chooses c where a and b differ, and a elsewhere; LLVM would rewrite it to the three above.
_BSL = ("%d = xor {t} %a, %b", '%r = call {t} asm "bsl $0.16b, $2.16b, $3.16b", "=w,0,w,w"({t} %d, {t} %c, {t} %a)')


@dataclass(eq=False)
class Adder:
    """Full and half adders on vectors of 64-bit words.

    Attributes:
        isa: The instruction set.
        words: 64-bit words in a vector.
        functions: The LLVM functions used so far; the finished kernel needs llvm.link with them.
    """

    isa: Isa
    words: int
    functions: set[LlvmFunction] = field(default_factory=set, init=False)

    def majority(self, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        """The carry of three bits."""
        return self._apply("majority", a, b, c)

    def full(self, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The sum of three bits and its carry."""
        total = self._apply("xor3", a, b, c)
        if self._has_ternary:
            # From the sum, not from ``a``, which the sum may overwrite then: that saves copying a register.
            return total, self._apply("carry_of_sum", total, b, c)
        return total, self._apply("majority", a, b, c)

    def half(self, a: tirx.Expr, b: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The sum of two bits and its carry."""
        return self._apply("xor", a, b), self._apply("and", a, b)

    def halves(self, value: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The low and the high words of a vector twice as long."""
        low, high = list(range(self.words)), list(range(self.words, 2 * self.words))
        return T.bind(tirx.Shuffle([value], low)), T.bind(tirx.Shuffle([value], high))

    @property
    def _has_ternary(self) -> bool:
        return self.isa.name.startswith("avx512") and self.words > 1

    def _apply(self, logic: Logic, *planes: tirx.Expr) -> tirx.Expr:
        function = logic_function(logic, self.words, self.isa.family, self._has_ternary and logic in _TABLES)
        self.functions.add(function)
        return call_once(function, *planes)


def call_once(function: LlvmFunction, *args: tirx.Expr) -> tirx.Expr:
    """The result of a call, made once: TIR copies what is pure to all its uses, and a tree of adders explodes.

    It goes through memory, of which LLVM makes a register: whatever is bound to a variable TVM's code generator
    simplifies with all that it is made of, which takes exponential time in such a tree.
    """
    words = tvm.DataType(function.result).lanes
    # The default layout is None too in s_tir, but TVM would look for the enclosing function each time.
    cell = T.alloc_buffer((words,), "uint64", layout=None)
    store_words(cell, T.call_extern(function.result, function.name, *args), [0])
    return load_words(cell, [0], words)


@cache
def logic_function(logic: Logic, words: int, family: Family, ternary: bool) -> LlvmFunction:
    """A function of two or three planes.

    Args:
        logic: Which one.
        words: 64-bit words in a plane.
        family: The architecture.
        ternary: Whether to take AVX-512's ternary logic.
    """
    kind = f"<{words} x i64>" if words > 1 else "i64"
    arguments = ", ".join(f"{kind} %{name}" for name in ("ab" if logic in ("xor", "and") else "abc"))
    declare = ""
    if ternary:
        intrinsic = f"@llvm.x86.avx512.pternlog.q.{64 * words}"
        declare = f"declare {kind} {intrinsic}({kind}, {kind}, {kind}, i32)\n"
        lines = [f"%r = call {kind} {intrinsic}({arguments}, i32 {_TABLES[logic]})"]
    else:
        select = logic == "majority" and family == "aarch64" and words == 2
        lines = [step.format(t=kind) for step in (_BSL if select else _STEPS[logic])]
    name = f"sbnn_{logic}_{words}{'_ternary' if ternary else ''}"
    body = "\n  ".join([*lines, f"ret {kind} %r"])
    text = f"{declare}define linkonce_odr {kind} @{name}({arguments}) alwaysinline {{\n  {body}\n}}\n"
    return LlvmFunction(name, words_dtype(words), text)


@dataclass(eq=False)
class Counters:
    """The counters of one channel: ``levels`` planes, in registers. What they cannot hold is lost.

    Attributes:
        adder: Adds planes.
        levels: Planes of the counters.
    """

    adder: Adder
    levels: int
    _planes: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        self._planes = T.alloc_buffer((self.levels, self.adder.words), "uint64")

    def __getitem__(self, level: int) -> tirx.Expr:
        return T.bind(load_words(self._planes, [level, 0], self.adder.words))

    def __setitem__(self, level: int, plane: tirx.Expr) -> None:
        store_words(self._planes, plane, [level, 0])

    @property
    def planes(self) -> list[tirx.Expr]:
        """All planes, lowest first."""
        return [self[level] for level in range(self.levels)]

    def start(self, planes: Sequence[tirx.Expr] = ()) -> None:
        """Set the planes, by default to 0."""
        for level in range(self.levels):
            self[level] = planes[level] if planes else words_of(0, self.adder.words)

    def add(self, planes: Sequence[Plane], small: bool = False) -> None:
        """Add planes of weight 1.

        Args:
            planes: 1, 2, 4, 8 ... functions that make a plane where it is needed.
            small: Whether the counters are known to be less than ``len(planes)``: then no carry has to ripple.
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
        # The counters come last: only one adder a level waits for the block before.
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


def words_dtype(words: int) -> str:
    """dtype of a vector of 64-bit words, or of a word."""
    return f"uint64x{words}" if words > 1 else "uint64"


def load_words(buffer: tirx.Buffer, position: list[tirx.Expr | int], words: int) -> tirx.Expr:
    """A vector of 64-bit words, or a word."""
    return buffer.vload(position, words_dtype(words)) if words > 1 else buffer[tuple(position)]


def store_words(buffer: tirx.Buffer, value: tirx.Expr, position: list[tirx.Expr | int]) -> None:
    """Emit a store of a vector of 64-bit words, or of a word."""
    words = value.ty.dtype.lanes
    T.buffer_store(buffer, value, [*position[:-1], tirx.Ramp(position[-1], 1, words)] if words > 1 else position)


def words_of(value: int, words: int) -> tirx.Expr:
    """A constant in all 64-bit words of a vector, or a word."""
    scalar = tirx.const(value, "uint64")
    return tirx.Broadcast(scalar, words) if words > 1 else scalar


@cache
def load_plane(words: int, unit: int) -> LlvmFunction:
    """A plane from a pointer and an offset: the pointer stays in a register, which TIR cannot say.

    Args:
        words: 64-bit words in the plane.
        unit: 64-bit words that an offset counts; what an addressing mode scales by costs nothing.
    """
    kind = f"<{words} x i64>" if words > 1 else "i64"
    name = f"sbnn_load_plane_{words}_{unit}"
    text = (
        f"define linkonce_odr {kind} @{name}(ptr %vector, i64 %offset) alwaysinline {{\n"
        f"  %at = getelementptr [{unit} x i64], ptr %vector, i64 %offset\n"
        f"  %r = load {kind}, ptr %at, align 8\n  ret {kind} %r\n}}\n"
    )
    return LlvmFunction(name, words_dtype(words), text)


@cache
def load_pieces(count: int, unit: int) -> LlvmFunction:
    """Words at ``count`` offsets from a pointer, side by side in a vector, by AVX-512.

    All but the first come by masked broadcasts, an instruction each on any port. LLVM would shuffle pairs of words, for
    which there is one port; so it must not know the masks.

    Args:
        count: Words, 2 or 4.
        unit: 64-bit words that an offset counts.
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
    name, body = f"sbnn_load_pieces_{count}_{unit}", "\n  ".join(lines)
    arguments = ", ".join(f"i64 %offset{i}" for i in range(count))
    text = f"define linkonce_odr {kind} @{name}(ptr %vector, {arguments}) alwaysinline {{\n  {body}\n}}\n"
    return LlvmFunction(name, f"uint64x{count}", text)
