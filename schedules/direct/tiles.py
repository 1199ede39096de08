"""Register tiles of the direct convolutions: the tuning space, and the cost model that picks a tile without tuning."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import Literal

from ..isa import IntegerProducts, Isa, PopcountMethod
from ..shapes import Conv2dShape
from .neon_bytes import MOST_PIXELS, tile_block
from .neon_steps import fits_block

# Bytes. The weights of a block are read again for every tile, so they should fit in a part of the second-level cache.
_CACHED_WEIGHTS = 640 * 1024

Arithmetic = Literal["popcount", "float32", "int8"]


@dataclass(frozen=True)
class Tile:
    """The block of outputs that a direct convolution keeps in registers.

    Attributes:
        pixels: Neighbouring output pixels of a row.
        vectors: Vectors of output channels.
    """

    pixels: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.vectors}"


def popcount_by_lookup(shape: Conv2dShape, isa: Isa) -> bool:
    """Whether a layer counts bits by a byte shuffle. Lanes are bytes; the channels of a group must fill 16 lanes."""
    return isa.popcount == PopcountMethod.LOOKUP and (shape.groups == 1 or shape.group_out_channels % 16 == 0)


THREE = 3
"""Words per step in popcount_threes.py."""

THREE_INSTRUCTIONS = 8
"""Instructions per step in popcount_threes.py. Processing the three words one by one takes 9."""

_WORD_INSTRUCTIONS = {
    PopcountMethod.VECTOR: 3,
    PopcountMethod.BYTES: 3,
    PopcountMethod.LOOKUP: 10,
    PopcountMethod.NONE: 10,
}
"""Instructions per vector of words: exclusive or, count, add. LOOKUP is for channels that do not fill its lanes."""


PRODUCTS = {IntegerProducts.SINGLE: 1, IntegerProducts.PAIRS: 2, IntegerProducts.QUADS: 4}
"""Products of integers per lane and step."""


def popcount_by_threes(shape: Conv2dShape, isa: Isa) -> bool:
    """Whether a layer with {-1, +1} weights counts three words at once, neighbours in a row of a window."""
    row = shape.kernel[1] * isa.words(shape.in_channels)
    contiguous = shape.groups == 1 and (shape.dilation[1] == 1 or shape.kernel[1] == 1)
    return isa.popcount_of_threes and contiguous and row % THREE == 0


def popcount_by_broadcast(shape: Conv2dShape, isa: Isa) -> bool:
    """Whether the words of the image are broadcast in advance (popcount_neon.py): if they are read several times."""
    reads = shape.kernel[0] * shape.kernel[1] * shape.group_out_channels / (shape.strides[0] * shape.strides[1])
    full = lanes(shape, isa, "popcount") == isa.word_lanes
    return isa.architecture == "aarch64" and full and reads >= 8 * isa.word_lanes


def bytes_by_blocks(shape: Conv2dShape, isa: Isa) -> bool:
    """Whether sums of bytes are blocks of assembly (neon_bytes.py): if the channels of a group fill vectors."""
    return isa.architecture in ("aarch64", "arm") and not isa.small and lanes(shape, isa, "int8") == isa.float_lanes


def lanes(shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> int:
    """Output channels per vector: a full register, or fewer if that fits the channels of a group better."""
    full = isa.word_lanes if arithmetic == "popcount" else isa.float_lanes
    channels = shape.group_out_channels
    filled = 1 << (channels - 1).bit_length()
    if arithmetic == "popcount" and popcount_by_lookup(shape, isa):
        full = isa.vector_bits // 8
        return max(16, min(full, filled)) if shape.groups == 1 else gcd(full, channels)
    if shape.groups == 1:
        return full
    return gcd(full, channels) if channels % 8 == 0 else max(2, min(full, filled))


def tiles(shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> list[Tile]:
    """All tiles worth measuring for a layer, in ascending order of estimated cost.

    Args:
        shape: Shape of the layer; a dense layer is a 1x1 convolution over a row of ``batch`` pixels.
        isa: The instruction set, which gives the number of registers.
        arithmetic: The arithmetic of the kernel.
    """
    # Registers besides the accumulators: weights (two halves of bytes for a lookup), the input, the xor or a mask, the
    # constant 2.
    weights, others = 1, 1 if arithmetic == "float32" else 2
    if arithmetic == "int8" and isa.products == IntegerProducts.QUADS:
        others = 1
    if arithmetic == "popcount" and popcount_by_lookup(shape, isa):
        weights, others = 2, 3
    elif arithmetic == "popcount" and popcount_by_threes(shape, isa):
        weights, others = 3, 5

    bytes_ = arithmetic == "int8" and bytes_by_blocks(shape, isa)

    def most_pixels(vectors: int) -> int:
        if bytes_:
            return MOST_PIXELS
        if arithmetic == "float32" and isa.multiplies_by_lane:  # a register per pixel, and at least four weights
            return (isa.registers - max(vectors, 4)) // (vectors + 1)
        return (isa.registers - weights * vectors - others) // vectors

    blocks = arithmetic == "popcount" and popcount_by_broadcast(shape, isa)
    candidates = [
        Tile(pixels, vectors)
        for vectors in _vectors(shape, lanes(shape, isa, arithmetic), arithmetic)
        for pixels in range(1, min(shape.out_width, most_pixels(vectors)) + 1)
        if pixels == 1 or -(-shape.out_width // pixels) < -(-shape.out_width // (pixels - 1))  # else: no fewer tiles
        if not blocks or fits_block(pixels, vectors)
        if not bytes_ or tile_block(isa, pixels, vectors).fits
    ]
    return sorted(candidates, key=lambda tile: (tile_cost(tile, shape, isa, arithmetic), -tile.pixels))


def default_tile(shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> Tile:
    """The tile of the lowest estimated cost."""
    return tiles(shape, isa, arithmetic)[0]


def _vectors(shape: Conv2dShape, lanes: int, arithmetic: Arithmetic) -> list[int]:
    """Vectors per tile whose channels fill whole bytes of the packed output, if the channels of a group allow it."""
    groups, channels = shape.groups, shape.group_out_channels
    # Three vectors of four pixels are the fewest loads for 16 registers; 24 channels are then one block.
    three = arithmetic == "float32" and groups == 1 and -(-channels // lanes) % 3 == 0
    every = (1, 2, 3, 4, 8) if three else (1, 2, 4, 8)
    useful = [vectors for vectors in every if vectors == 1 or vectors * lanes < 2 * channels]
    if groups > 1 and channels % 8:
        return useful
    bytes_ = [vectors for vectors in every if vectors * lanes % 8 == 0]
    if groups > 1:
        bytes_ = [vectors for vectors in bytes_ if channels % (vectors * lanes) == 0]
    return [vectors for vectors in bytes_ if vectors in useful] or bytes_[:1]


def tile_cost(tile: Tile, shape: Conv2dShape, isa: Isa, arithmetic: Arithmetic) -> float:
    """Estimated vector instructions of the layer, up to a constant factor, with penalties found by measurement.

    The last tile of a row overlaps the one before, and the last vectors of a group may be padding. Both count in full.
    """
    results = tile.pixels * tile.vectors
    # On AVX-512 a broadcast is a memory operand and almost free.
    pixel, vector = (0.1 if isa.vector_bits == 512 else 0.5), 0.3
    if arithmetic == "float32" and isa.multiplies_by_lane:
        # Between two kinds of cores, by LLVM's models: one that executes in order waits for loads, about 2 cycles for
        # each and 5 more per step; a wide one waits for multiply-adds alone.
        channels, work, vector, pixel = 1, max(results, 8) + 2.5, 1.0, 0.25
    elif arithmetic == "float32":
        # Latency: with fewer than 8 accumulators the multiply-add pipes are idle at times.
        channels, work = 1, float(max(results, 8))
    elif arithmetic == "int8" and bytes_by_blocks(shape, isa):
        # As for popcounts: cores that execute in order take as long for a load as for another vector instruction.
        load = {"in-order": 1.0, "a72": 0.1, "wide": 0.1, None: 0.5}[isa.core]
        block = tile_block(isa, tile.pixels, tile.vectors)
        in_order = {"in-order": 1.0, "a72": 0.0, "wide": 0.0, None: 0.5}[isa.core]
        channels, work, pixel, vector = 16, block.work(in_order) + load * block.loads, 0.0, 0.0
    elif arithmetic == "int8":
        # vpdpbusd has a latency of 5 cycles, at two a cycle. Pairs are added by an instruction of their own, and the
        # weights are widened.
        channels, pixel, vector = PRODUCTS.get(isa.products, 1), 0.4, 1.0
        work = float(max(results, 10)) if isa.products == IntegerProducts.QUADS else 2.0 * results
    elif popcount_by_lookup(shape, isa):
        # Per byte: two lookups and their additions. Per pixel: two table loads. Per weight vector: two halves.
        channels, work, pixel, vector = 8, 4 * results, 1.0, 3.0
    elif popcount_by_threes(shape, isa):
        channels, work = isa.word_bits, results * THREE_INSTRUCTIONS / THREE
    elif popcount_by_broadcast(shape, isa):
        # The image is loaded as vectors, too. Cores that execute in order take as long for a load as for another vector
        # instruction; others load in the meantime (by LLVM's models).
        load = {"in-order": 1.0, "a72": 0.05, "wide": 0.05, None: 0.5}[isa.core]
        channels, work, pixel, vector = isa.word_bits, 3 * results, load, load
    else:
        channels, work = isa.word_bits, _WORD_INSTRUCTIONS[isa.popcount] * results
    steps = shape.kernel[0] * shape.kernel[1] * -(-shape.group_in_channels // channels)
    width = lanes(shape, isa, arithmetic) * tile.vectors
    tiles_ = -(-shape.out_width // tile.pixels) * -(-shape.group_out_channels // width)
    cost = tiles_ * (steps * (work + vector * tile.vectors + pixel * tile.pixels + 0.5) + 4 * results + 20)
    if isa.vector_bits == 512 and results >= 16 and channels != 8:
        cost *= 1.1  # LLVM loads the inputs of several unrolled steps in advance, and spills registers
    if steps * width * (channels / 8 if arithmetic == "popcount" else 4) > _CACHED_WEIGHTS:
        cost *= 1.3
    return cost
