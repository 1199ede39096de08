"""Transpose the counts of pixels and channels: from channel-major to pixel-major order.

A sink stores the counts of one channel after the other. They are transposed in place, in squares: a square has as many
channels as a vector register has counts. With one byte per count::

    before: counts[0][c0 + i][k][j] of channel c0 + i, pixel 8 j + k            c0 a multiple of octets
    after:  counts[0][c0 + j][k][i]

There are two steps. The first transposes small squares inside the 16-byte lanes, in all lanes of the registers at once.
Its rows are as many registers as a lane has counts. The second step transposes whole lanes between registers. Both
interleave the rows of one half of a square with the rows of the other half, log2(rows) times.

A count of two bytes is stored as two registers of bytes, the low bytes and the high bytes. They become two registers of
16-bit counts: the first half of the pixels of each lane, and the second half.
"""

from __future__ import annotations

from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script import builder as T

from ..tir.vectors import VectorType, load, store

_LANE = 16  # bytes; interleaving instructions work within such lanes, in larger registers too


@dataclass(frozen=True)
class CountSquares:
    """An array of counts, uint8 [parts, channels, 8, octets].

    Attributes:
        parts: Bytes per count: 1, or a multiple of 2.
        channels: A multiple of ``square``.
        octets: Groups of 8 pixels: 8, or 16 times a power of two.
    """

    parts: int
    channels: int
    octets: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the array."""
        return self.parts, self.channels, 8, self.octets

    @property
    def _size(self) -> int:
        """Bytes of one transposed element."""
        return min(self.parts, 2)

    @property
    def _lane(self) -> int:
        return min(_LANE, self.octets)

    @property
    def square(self) -> int:
        """Channels per square."""
        return self.octets // self._size

    def transpose(self, counts: tirx.Buffer, first: tirx.Expr, run: int) -> None:
        """Emit the transposes of ``run`` channels, a multiple of ``square``, in place."""
        for part in range(0, self.parts, self._size):
            self._transpose_in_lanes(counts, part, first, run)
            if self.octets > self._lane:
                for i in range(self._size):
                    self._transpose_lanes(counts, part + i, first, run)

    def _transpose_in_lanes(self, counts: tirx.Buffer, part: int, first: tirx.Expr, run: int) -> None:
        size, side = self._size, self._lane // self._size
        with T.serial(0, run // side) as square, T.serial(0, 8) as k:
            line = T.bind(first + square * side)
            rows = [[self._load(counts, part + i, line + j, k) for j in range(side)] for i in range(size)]
            if size == 2:  # put both bytes of a pixel side by side
                pairs = list(zip(*rows, strict=True))
                rows = [[_interleaved(low, high, half, self._lane, 1) for low, high in pairs] for half in (0, 1)]
            for i in range(size):
                for j, column in enumerate(_transposed_squares(rows[i], self._lane, size)):
                    self._store(counts, column, part + i, line + j, k)

    def _transpose_lanes(self, counts: tirx.Buffer, part: int, first: tirx.Expr, run: int) -> None:
        side, lanes = self._lane // self._size, self.octets // self._lane
        with T.serial(0, run // self.square) as square, T.serial(0, side) as j, T.serial(0, 8) as k:
            line = T.bind(first + square * self.square + j)
            rows = [self._load(counts, part, line + side * lane, k) for lane in range(lanes)]
            for lane, column in enumerate(_transposed_squares(rows, self.octets, _LANE)):
                self._store(counts, column, part, line + side * lane, k)

    def load(
        self, counts: tirx.Buffer, pixel: tuple[tirx.Expr, tirx.Expr], first: tirx.Expr, start: int, lanes: int
    ) -> tirx.Expr:
        """The counts of one pixel in ``lanes`` channels from ``first + start`` on, a vector of int32.

        Args:
            counts: The transposed counts.
            pixel: (octet, k) of pixel ``8 octet + k``.
            first: Same as in ``transpose``.
            start: A multiple of ``lanes``.
            lanes: A power of two.
        """
        octet, k = pixel
        size, side = self._size, self._lane // self._size
        width = min(lanes, self.square)
        line = first + octet // self._lane * side + octet % side
        total, integers = None, VectorType("int32", lanes)
        for part in range(0, self.parts, size):
            half = part + octet % self._lane // side
            pieces = []
            for channel in range(start, start + lanes, width):
                square, at = divmod(channel, self.square)
                pieces.append(load(counts, (half, line + square * self.square, k), at * size, width * size))
            joined = pieces[0] if len(pieces) == 1 else tirx.Shuffle(pieces, list(range(lanes * size)))
            number = integers.cast(VectorType(f"uint{8 * size}", lanes).reinterpret(joined))
            shifted = number << integers.constant(8 * part)
            total = number if total is None else total + shifted
        return total

    def _load(self, counts: tirx.Buffer, part: int, line: tirx.Expr, k: tirx.Expr) -> tirx.Expr:
        return T.bind(load(counts, (part, line, k), 0, self.octets))

    def _store(self, counts: tirx.Buffer, row: tirx.Expr, part: int, line: tirx.Expr, k: tirx.Expr) -> None:
        store(counts, row, (part, line, k), 0)


def _transposed_squares(rows: list[tirx.Expr], row: int, size: int) -> list[tirx.Expr]:
    """Transpose squares of elements of ``size`` bytes: one square in each ``row`` bytes of the vectors."""
    half = len(rows) // 2
    for _ in range(len(rows).bit_length() - 1):
        rows = [_interleaved(rows[i], rows[i + half], which, row, size) for i in range(half) for which in (0, 1)]
    return rows


def _interleaved(a: tirx.Expr, b: tirx.Expr, which: int, row: int, size: int) -> tirx.Expr:
    """Interleave the lower (0) or upper (1) halves of ``a`` and ``b``, separately in each row of ``row`` bytes."""
    octets = a.ty.dtype.lanes
    order = [
        of + start + which * row // 2 + element * size + byte
        for start in range(0, octets, row)
        for element in range(row // size // 2)
        for of in (0, octets)
        for byte in range(size)
    ]
    return T.bind(tirx.Shuffle([a, b], order))
