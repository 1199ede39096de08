"""The input of a sparse float kernel: one float32 plane per channel, in which neighbouring pixels are adjacent.

For each tap, the inputs of all output pixels of a row are then contiguous, and a list of weights becomes a list of
offsets. If there is only one output pixel, the input is read as it is, channels last.

The data is a float32 map or packed codes (words.packed_shape), which are decoded into planes. The inner loop is bound
by loads of planes. So planes of codes store only the upper half of each float32 (a bfloat16) if the lower half of all
values is 0, as for small integers. A shift and a mask turn a vector of halves into two vectors of float32: the pixels
with even and with odd numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.domain import Domain

from ..isa import Isa
from ..layouts.words import packed_shape
from ..shapes import Conv2dShape
from ..tir.loops import for_blocks, one_block, parallel_rows
from ..tir.vectors import Index, VectorType, load, store, transposed


@dataclass(frozen=True, eq=False)
class LayerData:
    """The input data of a layer.

    Attributes:
        shape: The layer. A dense layer has the shape that shapes.dense_shape returns.
        dense: Whether the data has the shape (N, K) instead of (N, H, W, C).
        domain: The values of packed codes; None for float32.
        isa: The instruction set, which determines words and vectors.
    """

    shape: Conv2dShape
    dense: bool
    domain: Domain | None
    isa: Isa

    @property
    def data_shape(self) -> tuple[int, ...]:
        """Shape of the kernel's first parameter."""
        shape = self.shape
        pixels = (shape.batch, shape.height, shape.width, shape.in_channels)
        extent = (shape.width, shape.in_channels) if self.dense else pixels
        return extent if self.domain is None else packed_shape(extent, self.domain.bits, self.isa)

    @property
    def dtype(self) -> str:
        """dtype of the kernel's first parameter."""
        return "float32" if self.domain is None else self.isa.word

    @property
    def part_bits(self) -> int:
        """Channels that are decoded at once: a word, or half a word."""
        return min(self.isa.word_bits, 32)

    @property
    def halves(self) -> bool:
        """Whether the lower half of all values is 0."""
        return self.domain is not None and not (self.domain.values.view(np.uint32) & 0xFFFF).any()

    def pixels(self, data: tirx.Buffer) -> tirx.Buffer:
        """float32 data as [N, H, W, C]; the rows of a dense layer are the pixels of one row."""
        shape = self.shape
        return T.decl_buffer((shape.batch, shape.height, shape.width, shape.in_channels), "float32", data=data.data)

    def part(self, parts: tirx.Buffer, digit: int, position: tuple[Index, Index, Index], part: Index) -> tirx.Expr:
        """One binary digit of ``part_bits`` channels of a pixel, uint32.

        Args:
            parts: The result of :meth:`parts`.
            digit: Index of the digit, 0 for the lowest.
            position: The pixel, (n, y, x).
            part: Index of the part within the pixel.
        """
        n, y, x = position
        shape, bits = self.shape, 1 if self.domain is None else self.domain.bits
        of_pixel = self.isa.words(shape.in_channels) * (self.isa.word_bits // self.part_bits)
        pixel = (n * shape.height + y) * shape.width + x
        if bits > 1:
            first = x * bits + digit if self.dense else (n * bits + digit) * shape.height * shape.width
            pixel = first if self.dense else first + y * shape.width + x
        return tirx.Cast("uint32", parts[pixel * of_pixel + part])

    def parts(self, data: tirx.Buffer) -> tirx.Buffer:
        """Packed data as a list of parts."""
        size = int(np.prod(self.data_shape)) * (self.isa.word_bits // self.part_bits)
        return T.decl_buffer((size,), f"uint{self.part_bits}", data=data.data)

    def values(self, digits: Sequence[tirx.Expr], mask: tirx.Expr) -> tirx.Expr:
        """Decode one code per lane into the bits of a float32, uint32.

        Args:
            digits: One vector of uint32 per digit, the lowest digit first.
            mask: A vector of uint32 with one set bit per lane: the position of the lane's code in each digit.
        """
        assert self.domain is not None
        constant = VectorType.of(mask).constant
        level = [constant(int(value)) for value in self.domain.values.view(np.uint32)]
        for digit in digits:
            is_set = (digit & mask) != constant(0)
            level = [tirx.Select(is_set, high, low) for low, high in zip(level[::2], level[1::2], strict=True)]
        return level[0]


class Input(Protocol):
    """The memory that the inner loop reads.

    Attributes:
        halves: Whether the elements are uint16, the upper halves of float32.
        lanes: Pixels per vector; at least 4 if the elements are halves.
        row: Distance between output rows, in elements.
        image: Distance between images, in elements.
    """

    halves: bool
    lanes: int
    row: int
    image: int

    def offsets(self) -> np.ndarray:
        """Offset of each tap for the first output pixel, -1 for padding: int64 [groups, C / groups, kh, kw]."""

    def emit(self, data: tirx.Buffer, slack: int) -> tirx.Buffer:
        """Emit the code that computes the elements, a flat buffer with ``slack`` readable elements after the end."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PlaneAxis:
    """The rows or columns of planes. Each phase holds those of the padded image that are congruent modulo the stride.

    Attributes:
        size: Pixels of the image.
        out: Pixels of the output.
        taps: Taps of the kernel.
        stride, dilation: Of the layer.
        padding: Padding before the first pixel.
    """

    size: int
    out: int
    taps: int
    stride: int
    dilation: int
    padding: int

    @property
    def phases(self) -> list[int]:
        """The remainders modulo the stride that some tap needs."""
        return sorted({k * self.dilation % self.stride for k in range(self.taps)})

    @property
    def extent(self) -> int:
        """Rows or columns of a plane."""
        return self.out + (self.taps - 1) * self.dilation // self.stride

    def tap(self, k: int) -> tuple[int, int]:
        """Index of the phase that tap ``k`` reads, and its shift within the phase."""
        shift, phase = divmod(k * self.dilation, self.stride)
        return self.phases.index(phase), shift

    def inside(self, phase: int) -> range:
        """The positions of a phase that are inside the image."""
        places = [p for p in range(self.extent) if 0 <= p * self.stride + phase - self.padding < self.size]
        return range(places[0], places[-1] + 1) if places else range(0)


class Planes:
    """A zero-padded plane for each channel and phase of the strides: [N, C, phases, plane]."""

    def __init__(self, source: LayerData) -> None:
        shape = source.shape
        self.source = source
        self.y, self.x = (
            PlaneAxis(
                size=size,
                out=out,
                taps=shape.kernel[axis],
                stride=shape.strides[axis],
                dilation=shape.dilation[axis],
                padding=shape.padding[axis],
            )
            for axis, size, out in ((0, shape.height, shape.out_height), (1, shape.width, shape.out_width))
        )
        self.row = self.x.extent
        pixels = (shape.out_height - 1) * self.row + shape.out_width
        self.halves = source.halves
        fewest, most = (4, 2 * source.isa.float_lanes) if self.halves else (1, source.isa.float_lanes)
        self.lanes = min(most, max(fewest, 1 << (pixels - 1).bit_length()))
        self.image = shape.in_channels * self.phases * self.plane

    @property
    def phases(self) -> int:
        """Planes per channel."""
        return len(self.y.phases) * len(self.x.phases)

    @property
    def plane(self) -> int:
        """Distance between planes, in elements, with room for one more vector: stores may pass the end of a row."""
        return self.y.extent * self.x.extent + self.source.isa.float_lanes

    def offsets(self) -> np.ndarray:
        """Same as in ``Input``, without -1: the planes hold the padding."""
        shape = self.source.shape
        taps = np.zeros(shape.kernel, np.int64)
        for ky, kx in np.ndindex(*shape.kernel):
            (phase_y, down), (phase_x, right) = self.y.tap(ky), self.x.tap(kx)
            taps[ky, kx] = (phase_y * len(self.x.phases) + phase_x) * self.plane + down * self.row + right
        channels = np.arange(shape.in_channels).reshape(shape.groups, -1, 1, 1)
        return channels * (self.phases * self.plane) + taps

    def emit(self, data: tirx.Buffer, slack: int) -> tirx.Buffer:
        """Emit the code that fills the planes."""
        source, shape = self.source, self.source.shape
        size = shape.batch * self.image
        dtype = "uint16" if self.halves else "float32"
        planes = T.alloc_buffer((size + slack,), dtype)
        with T.serial(0, slack) as i:  # read by lanes without a pixel; any value but a denormal, which is slow
            T.buffer_store(planes, tirx.const(0, dtype), [size + i])
        step = source.isa.float_lanes if source.domain is None else source.part_bits
        blocks = -(-shape.in_channels // step)
        with parallel_rows(shape.batch * blocks, size) as task:
            n, block = T.bind(tirx.floordiv(task, blocks)), T.bind(tirx.floormod(task, blocks))
            one_block(
                block, shape.in_channels, step, lambda first, valid: self._channels(data, planes, n, first, valid)
            )
        return planes

    def _channels(self, data: tirx.Buffer, planes: tirx.Buffer, n: tirx.Expr, first: Index, valid: int) -> None:
        """Fill all planes of ``valid`` channels from ``first`` on."""
        lanes = self.source.isa.float_lanes
        of_channel = self.phases * self.plane
        start = T.bind((n * self.source.shape.in_channels + first) * of_channel)
        zero = VectorType(str(planes.dtype), lanes).constant(0)
        for_blocks(valid * of_channel, lanes, lambda at, count: store(planes, zero, (), start + at, count))
        for i, phase_y in enumerate(self.y.phases):
            for j, phase_x in enumerate(self.x.phases):
                rows, columns = self.y.inside(phase_y), self.x.inside(phase_x)
                if rows and columns:
                    plane = start + (i * len(self.x.phases) + j) * self.plane
                    self._rows(
                        data,
                        planes,
                        n=n,
                        channels=(first, valid),
                        plane=plane,
                        vertical=(phase_y, rows),
                        horizontal=(phase_x, columns),
                    )

    def _rows(
        self,
        data: tirx.Buffer,
        planes: tirx.Buffer,
        *,
        n: tirx.Expr,
        channels: tuple[Index, int],
        plane: tirx.Expr,
        vertical: tuple[int, range],
        horizontal: tuple[int, range],
    ) -> None:
        (phase_y, rows), (phase_x, columns) = vertical, horizontal
        lanes, count = self.source.isa.float_lanes, len(columns)
        with T.serial(rows.start, rows.stop) as p, T.serial(0, -(-count // lanes)) as i:
            # The last block of a row overlaps the block before it. A block that is wider than the row also writes
            # zeros after the row, where the next row is stored later. So rows must be written in order.
            at = T.bind(columns.start + tirx.min(i * lanes, max(count - lanes, 0)))
            y = T.bind(p * self.y.stride + phase_y - self.y.padding)
            x = [T.bind((at + k) * self.x.stride + phase_x - self.x.padding) for k in range(min(lanes, count))]
            vectors = self._decoded if self.source.domain is not None else self._transposed
            for c, vector in enumerate(vectors(data, (n, y), x, *channels)):
                target = plane + c * (self.phases * self.plane) + p * self.row + at
                store(planes, vector, (), target)

    def _transposed(
        self, data: tirx.Buffer, row: tuple[tirx.Expr, tirx.Expr], x: Sequence[tirx.Expr], first: Index, valid: int
    ) -> list[tirx.Expr]:
        """One vector per channel, for ``valid`` channels: the pixels ``x`` of row (n, y)."""
        pixels, lanes = self.source.pixels(data), self.source.isa.float_lanes
        zero = VectorType("float32", lanes).constant(0.0)
        loaded = [load(pixels, (*row, column), first, lanes, valid) for column in x]
        return transposed([T.bind(vector) for vector in [*loaded, *[zero] * (lanes - len(x))]])[:valid]

    def _decoded(
        self, data: tirx.Buffer, row: tuple[tirx.Expr, tirx.Expr], x: Sequence[tirx.Expr], first: Index, valid: int
    ) -> list[tirx.Expr]:
        source, lanes = self.source, self.source.isa.float_lanes
        assert source.domain is not None
        parts, part = source.parts(data), T.bind(tirx.floordiv(first, source.part_bits))
        digits = []
        for digit in range(source.domain.bits):
            words = [source.part(parts, digit, (*row, column), part) for column in x]
            words += [tirx.const(0, "uint32")] * (lanes - len(x))
            digits.append(T.bind(tirx.Shuffle(words, list(range(lanes)))))
        words_of_pixels = VectorType("uint32", lanes)
        masks = [words_of_pixels.constant(1 << bit) for bit in range(valid)]
        values = [source.values(digits, mask) for mask in masks]
        if len(x) < lanes:
            numbers = [tirx.const(0xFFFFFFFF if i < len(x) else 0, "uint32") for i in range(lanes)]
            values = [value & tirx.Shuffle(numbers, list(range(lanes))) for value in values]
        if self.halves:
            shift, half = words_of_pixels.constant(16), VectorType("uint16", lanes)
            return [half.cast(value >> shift) for value in values]
        return [VectorType("float32", lanes).reinterpret(value) for value in values]


class Pixels:
    """The input in its own layout, for layers with one output pixel: a list of weights is a dot product."""

    halves = False
    lanes = 1
    row = 1

    def __init__(self, source: LayerData) -> None:
        self.source = source
        self.image = source.shape.height * source.shape.width * source.shape.in_channels

    def offsets(self) -> np.ndarray:
        """Same as in ``Input``."""
        shape = self.source.shape
        y = np.arange(shape.kernel[0]) * shape.dilation[0] - shape.padding[0]
        x = np.arange(shape.kernel[1]) * shape.dilation[1] - shape.padding[1]
        inside = ((y >= 0) & (y < shape.height))[:, None] & ((x >= 0) & (x < shape.width))
        pixels = y[:, None] * shape.width + x
        channels = np.arange(shape.in_channels).reshape(shape.groups, -1, 1, 1)
        return np.where(inside, pixels * shape.in_channels + channels, -1)

    def emit(self, data: tirx.Buffer, slack: int) -> tirx.Buffer:
        """The data itself if it is float32; otherwise emit the code that decodes it."""
        source, shape = self.source, self.source.shape
        pixels, channels = shape.batch * shape.height * shape.width, shape.in_channels
        if source.domain is None:
            return T.decl_buffer((pixels * channels,), "float32", data=data.data)
        lanes, bits = source.isa.float_lanes, source.part_bits
        out = T.alloc_buffer((pixels * channels,), "float32")
        parts, of_row = source.parts(data), shape.width
        masks = [
            tirx.Shuffle([tirx.const(1 << first + i, "uint32") for i in range(lanes)], list(range(lanes)))
            for first in range(0, bits, lanes)
        ]
        assert source.domain is not None
        domain = source.domain
        with parallel_rows(pixels, pixels * channels) as pixel:
            y, x = T.bind(tirx.floordiv(pixel, of_row)), T.bind(tirx.floormod(pixel, of_row))
            n = T.bind(tirx.floordiv(y, shape.height))
            y = T.bind(tirx.floormod(y, shape.height))

            def decode(first: Index, valid: int) -> None:
                part = tirx.floordiv(first, bits)
                words = [T.bind(source.part(parts, digit, (n, y, x), part)) for digit in range(domain.bits)]
                for i, mask in enumerate(masks):
                    if i * lanes < valid:
                        value = source.values([VectorType("uint32", lanes).broadcast(word) for word in words], mask)
                        value = T.bind(VectorType("float32", lanes).reinterpret(value))
                        store(out, value, (), pixel * channels + first + i * lanes, valid - i * lanes)

            for_blocks(channels, bits, decode)
        return out
