"""Popcounts on AArch64: words of the image are broadcast in advance, and steps are blocks of assembly.

Each packed word of the workspace is stored once for each lane of a vector. So the inner loop loads vectors, for the
image as for the weights, and executes no broadcast: a word is read again for every block of output channels and every
tap. Per vector and step it needs 3 instructions (eor, cnt, uadalp) and ``1 / pixels + 1 / vectors`` loads of the tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType, load
from .neon_steps import TileSteps, tile_steps
from .popcount_words import PopcountWords
from .tiles import Tile


@dataclass(frozen=True, eq=False)
class PopcountBroadcast(PopcountWords):
    """Popcounts of vectors of words, with the words of the image broadcast in the workspace."""

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The word for each lane."""
        return (element,) * self.lanes

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """Load a word that is broadcast already."""
        return (T.bind(load(image, at[:-1], at[-1], self.lanes)),)

    def block(self, tile: Tile, pixels: Sequence[int], stride: int, steps: int) -> LlvmFunction | None:
        """Assembly for 16-bit counters."""
        if self.accumulator != self.element:
            return None
        size, sums = VectorType(self.element, 1).bits // 8, tile.pixels * tile.vectors
        return tile_steps(TileSteps(tuple(pixels), sums, tile.vectors, steps, stride * size, self.signed))
