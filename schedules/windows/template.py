"""The shared template of poolings and the depthwise convolution: sliding windows over separate channels.

Lanes are channels; the register tile covers neighbouring pixels of a row::

    parallel (image, output row)
      tiles of output pixels: unrolled where they touch the border, otherwise in a loop
        blocks of channels
          rows of taps inside the image (a loop with bounds that depend on the output row)
            columns of the tile: load once, combine with every accumulator whose window contains it
          store through the epilogue
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Number, Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import for_blocks, parallel_rows
from ..tir.taps import column_spans, taps_inside
from ..tir.vectors import Index, VectorType, load, store

MAX_TILE = 8  # pixels; with memory operands, larger tiles save hardly any loads and only increase the code size


class Combine(Protocol):
    """Computes the new accumulator from the old one, an input vector, and the weights of the tap (None without)."""

    def __call__(self, accumulator: tirx.Expr, value: tirx.Expr, weight: tirx.Expr | None) -> tirx.Expr:
        """All arguments and the result are vectors of the operation's accumulators; weights may have another type."""


@dataclass(frozen=True, eq=False)
class WindowOperation:
    """The operation that a kernel applies to each window.

    Attributes:
        name: Name of the kernel.
        initial: The initial value of the accumulator: a number, or one for each channel, [C].
        combine: Combines the accumulator with one tap.
        finish: Computes the result from the accumulator and the first pixel of the window (y and x, which may be
            negative). None if the result is the accumulator.
        weights: [kh, kw, C], or None if ``combine`` uses no weights.
        data: dtype of the data.
        accumulator: dtype of the accumulators, float32 or int32. Integers are converted after ``finish``.
        lanes: Channels of a vector, for tiles of a multiple of them; by default those of a vector of float32.
        instruction: The instruction that multiplies, for the report.
        subtracted: A number that is subtracted from the data before they are combined; None for 0.
    """

    name: str
    initial: float | np.ndarray
    combine: Combine
    finish: Callable[[tirx.Expr, Index, Index], tirx.Expr] | None = None
    weights: np.ndarray | None = None
    data: str = "float32"
    accumulator: str = "float32"
    lanes: int | None = None
    instruction: str = ""
    subtracted: Number | None = None


@dataclass(frozen=True)
class WindowTile:
    """The block of outputs that a window kernel keeps in registers.

    Attributes:
        pixels: Neighbouring output pixels of a row.
        channels: Channels, a multiple of the vector length.
    """

    pixels: int
    channels: int

    def __str__(self) -> str:
        return f"{self.pixels}x{self.channels}"


def window_tiles(shape: Conv2dShape, isa: Isa, packed: bool = True) -> list[WindowTile]:
    """All tiles worth measuring, the default first.

    Larger tiles, which cut a row into fewer pieces, come first. If windows share no columns, tiles of about two pixels
    come first.

    Args:
        shape: Shape of the layer.
        isa: The instruction set.
        packed: Whether an output is packed, which needs 8 channels at a time.
    """
    vectors = max(1, 8 // isa.float_lanes)
    most = min(MAX_TILE, isa.registers // 2 // vectors)
    if isa.architecture == "aarch64" and not packed:
        # Every load is an instruction. More pixels, of one vector, load fewer columns each. The compiler loads columns
        # ahead: beyond this number of pixels, results are spilled.
        vectors, taps, stride = 1, shape.kernel[1], shape.strides[1]
        most = max(1, (isa.registers + 2 - 2 * taps + stride) // (1 + stride))
    fewest = -(-shape.out_width // most)
    # All tiles of a row have about the same size.
    sizes = dict.fromkeys(-(-shape.out_width // count) for count in range(fewest, shape.out_width + 1))
    ranked = sorted(sizes, key=lambda pixels: abs(pixels - 2)) if shape.strides[1] >= shape.kernel[1] else sizes
    return [WindowTile(pixels, vectors * isa.float_lanes) for pixels in ranked]


def window_kernel(
    operation: WindowOperation, shape: Conv2dShape, epilogue: Program, isa: Isa, tile: WindowTile | None = None
) -> Kernel:
    """A kernel over sliding windows that processes each channel separately.

    Args:
        operation: The operation on each window.
        shape: Shape of the layer, with ``in_channels == out_channels``.
        epilogue: Ref(0) is the result of the operation.
        isa: The instruction set.
        tile: One of ``window_tiles(shape, isa, epilogue.packed)``; by default the first.

    Returns:
        ``func(data [N, H, W, C], *tensors, weights?, *constants, *outputs)``.
    """
    tile = tile or window_tiles(shape, isa, epilogue.packed)[0]
    pixels, run = tile.pixels, tile.channels
    lanes = isa.float_lanes if operation.lanes is None or run % operation.lanes else operation.lanes
    out_shape = (shape.batch, shape.out_height, shape.out_width, shape.in_channels)
    read = () if operation.subtracted is None else (operation.subtracted,)
    writer = EpilogueWriter(epilogue, out_shape, isa, shape.border_classes(), read=read)
    with KernelBuilder(operation.name) as builder:
        data = builder.data((shape.batch, shape.height, shape.width, shape.in_channels), operation.data)
        weights = None
        if operation.weights is not None:
            padded = np.pad(operation.weights, [(0, 0), (0, 0), (0, -shape.in_channels % run)])
            weights = builder.constant("weights", np.ascontiguousarray(padded))
        initial = None
        if isinstance(operation.initial, np.ndarray):
            initial = builder.constant("initial", np.pad(operation.initial, (0, -shape.in_channels % run)))
        writer.declare(builder)
        registers = _RegisterTile(
            operation=operation,
            shape=shape,
            data=data,
            weights=weights,
            initial=initial,
            writer=writer,
            lanes=lanes,
            vectors=run // lanes,
        )
        rows = shape.batch * shape.out_height
        with parallel_rows(rows, rows * shape.out_width * shape.in_channels * shape.kernel[0]) as index:
            row = _Row.emit(shape, index)
            for start, size, count in column_spans(shape, pixels):
                if count == 1:
                    registers.emit(row, start, size)
                else:
                    with T.serial(0, count) as i:
                        registers.emit(row, start + i * size, size)
    return builder.kernel(" ".join(filter(None, (operation.name, str(tile), operation.instruction))))


class _Row(NamedTuple):
    """An output row: image n, row y, first input row of its windows, and the tap rows [first, end) inside the image."""

    n: Index
    y: Index
    top: Index
    first_tap: Index
    end_tap: Index

    @classmethod
    def emit(cls, shape: Conv2dShape, index: Index) -> _Row:
        n, y = index // shape.out_height, index % shape.out_height
        top = T.bind(y * shape.strides[0] - shape.padding[0])
        first, end = taps_inside(top, shape.kernel[0], shape.dilation[0], 0, shape.height)
        return cls(n, y, top, T.bind(first), T.bind(end))


@dataclass(frozen=True, eq=False)
class _RegisterTile:
    """Emits the code of register tiles: neighbouring outputs of a row times ``vectors`` vectors of channels."""

    operation: WindowOperation
    shape: Conv2dShape
    data: tirx.Buffer
    weights: tirx.Buffer | None
    initial: tirx.Buffer | None
    writer: EpilogueWriter
    lanes: int
    vectors: int

    def emit(self, row: _Row, start: Index, pixels: int) -> None:
        """Emit all channels of a tile of ``pixels`` outputs that starts at output column ``start``."""
        run = self.lanes * self.vectors
        for_blocks(self.shape.in_channels, run, partial(self._emit_block, row, start, pixels))

    def _emit_block(self, row: _Row, start: Index, pixels: int, channel: Index, valid: int) -> None:
        lanes, left = self.lanes, start * self.shape.strides[1] - self.shape.padding[1]
        vectors = [v for v in range(self.vectors) if v * lanes < valid]
        vector_type = VectorType(self.operation.accumulator, lanes)
        accumulators = T.alloc_buffer((pixels * self.vectors * lanes,), vector_type.element)

        def place(pixel: int, vector: int) -> int:
            return (pixel * self.vectors + vector) * lanes

        def accumulator(pixel: int, vector: int) -> tirx.Expr:
            return load(accumulators, (), place(pixel, vector), lanes)

        for pixel in range(pixels):
            for vector in range(self.vectors):
                store(accumulators, self._first(channel + vector * lanes), (), place(pixel, vector))
        with T.serial(row.first_tap, row.end_tap) as ky:
            y = T.bind(row.top + ky * self.shape.dilation[0])
            for vector in vectors:
                first = channel + vector * lanes
                weights = self._weights(ky, first)
                for column, uses in self._columns(left, pixels):
                    value = load(self.data, (row.n, y, left + column), first, lanes, valid - vector * lanes)
                    value = vector_type.cast(value)
                    if self.operation.subtracted is not None:
                        number = tirx.Cast(vector_type.element, self.writer.number(self.operation.subtracted))
                        value = value - vector_type.broadcast(number)
                    value = T.bind(value)
                    for pixel, kx in uses:
                        combined = self.operation.combine(accumulator(pixel, vector), value, weights[kx])
                        store(accumulators, combined, (), place(pixel, vector))
        for pixel in range(pixels):
            values = [accumulator(pixel, vector) for vector in range(self.vectors)]
            if self.operation.finish is not None:
                x = left + pixel * self.shape.strides[1]
                values = [self.operation.finish(value, row.top, x) for value in values]
            floats = [VectorType("float32", lanes).cast(value) for value in values]
            self.writer.store(self._split(floats), (row.n, row.y, start + pixel), channel)

    def _split(self, values: list[tirx.Expr]) -> list[tirx.Expr]:
        """Vectors as long as those of floats."""
        lanes = self.writer.isa.float_lanes
        if lanes == self.lanes:
            return values
        starts = range(0, self.lanes, lanes)
        return [tirx.Shuffle([T.bind(v)], list(range(start, start + lanes))) for v in values for start in starts]

    def _first(self, channel: Index) -> tirx.Expr:
        """The initial accumulator of a vector of channels."""
        if self.initial is not None:
            return load(self.initial, (), channel, self.lanes)
        assert not isinstance(self.operation.initial, np.ndarray)
        return VectorType(self.operation.accumulator, self.lanes).constant(self.operation.initial)

    def _weights(self, ky: Index, first_channel: Index) -> Sequence[tirx.Expr | None]:
        """The weights of tap row ``ky``, one vector per tap; None for each tap without weights."""
        taps = range(self.shape.kernel[1])
        if self.weights is None:
            return [None for _ in taps]
        return [T.bind(load(self.weights, (ky, kx), first_channel, self.lanes)) for kx in taps]

    def _columns(self, left: Index, pixels: int) -> list[tuple[int, list[tuple[int, int]]]]:
        """The input columns of a tile, relative to its left edge, each with the (pixel, tap) pairs that read it."""
        uses: dict[int, list[tuple[int, int]]] = {}
        for pixel in range(pixels):
            for kx in range(self.shape.kernel[1]):
                column = pixel * self.shape.strides[1] + kx * self.shape.dilation[1]
                if not isinstance(left, int) or 0 <= left + column < self.shape.width:
                    uses.setdefault(column, []).append((pixel, kx))
        return sorted(uses.items())
