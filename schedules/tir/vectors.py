"""Vectors in TIR: their types, constants, loads, stores, and transposes in registers.

TIR has no vector of one lane: it is a scalar, without a ramp as its index and without broadcasts. The functions here
accept one lane like any other number of lanes.
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
    """A vector type: ``lanes`` values of a dtype. ``str`` gives the dtype in TIR, for example ``"uint64x4"``.

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
        """Bits per lane."""
        return int(tvm.DataType(self.element).bits)

    @property
    def llvm(self) -> str:
        """The type in LLVM IR, for example ``"<4 x i64>"`` or ``"i64"``."""
        scalar = "float" if self.element == "float32" else f"i{self.bits}"
        return f"<{self.lanes} x {scalar}>" if self.lanes > 1 else scalar

    def constant(self, value: float) -> tirx.Expr:
        """A vector with the same number in every lane."""
        return self.broadcast(tirx.const(value, self.element))

    def broadcast(self, scalar: tirx.Expr) -> tirx.Expr:
        """A vector with the same scalar, of dtype ``element``, in every lane."""
        return tirx.Broadcast(scalar, self.lanes) if self.lanes > 1 else scalar

    def cast(self, value: tirx.Expr) -> tirx.Expr:
        """Convert a vector with the same number of lanes to this type."""
        return tirx.Cast(str(self), value)

    def reinterpret(self, value: tirx.Expr) -> tirx.Expr:
        """Reinterpret the bits of a vector of the same size as this type."""
        return tirx.reinterpret(str(self), value)


def load(
    buffer: tirx.Buffer, position: Sequence[Index], first: Index, lanes: int, valid: int | None = None
) -> tirx.Expr:
    """Load a vector from the last axis; only the first ``valid`` lanes are read, the others are 0.

    Args:
        buffer: A buffer with a contiguous last axis.
        position: Indices of the other axes.
        first: Index of the first lane.
        lanes: Lanes of the result.
        valid: Number of lanes that may be read; by default all. Below 1 nothing is read.
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


def lanes_of(vector: tirx.Expr, lanes: int) -> list[tirx.Expr]:
    """For each lane of a vector, a vector of ``lanes`` lanes that all hold it.

    Where a multiply-add takes a factor from one lane of a register, no instruction makes them.
    """
    source = VectorType.of(vector)
    scalars = [tirx.Shuffle([vector], [i]) for i in range(source.lanes)] if source.lanes > 1 else [vector]
    return [VectorType(source.element, lanes).broadcast(scalar) for scalar in scalars]


def powers_of_two(length: int, most: int | None = None) -> list[tuple[int, int]]:
    """Split [0, length) into pieces (start, size) whose sizes are powers of two, at most ``most``, largest first."""
    pieces, start = [], 0
    while start < length:
        size = 1 << (length - start).bit_length() - 1
        size = size if most is None else min(size, most)
        pieces.append((start, size))
        start += size
    return pieces


def transposed(vectors: list[tirx.Expr]) -> list[tirx.Expr]:
    """Transpose a square matrix of vectors in registers, by swapping off-diagonal blocks of 1, 2, 4, ... lanes."""
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
