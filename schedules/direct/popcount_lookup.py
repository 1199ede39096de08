"""Popcounts by a byte shuffle, for x86 without a vector popcount: two instructions per 4 channels and vector.

Each lane is a byte and belongs to one output channel. 4 channels of an input pixel select a table of 16 entries,
``popcount(pixel ^ i)``. A shuffle looks up the 4 weights ``i`` of every lane in it. The idea is from T-MAC
(arXiv:2407.00088), where tables also depend on the pixel. With one bit per channel there are only 16 tables, which
stay in the first-level cache.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType, load
from .loop_nest import MultiplyAccumulate, Partial


@dataclass(frozen=True, eq=False)
class PopcountLookup(MultiplyAccumulate):
    """Popcounts of 64-bit words by table lookup.

    The workspace holds table offsets. Every word of the image becomes two: the low half of each byte times 16, and the
    high half of each byte times 16. A step processes one byte of the input and of the weights, with two lookups.

    Attributes:
        signed: True for {-1, +1} weights, ``popcount(pixel ^ i)``; False for {0, 1}, ``popcount(pixel & i)``.
    """

    signed: bool = True

    _table: list[tirx.Buffer] = field(default_factory=list, init=False)

    @property
    def image_element(self) -> str:
        """Table offsets are bytes."""
        return "uint8"

    @property
    def partial(self) -> Partial:
        """Byte counters: 31 steps of at most 8 bits each cannot overflow them."""
        return Partial("uint8", 31, self.lanes)

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the 16 tables of 16 bytes, one after the other."""
        popcount = np.array([i.bit_count() for i in range(16)], np.uint8)
        pixel, weight = np.arange(16)[:, None], np.arange(16)
        tables = popcount[pixel ^ weight if self.signed else pixel & weight]
        self._table.append(builder.constant("popcounts", tables.reshape(-1)))

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The table offsets of the low halves and of the high halves of a word's bytes."""
        low, high = (tirx.const(mask, self.element) for mask in (0x0F0F0F0F0F0F0F0F, 0xF0F0F0F0F0F0F0F0))
        return (tirx.bitwise_and(element, low) << tirx.const(4, self.element), tirx.bitwise_and(element, high))

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """Load the tables for the low half and the high half of a byte."""
        offsets = [tirx.Cast("int32", image[(*at[:-1], at[-1] + half)]) for half in (0, 8)]
        return tuple(T.bind(load(self._table[0], (), offset, 16)) for offset in offsets)

    def weight(self, vector: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The low halves and the high halves of the weight bytes."""
        mask, shift = (VectorType("uint8", self.lanes).constant(value) for value in (15, 4))
        return (T.bind(tirx.bitwise_and(vector, mask)), T.bind(vector >> shift))

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the popcounts of both halves."""
        choose = lookup(self.lanes)
        return sums + (choose(x[0], w[0]) + choose(x[1], w[1]))


@cache
def lookup(lanes: int) -> LlvmFunction:
    """A lookup of every lane in a table of 16 bytes, by the byte shuffle of x86 (SSSE3, AVX2, AVX-512BW).

    Args:
        lanes: 16, 32 or 64.

    Returns:
        A function of the table, uint8x16, and the indices, ``lanes`` uint8 below 16.
    """
    vector = VectorType("uint8", lanes)
    kind, intrinsic = vector.llvm, {16: "ssse3.pshuf.b.128", 32: "avx2.pshuf.b", 64: "avx512.pshuf.b.512"}[lanes]
    order = ", ".join(f"i32 {i % 16}" for i in range(lanes))
    lines = [
        f"%tables = shufflevector <16 x i8> %table, <16 x i8> poison, <{lanes} x i32> <{order}>",
        f"%r = call {kind} @llvm.x86.{intrinsic}({kind} %tables, {kind} %index)",
        f"ret {kind} %r",
    ]
    declare = f"declare {kind} @llvm.x86.{intrinsic}({kind}, {kind})\n"
    return LlvmFunction.of(f"sbnn_lookup_{lanes}", vector, ["<16 x i8> %table", f"{kind} %index"], lines, declare)
