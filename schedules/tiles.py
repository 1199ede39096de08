"""Register tiles of the direct convolutions: the tunable space, and the rule that picks one without tuning."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

from sbnn_tvm.schedules.isa import AVX512_VPOPCNTDQ, Isa
from sbnn_tvm.schedules.shapes import Conv2dShape

# The weights of a block are read again for every tile: they should stay in a part of the second-level cache.
_CACHED_WEIGHTS = 640 * 1024

Arithmetic = Literal["popcount", "float32"]


@dataclass(frozen=True)
class Tile:
    """The block of results that a direct convolution keeps in registers.

    Attributes:
        pixels: Neighbouring output pixels of a row.
        vectors: Vectors of output channels.
    """

    pixels: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.vectors}"


def lanes(shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> int:
    """Output channels in a vector: a full register, or less where that suits the channels of a group better."""
    full = isa.word_lanes if arithmetic == "popcount" else isa.float_lanes
    channels = shape.group_out_channels
    if shape.groups == 1:
        return full
    return gcd(full, channels) if channels % 8 == 0 else max(2, min(full, 1 << (channels - 1).bit_length()))


def tiles(shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> list[Tile]:
    """Every tile worth trying for a layer, the one that the rule picks first.

    Args:
        shape: The layer; a dense layer is a 1x1 convolution over a row of ``batch`` pixels.
        isa: Gives the number of registers.
        arithmetic: What the kernel accumulates.
    """
    # Weights, one input and, for a popcount, the xor take registers too.
    others = 1 if arithmetic == "float32" else 2
    candidates = [
        Tile(pixels, vectors)
        for vectors in _vectors(shape.groups, shape.group_out_channels, lanes(shape, isa, arithmetic))
        for pixels in range(1, min(shape.out_width, (isa.registers - vectors - others) // vectors) + 1)
    ]
    return sorted(candidates, key=lambda tile: (_cost(tile, shape, isa, arithmetic), -tile.pixels))


def default_tile(shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> Tile:
    """The tile that the rule picks."""
    return tiles(shape, isa, arithmetic)[0]


def _vectors(groups: int, channels: int, lanes: int) -> list[int]:
    """Numbers of vectors whose channels are whole bytes of the packed output, if the groups' channels allow it."""
    useful = [vectors for vectors in (1, 2, 4, 8) if vectors == 1 or vectors * lanes < 2 * channels]
    if groups > 1 and channels % 8:
        return useful
    bytes_ = [vectors for vectors in (1, 2, 4, 8) if vectors * lanes % 8 == 0]
    if groups > 1:
        bytes_ = [vectors for vectors in bytes_ if channels % (vectors * lanes) == 0]
    return [vectors for vectors in bytes_ if vectors in useful] or bytes_[:1]


def _cost(tile: Tile, shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> float:
    """Vector instructions of the layer, up to a factor, with penalties found by measuring.

    The last tile of a row overlaps its neighbour, and the last vectors of a group may be padding: both count in full.
    """
    results = tile.pixels * tile.vectors
    width = lanes(shape, isa, arithmetic) * tile.vectors
    depth = shape.kernel[0] * shape.kernel[1] * shape.group_in_channels
    if arithmetic == "float32":
        # Latency: fewer accumulators than this leave the multiply-add pipes idle.
        steps, work, step_bytes = depth, max(results, 8), 4 * width
    else:
        by_table = isa.family == "x86" and isa.name != AVX512_VPOPCNTDQ.name
        steps, work = -(-depth // isa.word_bits), (10 if by_table else 3) * results
        step_bytes = width * isa.word_bits // 8
    # AVX-512 broadcasts for free, as a memory operand.
    step = work + 0.3 * tile.vectors + (0.1 if isa.vector_bits == 512 else 0.5) * tile.pixels + 0.5
    cost = (
        -(-shape.out_width // tile.pixels) * -(-shape.group_out_channels // width) * (steps * step + 4 * results + 20)
    )
    if isa.vector_bits == 512 and results >= 16:
        cost *= 1.1  # LLVM loads the inputs of several unrolled steps ahead, and spills
    if steps * step_bytes > _CACHED_WEIGHTS:
        cost *= 1.3
    return cost
