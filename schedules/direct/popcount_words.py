"""Popcounts of vectors of packed words: the step that needs nothing but a popcount of the instruction set."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx

from ..tir.vectors import VectorType
from .loop_nest import MultiplyAccumulate


@dataclass(frozen=True, eq=False)
class PopcountWords(MultiplyAccumulate):
    """Popcounts of vectors of words: each element and each lane is one word.

    Attributes:
        signed: True for {-1, +1} weights, False for {0, 1} weights.
    """

    signed: bool

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the popcounts of one step."""
        combine = tirx.bitwise_xor if self.signed else tirx.bitwise_and
        return sums + VectorType(self.accumulator, self.lanes).cast(tirx.popcount(combine(x[0], w[0])))
