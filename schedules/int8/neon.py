"""Integer sums on ARM: blocks of assembly (direct/neon_bytes.py) on lists of signed, or unsigned, bytes.

Data of uint8 is stored minus 128 in the workspace, except for ``usmmla``, which multiplies unsigned bytes. The zero
point is a constant of each channel, and the padding holds the zero point.

Weights are signed bytes. Others, of up to nine bits (after the subtraction of a zero point), are sums of signed bytes:
each list of the image is multiplied once for each summand. The same holds if two products of the weights do not fit in
the 16 bits of a :class:`PairBlock`, which needs two neighbours of -128.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..direct.neon_bytes import LANES, MatrixBlock, PairBlock, TileBlock, block_of, pairs_fit, tile_block
from ..direct.tiles import Tile
from ..isa import Isa
from ..tir.llvm import LlvmFunction
from ..tir.vectors import VectorType
from .products import PackedProducts, SingleProducts


@dataclass(frozen=True, eq=False)
class TileProducts(SingleProducts):
    """Lists of bytes, by blocks of assembly.

    Attributes:
        isa: The instruction set.
        beyond_: Same as ``beyond``.
        list_steps: Steps of a list.
    """

    isa: Isa
    beyond_: int
    list_steps: int

    @property
    def instruction(self) -> str:
        """The instruction of the blocks."""
        name = block_of(self.isa).instruction
        return f"u{name}" if self.element == "uint8" else name

    @property
    def beyond(self) -> int:
        """Elements after the last one of a row."""
        return self.beyond_

    @property
    def copies(self) -> bool:
        """Whether the data must be copied."""
        return self.data != self.element or self.beyond_ > 0

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The byte that the products read."""
        if self.data == self.element:
            return (element,)
        return (tirx.Cast("int8", tirx.bitwise_xor(element, tirx.const(128, "uint8"))),)

    def packed(self, weights: np.ndarray) -> np.ndarray:
        """The weights as the blocks read them."""
        kind = block_of(self.isa)
        if not issubclass(kind, PairBlock):
            return super().packed(weights)
        blocks, channels, steps = weights.shape
        count, whole = steps // self.list_steps, self.list_steps // 2 * 2
        lists = weights.reshape(blocks, channels, count, self.list_steps)
        pairs = lists[..., :whole].reshape(blocks, channels, count, whole // 2, 2).transpose(0, 2, 3, 1, 4)
        rest = lists[..., whole:].transpose(0, 2, 3, 1)
        flat = [part.reshape(blocks, count, math.prod(part.shape[2:])) for part in (pairs, rest)]
        return np.concatenate(flat, axis=2).reshape(blocks, steps, channels)

    def sums(self, tile: Tile) -> int:
        """Vectors of accumulators of a tile."""
        return self._block(tile, 0, block_of(self.isa).granularity).sums

    def results(self, sums: Callable[[int], tirx.Expr], tile: Tile, pixel: int) -> list[tirx.Expr]:
        """The vectors of output channels of a pixel of the tile."""
        kind = block_of(self.isa)
        if issubclass(kind, MatrixBlock):
            first, half = pixel // 2 * 2 * tile.vectors, pixel % 2 * 2
            order = [half, half + 1, LANES + half, LANES + half + 1]
            return [tirx.Shuffle([sums(first + 2 * v), sums(first + 2 * v + 1)], order) for v in range(tile.vectors)]
        if issubclass(kind, PairBlock):
            first = pixel * tile.vectors * LANES
            parts = [[T.bind(sums(first + v * LANES + i)) for i in range(LANES)] for v in range(tile.vectors)]
            return [_sums_of_lanes()(*part) for part in parts]
        return super().results(sums, tile, pixel)

    def block(self, tile: Tile, pixels: Sequence[int], stride: int, steps: int) -> LlvmFunction | None:
        """The assembly."""
        return self._block(tile, stride, steps * block_of(self.isa).granularity).function

    def _block(self, tile: Tile, stride: int, size: int) -> TileBlock:
        return tile_block(self.isa, tile.pixels, tile.vectors, stride, size, self.element == "uint8")


def signed_summands(weight: np.ndarray, fit: Callable[[np.ndarray], bool]) -> np.ndarray:
    """Weights as sums of signed bytes.

    Args:
        weight: Integers [..., n].
        fit: Whether the products of some signed bytes fit.

    Returns:
        int8 [..., summands, n].
    """
    for least in (-128, -127):
        summands: list[np.ndarray] = []
        rest = weight
        while rest.any() or not summands:
            summands.append(np.clip(rest, least, 127))
            rest = rest - summands[-1]
        bytes_ = np.stack(summands, axis=-2).astype(np.int8)
        if fit(bytes_):
            break
    return bytes_


def pack_bytes(weight: np.ndarray, zero_point: int, data_dtype: str, bias: np.ndarray, isa: Isa) -> PackedProducts:
    """The arithmetic of a layer on ARM.

    Args:
        weight: int16 [OC, kh, columns, elements that are neighbours].
        zero_point: Of the data.
        data_dtype: int8 or uint8.
        bias: int64 [OC].
        isa: The instruction set.
    """
    kind = block_of(isa)
    beyond = -weight.shape[-1] % kind.granularity
    padded = np.pad(weight, [(0, 0)] * 3 + [(0, beyond)])
    summands = signed_summands(padded, pairs_fit if issubclass(kind, PairBlock) else lambda each: True)
    words = np.ascontiguousarray(summands).view(f"i{kind.granularity}")
    element = data_dtype if issubclass(kind, MatrixBlock) else "int8"
    stored = zero_point - (128 if element != data_dtype else 0)
    addend = bias - stored * weight.sum(axis=(1, 2, 3), dtype=np.int64)
    return PackedProducts(
        TileProducts(element, "int32", LANES, data_dtype, zero_point, isa, beyond, words.shape[-1]),
        words.reshape(*words.shape[:3], -1),
        kind.granularity,
        addend.astype(np.int32),
        summands.shape[-2],
    )


@cache
def _sums_of_lanes() -> LlvmFunction:
    """A function of four vectors: the sum of the lanes of each, as a vector."""
    vector = VectorType("int32", LANES)
    kind = vector.llvm

    def halves(result: str, a: str, b: str) -> list[str]:
        even, odd = ("<i32 0, i32 2, i32 4, i32 6>", "<i32 1, i32 3, i32 5, i32 7>")
        return [
            f"{result}e = shufflevector {kind} {a}, {kind} {b}, <4 x i32> {even}",
            f"{result}o = shufflevector {kind} {a}, {kind} {b}, <4 x i32> {odd}",
            f"{result} = add {kind} {result}e, {result}o",
        ]

    lines = [*halves("%x", "%a", "%b"), *halves("%y", "%c", "%d"), *halves("%r", "%x", "%y"), f"ret {kind} %r"]
    return LlvmFunction.of("sbnn_sums_of_lanes", vector, [f"{kind} %{name}" for name in "abcd"], lines)
