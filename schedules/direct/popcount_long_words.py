"""Popcounts of long words, for NEON: a vector holds 128, 64 or 32 bits of each of 1, 2 or 4 output channels.

With one packed word (16 bits) per channel, a vector holds 8 channels, and each word of the input is broadcast to all
of them, which takes an instruction per pixel and step. With 128 bits per channel no broadcast is needed; with 64 or 32
bits the workspace holds the input broadcast. The longest word that divides a pixel is taken (tiles.long_word). Each
channel then has several counters in a vector, which are added after the loop::

    counters[pixel][vector] += popcount(input ^ weights)      eor, cnt, uadalp, for each vector of weights
    fold:  (a0 a1 a2 a3 ...), (b0 b1 b2 b3 ...)  ->  (a0 + a1, a2 + a3, ..., b0 + b1, b2 + b3, ...)      addp

until a vector holds one counter per channel, with the channels in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType, load
from .loop_nest import MultiplyAccumulate
from .neon_steps import TileSteps, tile_steps
from .tiles import Tile


@dataclass(frozen=True, eq=False)
class PopcountLongWords(MultiplyAccumulate):
    """Popcounts of long words.

    Attributes:
        element: The dtype in which the input is copied: uint64, also for words of 128 bits, or uint32.
        accumulator: The dtype of the counters in the loop.
        word: The dtype of a packed word.
        counters: Counters, and packed words, per vector.
        folded: The dtype of the sums of a channel's counters.
        signed: True for {-1, +1} weights, False for {0, 1} weights.
        assembly: Whether steps may be AArch64 assembly.
    """

    word: str
    counters: int
    folded: str
    signed: bool
    assembly: bool

    @property
    def data_element(self) -> str:
        """The data are packed words."""
        return self.word

    @property
    def accumulators(self) -> int:
        """A counter for each packed word of a vector."""
        return self.counters

    @property
    def weight_elements(self) -> int:
        """Packed words of the weights in a vector."""
        return self.counters

    @property
    def elements(self) -> int:
        """Elements of the workspace in a vector."""
        return self.counters * VectorType(self.word, 1).bits // VectorType(self.element, 1).bits

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """A word for each channel of a vector; a word of 128 bits, which no other channel shares, is two elements."""
        return (element,) * (self.lanes if self.lanes > 1 else 1)

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """Load a vector of the workspace."""
        vector = VectorType(self.word, self.counters)
        return (T.bind(vector.reinterpret(load(image, at[:-1], at[-1], self.elements))),)

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the popcounts of one step."""
        combine = tirx.bitwise_xor if self.signed else tirx.bitwise_and
        return sums + VectorType(self.accumulator, self.counters).cast(tirx.popcount(combine(x[0], w[0])))

    def block(self, tile: Tile, pixels: Sequence[int], stride: int, steps: int) -> LlvmFunction | None:
        """Assembly for several steps (neon_steps.py)."""
        if self.accumulator != "uint16" or not self.assembly:
            return None
        size = VectorType(self.element, 1).bits // 8
        sums = tile.pixels * tile.vectors
        return tile_steps(TileSteps(tuple(pixels), sums, tile.vectors, steps, stride * size, self.signed))

    def finished(self, values: Sequence[tirx.Expr]) -> list[tirx.Expr]:
        """Add neighbouring counters of two vectors until a vector holds one counter per channel."""
        vector = VectorType(self.folded, self.counters)
        level = [vector.cast(value) if self.folded != self.accumulator else value for value in values]
        channels = self.lanes
        while channels < self.counters:
            pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
            level = [T.bind(_added_neighbours(pair, self.counters)) for pair in pairs]
            channels *= 2
        return level


def _added_neighbours(pair: Sequence[tirx.Expr], lanes: int) -> tirx.Expr:
    """The sums of the neighbouring lanes of two vectors, the first vector's first."""
    even, odd = (T.bind(tirx.Shuffle(list(pair), list(range(first, 2 * lanes, 2)))) for first in (0, 1))
    return even + odd
