"""A sink of sparse convolutions: from bit-sliced counters to float32, and on to an epilogue program.

The counters of a channel become bytes, a pixel in each, by transposes of 8x8 bits; when all channels of a chunk are
counted, squares of channels and pixels are transposed, and the epilogue gets runs of channels, pixel by pixel::

    for channel: counts[channel][k][i] = counter of pixel 8 i + k           bytes, two where a counter needs more bits
    for run of channels, k, block of i:
        transpose channels x i                                              in registers
        for i: if there is such a pixel: epilogue(factor * count + base)    emit.py
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.bit_transpose import transpose_bytes
from sbnn_tvm.schedules.counters import words_of
from sbnn_tvm.schedules.emit import EpilogueWriter
from sbnn_tvm.schedules.epilogue import Program
from sbnn_tvm.schedules.layout import transposed
from sbnn_tvm.schedules.llvm import LlvmFunction
from sbnn_tvm.schedules.plane_counting import PlaneCounting
from sbnn_tvm.schedules.plane_pixels import pixel_of
from sbnn_tvm.schedules.plane_window_counts import WindowCounts

_TILE = 64  # the constants of the epilogue have a multiple of so many channels


class FloatSink:
    """Evaluates a program on the layer's result, NHWC.

    Raises:
        ValueError: If the program's constants do not fit the layer.
    """

    def __init__(self, counting: PlaneCounting, epilogue: Program) -> None:
        self.counting = counting
        shape, isa = counting.shape, counting.isa
        out_shape = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
        self._classes = shape.border_classes()
        self._writer = EpilogueWriter(epilogue, out_shape, isa, self._classes, _TILE)
        self._run = min(_TILE, max(16, 4 * isa.float_lanes))
        self._bytes = -(-counting.levels // 8)
        self._window_bytes = -(-counting.window_levels // 8)
        self._functions: set[LlvmFunction] = set()
        padding = [(0, 0), (0, -shape.out_channels % _TILE)]
        tables = [np.pad(counting.factor[None], padding), np.pad(counting.base, padding)]
        self._tables: list[np.ndarray] = [table.astype(np.float32) for table in tables]
        if len(counting.base) > 1:
            classes = self._classes
            self._tables += [classes.row_class * np.int32(classes.columns), classes.col_class]

    @property
    def values(self) -> int:
        """All results."""
        shape = self.counting.shape
        return shape.batch * shape.out_height * shape.out_width * shape.out_channels

    @property
    def functions(self) -> set[LlvmFunction]:
        """What the code calls."""
        return self._functions | self._writer.functions

    @property
    def constants(self) -> list[np.ndarray]:
        """Factors and bases, where there are several border classes those of rows and columns, and the epilogue's."""
        return [*self._tables, *self._writer.constants]

    @property
    def outputs(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """The epilogue's."""
        return self._writer.outputs

    def declare_tensors(self) -> None:
        """The epilogue's."""
        self._writer.declare_tensors()

    def declare_constants(self) -> None:
        """Tables, then the epilogue's constants."""
        names = ("factor", "base", "row_border", "column_border")
        self._buffers = [
            T.arg(name, T.buffer(table.shape, str(table.dtype)))
            for name, table in zip(names, self._tables, strict=False)
        ]
        self._writer.declare_constants()

    def declare_outputs(self) -> None:
        """The epilogue's."""
        self._writer.declare_outputs()

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr, windows: WindowCounts | None) -> None:
        """Make room for the counts of a chunk; turn those of the windows into bytes."""
        counting = self.counting
        self._vector, self._first = vector, T.bind(chunk * counting.chunk)
        rows = -(-counting.chunk // self._run) * self._run
        self._counts = T.alloc_buffer((self._bytes, rows, 8, counting.target.vector_bits // 8), "uint8")

        self._windows: tirx.Buffer | None = None
        if windows is not None:
            groups = counting.shape.groups
            self._windows = T.alloc_buffer((self._window_bytes, groups, 8, counting.target.vector_bits // 8), "uint8")
            with T.serial(0, groups) as group:
                planes = [windows.load(vector, group, level) for level in range(counting.window_levels)]
                self._store_bytes(self._windows, planes, group)

    def store(self, planes: Sequence[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Turn the planes of a channel into bytes."""
        self._store_bytes(self._counts, planes, channel - self._first)

    def _store_bytes(self, target: tirx.Buffer, planes: Sequence[tirx.Expr], line: tirx.Expr) -> None:
        words = self.counting.target.words
        padded = [*planes, *[words_of(0, words)] * (-len(planes) % 8)]
        for byte in range(len(padded) // 8):
            for k, row in enumerate(transpose_bytes(padded[8 * byte : 8 * byte + 8], self._functions)):
                # Not as words: TVM tells LLVM that accesses of different types never touch the same memory.
                octets = tirx.reinterpret(f"uint8x{8 * words}", row)
                T.buffer_store(target, octets, [byte, line, k, tirx.Ramp(0, 1, 8 * words)])

    def end(self) -> None:
        """Give the epilogue all channels of all pixels."""
        counting, run = self.counting, self._run
        octets = counting.target.vector_bits // 8
        side = min(16, octets)
        counts = self._counts
        channels = counting.shape.out_channels
        left = tirx.min(counting.chunk, channels - self._first) if channels % counting.chunk else counting.chunk
        with T.serial(0, (left + run - 1) // run) as number, T.serial(0, 8) as k, T.serial(0, octets // side) as block:
            first = T.bind(number * run)
            pixels = T.alloc_buffer((self._bytes, side, run), "uint8")
            for byte in range(self._bytes):
                for square in range(0, run, side):
                    lines = [
                        counts.vload([byte, first + square + i, k, block * side], f"uint8x{side}") for i in range(side)
                    ]
                    for i, column in enumerate(transposed([T.bind(line) for line in lines])):
                        T.buffer_store(pixels, column, [byte, i, tirx.Ramp(square, 1, side)])
            with T.serial(0, side) as i:
                octet = T.bind(block * side + i)
                self._pixel(pixels, i, octet, k, T.bind(self._first + first))

    def _pixel(self, pixels: tirx.Buffer, i: tirx.Expr, octet: tirx.Expr, k: tirx.Expr, first: tirx.Expr) -> None:
        (n, y, x), inside = pixel_of(self.counting.target, self._vector, T.bind(octet * 8 + k))
        with T.If(inside), T.Then():
            border = self._buffers[2][y] + self._buffers[3][x] if len(self._buffers) > 2 else tirx.const(0, "int32")
            border = T.bind(border)
            lanes = self.counting.isa.float_lanes
            windows = self._window_numbers(octet, k)
            values = []
            for v in range(0, self._run, lanes):
                count = tirx.Cast(f"int32x{lanes}", pixels.vload([0, i, v], f"uint8x{lanes}"))
                for byte in range(1, self._bytes):
                    more = tirx.Cast(f"int32x{lanes}", pixels.vload([byte, i, v], f"uint8x{lanes}"))
                    count = count + more * tirx.Broadcast(tirx.const(1 << 8 * byte, "int32"), lanes)
                if windows is not None:
                    count = count + count + self._of_groups(windows, first + v)
                factor = self._buffers[0].vload([0, first + v], f"float32x{lanes}")
                base = self._buffers[1].vload([border, first + v], f"float32x{lanes}")
                # Integers far below 2^24: exact, fused or not.
                values.append(T.bind(tirx.Cast(f"float32x{lanes}", count) * factor + base))
            self._writer.store(values, (n, y, x), first)

    def _window_numbers(self, octet: tirx.Expr, k: tirx.Expr) -> tirx.Buffer | None:
        """The number of a pixel's window, for every group."""
        if self._windows is None:
            return None
        numbers = T.alloc_buffer((self.counting.shape.groups,), "int32")
        with T.serial(0, self.counting.shape.groups) as group:
            octets = [tirx.Cast("int32", self._windows[i, group, k, octet]) for i in range(self._window_bytes)]
            T.buffer_store(numbers, sum(each << 8 * i for i, each in enumerate(octets)), [group])
        return numbers

    def _of_groups(self, numbers: tirx.Buffer, first: tirx.Expr) -> tirx.Expr:
        """For a vector of channels those of their groups."""
        shape, lanes = self.counting.shape, self.counting.isa.float_lanes
        if shape.groups == 1 or shape.group_out_channels % lanes == 0:
            group = first // shape.group_out_channels if shape.groups > 1 else 0
            return tirx.Broadcast(numbers[tirx.min(group, shape.groups - 1)], lanes)
        groups = [tirx.min((first + i) // shape.group_out_channels, shape.groups - 1) for i in range(lanes)]
        return tirx.Shuffle([numbers[group] for group in groups], list(range(lanes)))
