"""Vectors in TIR: their types, constants, loads, stores, and transposes in registers.

TIR has no vector of one lane. Such a vector is a scalar: its index is no ramp, and its constants are not broadcast.
Everything here treats it like the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

Index: TypeAlias = tirx.Expr | int


@dataclass(frozen=True)
class VectorType:
    """``lanes`` values of a dtype. Its text is the dtype in TIR, for example ``"uint64x4"``, or ``"uint64"`` for one.

    Attributes:
        element: dtype of a lane.
        lanes: At least 1.
    """

    element: str
    lanes: int

    @classmethod
    def of(cls, value: tirx.Expr) -> VectorType:
        """The type of an expression."""
        dtype = value.ty.dtype
        return cls(str(dtype.with_lanes(1)), int(dtype.lanes))

    def __str__(self) -> str:
        return f"{self.element}x{self.lanes}" if self.lanes > 1 else self.element

    @property
    def bits(self) -> int:
        """Bits of a lane."""
        return int(tvm.DataType(self.element).bits)

    @property
    def llvm(self) -> str:
        """The type in LLVM IR, for example ``"<4 x i64>"`` or ``"i64"``."""
        scalar = "float" if self.element == "float32" else f"i{self.bits}"
        return f"<{self.lanes} x {scalar}>" if self.lanes > 1 else scalar

    def constant(self, value: float) -> tirx.Expr:
        """A number in every lane."""
        return self.broadcast(tirx.const(value, self.element))

    def broadcast(self, scalar: tirx.Expr) -> tirx.Expr:
        """An expression of dtype ``element`` in every lane."""
        return tirx.Broadcast(scalar, self.lanes) if self.lanes > 1 else scalar

    def cast(self, value: tirx.Expr) -> tirx.Expr:
        """A vector of as many lanes, converted."""
        return tirx.Cast(str(self), value)

    def reinterpret(self, value: tirx.Expr) -> tirx.Expr:
        """A vector of as many bits, read as this type."""
        return tirx.reinterpret(str(self), value)


def load(
    buffer: tirx.Buffer, position: Sequence[Index], first: Index, lanes: int, valid: int | None = None
) -> tirx.Expr:
    """A vector from the last axis; only ``valid`` lanes are read, the others are 0.

    Args:
        buffer: Its last axis is contiguous.
        position: Indices of the other axes.
        first: Index of the first lane.
        lanes: Lanes of the result.
        valid: Lanes that may be read, by default all; below 1 nothing is read.
    """
    vector = VectorType(str(buffer.dtype), lanes)
    if valid is None or valid >= lanes:
        return buffer.vload([*position, first], str(vector))
    if valid <= 0:
        return vector.constant(0)
    pieces = [load(buffer, position, first + start, size) for start, size in powers_of_two(valid)]
    pieces += [tirx.const(0, vector.element)] * (lanes - valid)
    return tirx.Shuffle(pieces, list(range(lanes)))


def store(
    buffer: tirx.Buffer, value: tirx.Expr, position: Sequence[Index], first: Index, valid: int | None = None
) -> None:
    """Emit a store of a vector to the last axis; only its first ``valid`` lanes are written, by default all."""
    lanes = value.ty.dtype.lanes
    if valid is None or valid >= lanes:
        T.buffer_store(buffer, value, [*position, tirx.Ramp(first, 1, lanes) if lanes > 1 else first])
        return
    for start, size in powers_of_two(max(valid, 0)):
        piece = tirx.Shuffle([value], list(range(start, start + size)))
        store(buffer, piece, position, first + start)


def powers_of_two(length: int) -> list[tuple[int, int]]:
    """Cut [0, length) into (start, size) with sizes that are powers of two."""
    pieces, start = [], 0
    for bit in reversed(range(length.bit_length())):
        if length >> bit & 1:
            pieces.append((start, 1 << bit))
            start += 1 << bit
    return pieces


def transposed(vectors: list[tirx.Expr]) -> list[tirx.Expr]:
    """Transpose a square of vectors: swap the off-diagonal blocks of 1, 2, 4 ... lanes."""
    lanes = len(vectors)
    block = 1
    while block < lanes:
        upper = [lanes + i - block if i & block else i for i in range(lanes)]
        lower = [lanes + i if i & block else i + block for i in range(lanes)]
        for i in range(lanes):
            if not i & block:
                pair = [vectors[i], vectors[i + block]]
                vectors[i], vectors[i + block] = (T.bind(tirx.Shuffle(pair, order)) for order in (upper, lower))
        block *= 2
    return vectors
