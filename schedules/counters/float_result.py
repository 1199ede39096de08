"""Float results of sparse convolutions: bit-sliced counters become float32, the input of an epilogue program.

Transposes of 8x8 bits turn the planes of a channel into bytes, one per pixel. When all channels of a chunk are counted,
squares of channels and pixels are transposed in place (count_transpose.py). The epilogue then gets runs of channels,
pixel by pixel along the rows of the image, in the order of the output in memory::

    for channel: counts[part][channel][k][i] = counter of pixel 8 i + k     several bytes if a counter has over 8 bits
    for run of channels:
        for square of channels, k: transpose channels x i                   in registers
        for row of pixels, i, k: if the pixel exists:
            epilogue(factor * count + base)                                 epilogue/writer.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter
from ..layouts.bit_transpose import transpose_bytes
from ..layouts.plane_pixels import PixelPosition, column_of, row_of
from ..tir.kernel_builder import KernelBuilder
from ..tir.vectors import VectorType, load, store
from .count_transpose import CountSquares
from .counting import PlaneCounting
from .window_counts import WindowCounts

_TILE = 64  # the constants of the epilogue are padded to a multiple of this many channels


class FloatResult:
    """Evaluates a program on the layer's result and stores its outputs, NHWC.

    Raises:
        ValueError: If the program's constants do not fit the layer.
    """

    def __init__(self, counting: PlaneCounting, epilogue: Program) -> None:
        self.counting = counting
        shape, isa = counting.shape, counting.isa
        out_shape = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
        self._classes = shape.border_classes()
        self._writer = EpilogueWriter(epilogue, out_shape, isa, self._classes, _TILE)
        octets = counting.target.vector_bits // 8
        self._run = max(octets // min(2, counting.count_bytes), min(counting.chunk, 4 * isa.float_lanes), 16)
        self._squares = CountSquares(counting.count_bytes, -(-counting.chunk // self._run) * self._run, octets)
        self._window_bytes = -(-counting.window_levels // 8)
        padding = [(0, 0), (0, -shape.out_channels % _TILE)]
        tables = [np.pad(counting.factor[None], padding), np.pad(counting.base, padding)]
        if counting.signs:
            tables[0] = np.concatenate([2 * tables[0], tables[0]])
        self._tables: list[np.ndarray] = [table.astype(np.float32) for table in tables]
        if len(counting.base) > 1:
            classes = self._classes
            self._tables += [classes.row_class * np.int32(classes.columns), classes.col_class]

    @property
    def values(self) -> int:
        """Number of results: all output elements."""
        shape = self.counting.shape
        return shape.batch * shape.out_height * shape.out_width * shape.out_channels

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the tables (factors, bases, border classes of rows and columns), then the epilogue's operands."""
        names = ("factor", "base", "row_border", "column_border")
        self._buffers = [builder.constant(*each) for each in zip(names, self._tables, strict=False)]
        self._writer.declare(builder)
        builder.in_place = self._writer.in_place  # each pixel is stored once

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr, windows: WindowCounts | None) -> None:
        """Allocate the counts of a chunk; convert the counts of the windows into bytes."""
        counting = self.counting
        self._vector, self._first = vector, T.bind(chunk * counting.chunk)
        self._counts = T.alloc_buffer(self._squares.shape, "uint8")
        self._windows: tirx.Buffer | None = None
        if windows is not None:
            groups = counting.shape.groups
            self._windows = T.alloc_buffer((self._window_bytes, groups, 8, counting.target.vector_bits // 8), "uint8")
            with T.serial(0, groups) as group:
                planes = [windows.load(vector, group, level) for level in range(counting.window_levels)]
                self._store_bytes(self._windows, planes, group)

    def store(self, planes: Sequence[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Convert the planes of a channel into bytes."""
        self._store_bytes(self._counts, planes, channel - self._first)

    def _store_bytes(self, target: tirx.Buffer, planes: Sequence[tirx.Expr], line: tirx.Expr) -> None:
        words = self.counting.target.words
        padded = [*planes, *[VectorType("uint64", words).constant(0)] * (8 * int(target.shape[0]) - len(planes))]
        for part in range(int(target.shape[0])):
            for k, row in enumerate(transpose_bytes(padded[8 * part : 8 * part + 8])):
                # Store bytes, not words: TVM tells LLVM that accesses of different types never alias.
                octets = VectorType("uint8", 8 * words).reinterpret(row)
                store(target, octets, (part, line, k), 0)

    def end(self) -> None:
        """Evaluate the epilogue for all pixels and channels of the chunk."""
        counting, run, target = self.counting, self._run, self.counting.target
        channels, octets = counting.shape.out_channels, target.row_bits // 8
        left = tirx.min(counting.chunk, channels - self._first) if channels % counting.chunk else counting.chunk
        with T.serial(0, (left + run - 1) // run) as number:
            first = T.bind(number * run)
            self._squares.transpose(self._counts, first, run)
            with T.serial(0, target.images * target.rows) as lane:
                n, y, inside = row_of(target, self._vector, lane)
                with T.If(inside), T.Then(), T.serial(0, -(-target.columns // 8)) as i, T.serial(0, 8) as k:
                    x, inside = column_of(target, self._vector, i * 8 + k)
                    with T.If(inside), T.Then():
                        self._pixel((n, y, x), T.bind(lane * octets + i), k, first)

    def _pixel(self, pixel: PixelPosition, octet: tirx.Expr, k: tirx.Expr, first: tirx.Expr) -> None:
        _, y, x = pixel
        border = self._buffers[2][y] + self._buffers[3][x] if len(self._buffers) > 2 else tirx.const(0, "int32")
        border, channel = T.bind(border), T.bind(self._first + first)
        factors, bases, *_ = self._buffers
        lanes = self.counting.isa.float_lanes
        vector = VectorType("float32", lanes)
        windows = self._window_numbers(octet, k)
        values = []
        for v in range(0, self._run, lanes):
            count = self._squares.load(self._counts, (octet, k), first, v, lanes)
            value = load(bases, (border,), channel + v, lanes)
            # All values are integers far below 2^24, so the result is exact with and without fused multiply-add.
            if windows is not None:
                value = self._of_groups(windows, channel + v) * load(factors, (1,), channel + v, lanes) + value
            value = vector.cast(count) * load(factors, (0,), channel + v, lanes) + value
            values.append(T.bind(value))
        self._writer.store(values, pixel, channel)

    def _window_numbers(self, octet: tirx.Expr, k: tirx.Expr) -> tirx.Buffer | None:
        """The window count of a pixel, per group, float32 [groups]; None without window counts."""
        if self._windows is None:
            return None
        numbers = T.alloc_buffer((self.counting.shape.groups,), "float32")
        with T.serial(0, self.counting.shape.groups) as group:
            octets = [tirx.Cast("int32", self._windows[i, group, k, octet]) for i in range(self._window_bytes)]
            T.buffer_store(numbers, tirx.Cast("float32", sum(each << 8 * i for i, each in enumerate(octets))), [group])
        return numbers

    def _of_groups(self, numbers: tirx.Buffer, first: tirx.Expr) -> tirx.Expr:
        """The window counts for a vector of channels, each from the channel's group."""
        shape, lanes = self.counting.shape, self.counting.isa.float_lanes
        if shape.groups == 1 or shape.group_out_channels % lanes == 0:
            group = first // shape.group_out_channels if shape.groups > 1 else 0
            return VectorType("float32", lanes).broadcast(numbers[tirx.min(group, shape.groups - 1)])
        groups = [tirx.min((first + i) // shape.group_out_channels, shape.groups - 1) for i in range(lanes)]
        return tirx.Shuffle([numbers[group] for group in groups], list(range(lanes)))
