"""Bit planes: feature maps packed along pixels, one plane per channel, with one bit per pixel.

A plane is cut into vectors so that neighbouring pixels are in different vectors. For most vectors, the pixels that a
tap of a convolution reads are then just another vector. With ``a`` row phases and ``b`` column phases, pixel (y, x) of
an image is stored in vector ``(y % a, x % b)``, at bit ``x // b`` of lane ``y // a``. The lanes of a vector are
``row_bits`` wide; small maps have several images in one vector. Only taps that leave the range of the phases need
shifted copies (schedules/counters/windows.py)::

    planes[block, y % a, x % b, channel, word]        block = image // images
    bit (image % images * rows + y // a) * row_bits + x // b of the vector, from the lowest of word 0 on

All bits that are no pixel are 0. Kernels rely on this and preserve it.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass
from functools import cache

import numpy as np

from ..isa import Isa
from ..tir.vectors import VectorType

ROW_BITS = (8, 16, 32, 64)


@dataclass(frozen=True)
class PlaneLayout:
    """The layout of one feature map in bit planes.

    Attributes:
        batch, height, width, channels: The feature map.
        vector_bits: Pixels per vector, used or not: a multiple of 64.
        row_bits: Pixels per lane: 8, 16, 32 or 64.
        row_phases: ``a`` above. Rows y, y + a, y + 2a, ... are the lanes of a vector.
        column_phases: ``b`` above.
        images: Images per vector.
    """

    batch: int
    height: int
    width: int
    channels: int
    _: KW_ONLY
    vector_bits: int
    row_bits: int
    row_phases: int
    column_phases: int
    images: int = 1

    def __post_init__(self) -> None:
        if self.row_bits not in ROW_BITS or self.vector_bits % 64:
            raise ValueError(f"bit planes have lanes of 8 to 64 bits in vectors of 64-bit words, not {self}")
        if self.images * self.rows > self.lanes or self.columns > self.row_bits:
            raise ValueError(f"the pixels do not fit the vectors of {self}")

    @property
    def lanes(self) -> int:
        """Lanes per vector."""
        return self.vector_bits // self.row_bits

    @property
    def lane(self) -> str:
        """dtype of a lane."""
        return f"uint{self.row_bits}"

    @property
    def vector(self) -> VectorType:
        """Type of a vector of lanes."""
        return VectorType(self.lane, self.lanes)

    @property
    def rows(self) -> int:
        """Lanes per image."""
        return -(-self.height // self.row_phases)

    @property
    def columns(self) -> int:
        """Bits of a lane that may hold pixels."""
        return -(-self.width // self.column_phases)

    @property
    def words(self) -> int:
        """64-bit words per vector."""
        return self.vector_bits // 64

    @property
    def blocks(self) -> int:
        """Number of groups of images that share vectors."""
        return -(-self.batch // self.images)

    @property
    def vectors(self) -> int:
        """Vectors per channel."""
        return self.blocks * self.row_phases * self.column_phases

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array, uint64."""
        return (self.blocks, self.row_phases, self.column_phases, self.channels, self.words)

    def encode(self, bits: np.ndarray) -> np.ndarray:
        """Pack bool [N, H, W, C] into planes, uint64 of ``shape``."""
        grid = np.zeros(
            (self.blocks * self.images, self.rows * self.row_phases, self.row_bits * self.column_phases, self.channels),
            bool,
        )
        grid[: self.batch, : self.height, : self.width] = bits
        split = grid.reshape(
            self.blocks,
            self.images,
            self.rows,
            self.row_phases,
            self.row_bits,
            self.column_phases,
            self.channels,
        )
        # (block, row phase, column phase, channel, image, row, bit)
        lanes = split.transpose(0, 3, 5, 6, 1, 2, 4).reshape(*self.shape[:-1], -1)
        padded = np.pad(lanes, [(0, 0)] * 4 + [(0, self.vector_bits - lanes.shape[-1])])
        octets = np.ascontiguousarray(np.packbits(padded, axis=-1, bitorder="little"))
        return octets.view("<u8").astype(np.uint64, copy=False)

    def decode(self, planes: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`encode`: bool [N, H, W, C]."""
        octets = np.ascontiguousarray(planes.astype("<u8", copy=False)).view(np.uint8)
        lanes = np.unpackbits(octets, axis=-1, bitorder="little")[..., : self.images * self.rows * self.row_bits]
        split = lanes.reshape(*self.shape[:-1], self.images, self.rows, self.row_bits)
        grid = split.transpose(0, 4, 5, 1, 6, 2, 3).reshape(
            self.blocks * self.images, self.rows * self.row_phases, self.row_bits * self.column_phases, self.channels
        )
        return grid[: self.batch, : self.height, : self.width].astype(bool)


# Cost of adding planes that do not fill a register, relative to full ones (measured on AVX-512: 0.54 to 0.65).
_NARROW = 0.65

# Cost of making one vector of a window, relative to all additions of one channel's planes.
_HALO = 0.05


@cache
def plane_layout(batch: int, height: int, width: int, channels: int, isa: Isa) -> PlaneLayout:
    """The default layout of a feature map: the one with the lowest estimated cost."""
    return plane_layouts(batch, height, width, channels, isa)[0]


def plane_layouts(batch: int, height: int, width: int, channels: int, isa: Isa) -> list[PlaneLayout]:
    """Every layout that is worth measuring, the one with the lowest estimated cost first.

    The estimate prefers few vectors, and few vectors that are needed only as shifted copies.
    """
    candidates: list[tuple[float, int, PlaneLayout]] = []
    for vector_bits in (bits for bits in (64, 128, 256, 512) if bits <= isa.plane_bits):
        for row_bits in (bits for bits in ROW_BITS if bits <= vector_bits):
            lanes = vector_bits // row_bits
            rows, columns = -(-height // lanes), 1 << (-(-width // row_bits) - 1).bit_length()
            images = max(1, min(batch, lanes // height))
            layout = PlaneLayout(
                batch,
                height,
                width,
                channels,
                vector_bits=vector_bits,
                row_bits=row_bits,
                row_phases=rows,
                column_phases=columns,
                images=images,
            )
            halo = layout.blocks * (rows + 2) * (columns + 2)
            vector = 1.0 if vector_bits == isa.plane_bits else _NARROW
            candidates.append(((layout.vectors + _HALO * halo) * vector, vector_bits, layout))
    return [layout for _, _, layout in sorted(candidates, key=lambda each: each[:2])]
