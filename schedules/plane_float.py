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

_TILE = 64  # the constants of the epilogue have a multiple of so many channels


class FloatSink:
    """Evaluates a program on the layer's result, NHWC.

    Raises:
        ValueError: If the program's constants do not fit the layer.
    """

    overflow = False

    def __init__(self, counting: PlaneCounting, epilogue: Program) -> None:
        self.counting = counting
        shape, isa = counting.shape, counting.isa
        out_shape = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
        self._classes = shape.border_classes()
        self._writer = EpilogueWriter(epilogue, out_shape, isa, self._classes, _TILE)
        self._run = min(_TILE, max(16, 4 * isa.float_lanes))
        self._bytes = -(-counting.levels // 8)
        self._functions: set[LlvmFunction] = set()
        padding = [(0, 0), (0, -shape.out_channels % _TILE)]
        tables = [np.pad(counting.factor[None], padding), np.pad(counting.base, padding)]
        self._tables: list[np.ndarray] = [table.astype(np.float32) for table in tables]
        if len(counting.base) > 1:
            classes = self._classes
            self._tables += [classes.row_class * np.int32(classes.columns), classes.col_class]

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

    def begin(self, vector: tirx.Expr, chunk: tirx.Expr) -> None:
        """Make room for the counts of a chunk."""
        counting = self.counting
        self._vector, self._first = vector, T.bind(chunk * counting.chunk)
        rows = -(-counting.chunk // self._run) * self._run
        self._counts = T.alloc_buffer((self._bytes, rows, 8, counting.target.vector_bits // 8), "uint8")

    def start(self, number: tirx.Expr, level: int) -> tirx.Expr | None:
        """Counters start at 0."""
        return None

    def store(self, planes: Sequence[tirx.Expr], number: tirx.Expr, channel: tirx.Expr) -> None:
        """Turn the planes of a channel into bytes."""
        words = self.counting.target.words
        zeros = [words_of(0, words)] * (-len(planes) % 8)
        padded = [*planes, *zeros]
        for byte in range(self._bytes):
            for k, row in enumerate(transpose_bytes(padded[8 * byte : 8 * byte + 8], self._functions)):
                # Not as words: TVM tells LLVM that accesses of different types never touch the same memory.
                octets = tirx.reinterpret(f"uint8x{8 * words}", row)
                at = [byte, channel - self._first, k, tirx.Ramp(0, 1, 8 * words)]
                T.buffer_store(self._counts, octets, at)

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
                self._pixel(pixels, i, T.bind((block * side + i) * 8 + k), T.bind(self._first + first))

    def _pixel(self, pixels: tirx.Buffer, i: tirx.Expr, bit: tirx.Expr, first: tirx.Expr) -> None:
        (n, y, x), inside = pixel_of(self.counting.target, self._vector, bit)
        with T.If(inside), T.Then():
            border = self._buffers[2][y] + self._buffers[3][x] if len(self._buffers) > 2 else tirx.const(0, "int32")
            border = T.bind(border)
            lanes = self.counting.isa.float_lanes
            values = []
            for v in range(0, self._run, lanes):
                count = tirx.Cast(f"int32x{lanes}", pixels.vload([0, i, v], f"uint8x{lanes}"))
                for byte in range(1, self._bytes):
                    more = tirx.Cast(f"int32x{lanes}", pixels.vload([byte, i, v], f"uint8x{lanes}"))
                    count = count + more * tirx.Broadcast(tirx.const(1 << 8 * byte, "int32"), lanes)
                factor = self._buffers[0].vload([0, first + v], f"float32x{lanes}")
                base = self._buffers[1].vload([border, first + v], f"float32x{lanes}")
                # Integers far below 2^24: exact, fused or not.
                values.append(T.bind(tirx.Cast(f"float32x{lanes}", count) * factor + base))
            self._writer.store(values, (n, y, x), first)
