"""Popcounts by a byte shuffle, for x86 without a vector popcount: two instructions for 4 channels of every byte lane.

Lanes are bytes, one for each output channel. 4 channels of an input pixel choose the table of ``popcount(pixel ^ i)``,
which a shuffle looks up at the weights ``i`` of every lane. (The idea is that of T-MAC, arXiv:2407.00088, where the
tables depend on the pixel too; with one bit a channel there are only 16, which stay in the first-level cache.)
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
    """Popcounts of 64-bit words.

    The image is spread, every word into the low halves of its bytes times 16 and the high halves times 16: offsets of
    tables. A step takes a byte of the input and the weights, in two lookups.

    Attributes:
        signed: Whether weights are -1 and +1, not 0 and 1: ``popcount(pixel ^ i)``, not ``popcount(pixel & i)``.
    """

    signed: bool = True

    _table: list[tirx.Buffer] = field(default_factory=list, init=False)

    @property
    def image_element(self) -> str:
        """Offsets of tables are bytes."""
        return "uint8"

    @property
    def partial(self) -> Partial:
        """A byte counts 31 bytes of 8 bits."""
        return Partial("uint8", 31)

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the 16 tables, one after the other."""
        popcount = np.array([i.bit_count() for i in range(16)], np.uint8)
        pixel, weight = np.arange(16)[:, None], np.arange(16)
        tables = popcount[pixel ^ weight if self.signed else pixel & weight]
        self._table.append(builder.constant("popcounts", tables.reshape(-1)))

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """Offsets of the tables for the low and the high halves of bytes."""
        low, high = (tirx.const(mask, self.element) for mask in (0x0F0F0F0F0F0F0F0F, 0xF0F0F0F0F0F0F0F0))
        return (tirx.bitwise_and(element, low) << tirx.const(4, self.element), tirx.bitwise_and(element, high))

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """The tables of the low and the high half of a byte."""
        offsets = [tirx.Cast("int32", image[(*at[:-1], at[-1] + half)]) for half in (0, 8)]
        return tuple(T.bind(load(self._table[0], (), offset, 16)) for offset in offsets)

    def weight(self, vector: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The low and the high halves of bytes."""
        mask, shift = (VectorType("uint8", self.lanes).constant(value) for value in (15, 4))
        return (T.bind(tirx.bitwise_and(vector, mask)), T.bind(vector >> shift))

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the popcounts of both halves."""
        choose = lookup(self.lanes)
        return sums + (choose(x[0], w[0]) + choose(x[1], w[1]))


@cache
def lookup(lanes: int) -> LlvmFunction:
    """Look up every lane in a table of 16 bytes: x86's byte shuffle (SSSE3, AVX2, AVX-512BW).

    Args:
        lanes: 16, 32 or 64.

    Returns:
        A function of the table, uint8x16, and the indices, uint8 below 16.
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
