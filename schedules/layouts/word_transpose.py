"""The transpose of 64x64 bits: a function that all kernels of a library share."""

from __future__ import annotations

from functools import cache

from tvm import tirx

from ..isa import Isa
from ..tir.llvm import ROLLED, LlvmFunction
from ..tir.vectors import VectorType
from .bit_transpose import swap_lines


def transpose_words(square: tirx.Buffer, isa: Isa) -> None:
    """Emit the transpose of 64x64 bits in place: bit c of word r becomes bit r of word c.

    Args:
        square: uint64 [64].
        isa: The instruction set.
    """
    words = 1 if isa.scalar or isa.small else isa.vector_bits // 64
    _transpose(words).emit(tirx.address_of(square[0]))


@cache
def _transpose(words: int) -> LlvmFunction:
    """The function of a pointer to the words, which uses vectors of ``words`` words.

    One loop swaps blocks of 32, 16 and 8 bits, in vectors of neighbouring rows. Another one swaps the smaller blocks,
    in vectors of every 8th row, whose squares of words are transposed when they are loaded and stored.
    """
    vector = VectorType("uint64", words)
    blocks, bits = _Loop("blocks", "entry", 1, vector), _Loop("bits", "blocks", 8, vector)
    rows = blocks.swapped([blocks.load(8 * i) for i in range(8)], 8)
    for i, row in enumerate(rows):
        blocks.store(8 * i, row)
    places = [8 * row + first for first in range(0, 8, words) for row in range(words)]
    rows = bits.transposed(bits.swapped(bits.transposed([bits.load(at) for at in places]), 1))
    for at, row in zip(places, rows, strict=True):
        bits.store(at, row)
    lines = ["br label %blocks", *blocks.until("bits"), *bits.until("done"), "done:", "ret i32 0"]
    return LlvmFunction.shared(f"sbnn_transpose_words_{words}", VectorType("int32", 1), ["ptr %square"], lines)


class _Loop:
    """Writes a loop over 8 numbers, as many at a time as a vector has words; the body handles 8 vectors."""

    def __init__(self, label: str, before: str, stride: int, vector: VectorType) -> None:
        """Begin the loop.

        Args:
            label: Its label.
            before: The label of the block before it; ``entry`` is the first one.
            stride: Words between two neighbouring numbers.
            vector: The type of the vectors.
        """
        self._label, self._vector, self._count = label, vector, 0
        came = "%0" if before == "entry" else f"%{before}"
        self._lines = [
            f"{label}:",
            f"%i.{label} = phi i64 [ 0, {came} ], [ %next.{label}, %{label} ]",
            f"%at.{label} = getelementptr [{stride} x i64], ptr %square, i64 %i.{label}",
            ROLLED,
        ]

    def load(self, at: int) -> str:
        """Load the vector that begins ``at`` words after the place of this iteration."""
        pointer, value = self._pointer(at), self._name()
        self._lines.append(f"{value} = load {self._vector.llvm}, ptr {pointer}, align 8")
        return value

    def store(self, at: int, value: str) -> None:
        """Store a vector; see ``load``."""
        self._lines.append(f"store {self._vector.llvm} {value}, ptr {self._pointer(at)}, align 8")

    def swapped(self, rows: list[str], unit: int) -> list[str]:
        """Swap the blocks of 4, 2 and 1 times ``unit`` bits between the rows of that distance."""
        rows = list(rows)
        for distance in (4, 2, 1):
            for low in (i for i in range(8) if not i & distance):
                pair = rows[low], rows[low + distance]
                for at, high in ((low, False), (low + distance, True)):
                    rows[at] = self._name()
                    self._lines += swap_lines(unit * distance, high, self._vector, pair, rows[at])
        return rows

    def transposed(self, rows: list[str]) -> list[str]:
        """Transpose each square of as many rows as a vector has words."""
        rows, words, kind = list(rows), self._vector.lanes, self._vector.llvm
        distance = 1
        while distance < words:
            for low in (i for i in range(8) if not i & distance):
                pair = rows[low], rows[low + distance]
                for at, high in ((low, False), (low + distance, True)):
                    places = [
                        (words + i if i & distance else i + distance)
                        if high
                        else (words + i - distance if i & distance else i)
                        for i in range(words)
                    ]
                    order = ", ".join(f"i32 {place}" for place in places)
                    rows[at] = self._name()
                    operands = f"{kind} {pair[0]}, {kind} {pair[1]}, <{words} x i32> <{order}>"
                    self._lines.append(f"{rows[at]} = shufflevector {operands}")
            distance *= 2
        return rows

    def until(self, after: str) -> list[str]:
        """The whole loop, which goes on to the block ``after``."""
        label = self._label
        return [
            *self._lines,
            f"%next.{label} = add i64 %i.{label}, {self._vector.lanes}",
            f"%end.{label} = icmp eq i64 %next.{label}, 8",
            f"br i1 %end.{label}, label %{after}, label %{label}",
        ]

    def _pointer(self, at: int) -> str:
        pointer = self._name()
        self._lines.append(f"{pointer} = getelementptr i64, ptr %at.{self._label}, i64 {at}")
        return pointer

    def _name(self) -> str:
        self._count += 1
        return f"%{self._label}.{self._count}"
