"""Popcounts of words through bytes, for machines that count the bits of bytes alone (WebAssembly's ``i8x16.popcnt``).

A step has three instructions: exclusive or, popcount, add, all on vectors of bytes. Only every 31 steps the bytes of a
word are added, with three more: a word of 16 bits is a lane, and its two bytes are neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from ..tir.vectors import VectorType
from .loop_nest import MultiplyAccumulate, Partial


@dataclass(frozen=True, eq=False)
class PopcountBytes(MultiplyAccumulate):
    """Popcounts of vectors of 16-bit words: each element and each lane is one word.

    Attributes:
        signed: True for {-1, +1} weights, False for {0, 1} weights.
    """

    signed: bool = True

    @property
    def partial(self) -> Partial:
        """Byte counters: 31 steps of at most 8 bits each cannot overflow them."""
        return Partial("uint8", 31, 2 * self.lanes)

    def widened(self, narrow: tirx.Expr) -> tirx.Expr:
        """The sums of the two bytes of each word."""
        words = VectorType("uint16", self.lanes)
        pairs = T.bind(words.reinterpret(narrow))
        sums = tirx.bitwise_and(pairs, words.constant(0xFF)) + (pairs >> words.constant(8))
        return VectorType(self.accumulator, self.lanes).cast(sums)

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the popcounts of all bytes."""
        combine = tirx.bitwise_xor if self.signed else tirx.bitwise_and
        return sums + tirx.popcount(VectorType("uint8", 2 * self.lanes).reinterpret(combine(x[0], w[0])))
