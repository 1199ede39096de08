"""Bit-sliced counters: many small integers, the l-th bit of all of them in one vector, and carry-save adders.

A full adder takes three planes of weight 2^l to one of weight 2^l and one of weight 2^(l + 1): two instructions with
AVX-512's ternary logic, three on NEON (eor, eor, bsl), five elsewhere. Every adder takes one plane out of circulation,
so that n planes cost about n adders whatever the tree; the one here (Harley and Seal's) keeps few of them alive.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache

from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.llvm import LlvmFunction

XOR3 = 0x96
MAJORITY = 0xE8


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

    def xor3(self, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        """The sum of three bits, without its carry."""
        return T.bind(self._ternary(XOR3, a, b, c) if self._has_ternary else a ^ b ^ c)

    def majority(self, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        """The carry of three bits."""
        if self._has_ternary:
            return T.bind(self._ternary(MAJORITY, a, b, c))
        return T.bind(_choose(a ^ b, c, a))

    def full(self, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The sum of three bits and its carry."""
        if self._has_ternary:
            return self.xor3(a, b, c), self.majority(a, b, c)
        differ = T.bind(a ^ b)
        return T.bind(differ ^ c), T.bind(_choose(differ, c, a))

    def half(self, a: tirx.Expr, b: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The sum of two bits and its carry."""
        return T.bind(a ^ b), T.bind(a & b)

    @property
    def _has_ternary(self) -> bool:
        return self.isa.name.startswith("avx512") and self.words > 1

    def _ternary(self, table: int, a: tirx.Expr, b: tirx.Expr, c: tirx.Expr) -> tirx.Expr:
        function = ternary(table, self.words)
        self.functions.add(function)
        return function(a, b, c)


def _choose(condition: tirx.Expr, yes: tirx.Expr, no: tirx.Expr) -> tirx.Expr:
    """Bit by bit; NEON has an instruction for it, and LLVM finds it."""
    return (condition & yes) | (~condition & no)


@cache
def ternary(table: int, words: int) -> LlvmFunction:
    """Any function of three bits, AVX-512's vpternlogq.

    Args:
        table: Bit ``4 * a + 2 * b + c`` is the result.
        words: 64-bit words in a vector: 2, 4 or 8.
    """
    vector, bits = f"<{words} x i64>", 64 * words
    intrinsic = f"@llvm.x86.avx512.pternlog.q.{bits}"
    name = f"sbnn_ternary_{table:02x}_{bits}"
    text = (
        f"declare {vector} {intrinsic}({vector}, {vector}, {vector}, i32)\n"
        f"define linkonce_odr {vector} @{name}({vector} %a, {vector} %b, {vector} %c) alwaysinline {{\n"
        f"  %r = call {vector} {intrinsic}({vector} %a, {vector} %b, {vector} %c, i32 {table})\n  ret {vector} %r\n}}\n"
    )
    return LlvmFunction(name, f"uint64x{words}", text)


@dataclass(eq=False)
class Counters:
    """The counters of one channel: ``levels`` planes, in registers.

    Attributes:
        adder: Adds planes.
        levels: Planes; carries out of the last one are OR-ed into one more, ``overflow``, if there is one.
        overflow: Whether there is.
    """

    adder: Adder
    levels: int
    overflow: bool
    _planes: tirx.Buffer = field(init=False)

    def __post_init__(self) -> None:
        self._planes = T.alloc_buffer((self.levels + self.overflow, self.adder.words), "uint64")

    def __getitem__(self, level: int) -> tirx.Expr:
        return self._planes.vload([level, 0], f"uint64x{self.adder.words}")

    def __setitem__(self, level: int, plane: tirx.Expr) -> None:
        T.buffer_store(self._planes, plane, [level, tirx.Ramp(0, 1, self.adder.words)])

    def start(self, initial: Callable[[int], tirx.Expr]) -> None:
        """Set all planes."""
        for level in range(self.levels + self.overflow):
            self[level] = initial(level)

    def add(self, planes: Sequence[Callable[[], tirx.Expr]], level: int = 0) -> None:
        """Add planes of weight ``2^level``: 1, 2, 4, 8 ... of them; each is made where it is needed."""
        carries: list[tirx.Expr] = []
        waiting: list[list[tirx.Expr]] = [[] for _ in range(self.levels + 1)]
        depth = len(planes).bit_length() - 1

        def push(at: int, plane: tirx.Expr) -> None:
            if at == level + depth:
                carries.append(plane)
                return
            waiting[at].append(plane)
            if len(waiting[at]) == 3:
                total, carry = self.adder.full(*waiting[at])
                waiting[at] = [total]
                push(at + 1, carry)

        depth = min(depth, self.levels - level)
        for plane in planes:
            push(level, T.bind(plane()))
        for at in range(level, level + depth):
            old = T.bind(self[at])
            if len(waiting[at]) == 2:
                self[at], carry = self.adder.full(*waiting[at], old)
            else:
                self[at], carry = self.adder.half(waiting[at][0], old)
            push(at + 1, carry)
        for carry in carries:
            self._ripple(level + depth, carry)

    def _ripple(self, level: int, carry: tirx.Expr) -> None:
        for at in range(level, self.levels):
            old = T.bind(self[at])
            self[at] = T.bind(old ^ carry)
            if at + 1 < self.levels or self.overflow:
                carry = T.bind(old & carry)
        if self.overflow:
            self[self.levels] = self[self.levels] | carry
