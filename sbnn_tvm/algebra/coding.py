"""Codings of binary weights: encode a matrix of bits in few bytes, and decode it.

A layer's weights are a matrix of bits with one row per output channel. A matrix with few set bits, or with few distinct
kernels, needs less than one bit per weight; :func:`smallest` finds the shortest coding. All codings are lossless, and
need only numpy. ONNX files store the coded arrays and decode them with the operators of ai.sbnn. Libraries store them
too, and decode them once when they are loaded.

Bit fields of an array are packed like weights: the first field is in the lowest bits of the first byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

ESCAPE = 255
"""The byte of a gap list that skips 255 bits without setting one."""


class Coding(Protocol):
    """A coded matrix of bits.

    Attributes:
        name: Name of the coding, for reports.
        shape: Rows and columns of the matrix.
    """

    name: ClassVar[str]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the matrix."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""

    def decode(self) -> np.ndarray:
        """The matrix, bool of ``shape``.

        Raises:
            ValueError: If the arrays do not describe a matrix of this shape.
        """


@dataclass(frozen=True, eq=False)
class Bitmap:
    """One bit per weight.

    Attributes:
        shape: Rows and columns of the matrix.
        packed: uint8 [rows, ceil(columns / 8)].
    """

    name: ClassVar[str] = "bitmap"

    shape: tuple[int, int]
    packed: np.ndarray

    @classmethod
    def encode(cls, bits: np.ndarray) -> Bitmap:
        """Pack bool [rows, columns]."""
        return cls(_matrix_shape(bits), np.packbits(bits.astype(bool), axis=1, bitorder="little"))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.packed.nbytes

    def decode(self) -> np.ndarray:
        """The matrix, bool of ``shape``."""
        rows, columns = self.shape
        expected = (rows, -(-columns // 8))
        if self.packed.shape != expected or self.packed.dtype != np.uint8:
            raise ValueError(
                f"a bitmap of {rows} x {columns} bits is uint8 {list(expected)}, but got {self.packed.dtype} "
                f"{list(self.packed.shape)}"
            )
        return np.unpackbits(self.packed, axis=1, count=columns, bitorder="little").astype(bool)


@dataclass(frozen=True, eq=False)
class Gaps:
    """The gaps between set bits, one byte each.

    Attributes:
        shape: Rows and columns of the matrix.
        gaps: uint8 [n], the positions of the set bits in row-major order, coded by :func:`encode_gaps`.
        inverted: uint8 [1] or [rows]: 1 for rows whose bits are stored inverted, because most of them are set.
    """

    name: ClassVar[str] = "gaps"

    shape: tuple[int, int]
    gaps: np.ndarray
    inverted: np.ndarray

    @classmethod
    def encode(cls, bits: np.ndarray) -> Gaps:
        """Code bool [rows, columns]."""
        minority, inverted = _minority(bits)
        return cls(_matrix_shape(bits), encode_gaps(np.flatnonzero(minority)), inverted)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.gaps.nbytes + self.inverted.nbytes

    def decode(self) -> np.ndarray:
        """The matrix, bool of ``shape``."""
        return _from_positions(decode_gaps(self.gaps), self.inverted, self.shape)


@dataclass(frozen=True, eq=False)
class Rice:
    """The gaps between set bits in a Golomb-Rice code. For randomly set bits its size is within 4 % of the entropy.

    A gap ``g`` is coded as ``g >> k`` in unary (that many zeros, then a one) and its ``k`` low bits. The two parts are
    stored in two arrays, so that both are decoded without branches: with the ones of ``quotients`` at ``t[i]``, the
    position of set bit ``i`` is ``((t[i] - i) << k) + sum(remainders[: i + 1]) + i``.

    Attributes:
        shape: Rows and columns of the matrix.
        quotients: uint8 [n], the unary parts one after the other; the bits after the last one are 0.
        remainders: uint8 [m], fields of k bits; the bits after the last field are 0.
        remainder_bits: k, at least 1.
        inverted: Same as in Gaps.

    References:
        Rice and Plaunt, "Adaptive variable-length coding for efficient compression of spacecraft television data",
        IEEE Transactions on Communication Technology 19(6), 1971.
    """

    name: ClassVar[str] = "rice"

    shape: tuple[int, int]
    quotients: np.ndarray
    remainders: np.ndarray
    remainder_bits: int
    inverted: np.ndarray

    @classmethod
    def encode(cls, bits: np.ndarray) -> Rice:
        """Code bool [rows, columns] with the best k."""
        minority, inverted = _minority(bits)
        gaps: np.ndarray = np.diff(np.flatnonzero(minority), prepend=-1) - 1
        largest = max(1, int(gaps.max(initial=0)).bit_length())
        k = min(range(1, largest + 1), key=lambda k: len(gaps) * (k + 1) + int((gaps >> k).sum()))
        ends = np.cumsum(gaps >> k) + np.arange(len(gaps))
        unary = np.zeros(int(ends[-1]) + 1 if len(ends) else 1, np.uint8)
        unary[ends] = 1
        remainders = pack_fields(gaps & (1 << k) - 1, k)
        return cls(_matrix_shape(bits), np.packbits(unary, bitorder="little"), remainders, k, inverted)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.quotients.nbytes + self.remainders.nbytes + self.inverted.nbytes

    def decode(self) -> np.ndarray:
        """The matrix, bool of ``shape``."""
        ends = np.flatnonzero(np.unpackbits(self.quotients, bitorder="little"))
        k, places = self.remainder_bits, np.arange(len(ends))
        low = unpack_fields(self.remainders, k, len(ends))
        positions = ((ends - places) << k) + np.cumsum(low) + places
        return _from_positions(positions, self.inverted, self.shape)


@dataclass(frozen=True, eq=False)
class Codebook:
    """Indices into a table of the distinct kernels.

    Attributes:
        shape: Rows and columns of the matrix.
        indices: uint8 [n], fields of ``index_bits``, one per kernel in row-major order.
        patterns: uint8 [size, ceil(pattern_bits / 8)], the table of kernels.
        index_bits: t, where the table has at most 2^t kernels.
        pattern_bits: Bits of a kernel; a divisor of the number of columns.
    """

    name: ClassVar[str] = "codebook"

    shape: tuple[int, int]
    indices: np.ndarray
    patterns: np.ndarray
    index_bits: int
    pattern_bits: int

    @classmethod
    def encode(cls, bits: np.ndarray, pattern_bits: int) -> Codebook:
        """Code bool [rows, columns] with all its distinct kernels of ``pattern_bits``.

        Raises:
            ValueError: If ``pattern_bits`` does not divide the columns.
        """
        shape = _matrix_shape(bits)
        if pattern_bits < 1 or shape[1] % pattern_bits:
            raise ValueError(f"rows of {shape[1]} bits are no sequence of kernels of {pattern_bits} bits")
        kernels = np.packbits(bits.astype(bool).reshape(-1, pattern_bits), axis=1, bitorder="little")
        patterns, indices = np.unique(kernels, axis=0, return_inverse=True)
        index_bits = max(1, (len(patterns) - 1).bit_length())
        return cls(shape, pack_fields(indices.reshape(-1), index_bits), patterns, index_bits, pattern_bits)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.indices.nbytes + self.patterns.nbytes

    def decode(self) -> np.ndarray:
        """The matrix, bool of ``shape``."""
        rows, columns = self.shape
        width = -(-self.pattern_bits // 8)
        if columns % self.pattern_bits or self.patterns.ndim != 2 or self.patterns.shape[1] != width:
            raise ValueError(
                f"the codebook of rows of {columns} bits in kernels of {self.pattern_bits} is uint8 [size, {width}], "
                f"but got {self.patterns.dtype} {list(self.patterns.shape)}"
            )
        kernels = rows * (columns // self.pattern_bits)
        indices = unpack_fields(self.indices, self.index_bits, kernels)
        if len(indices) and indices.max() >= len(self.patterns):
            raise ValueError(f"index {indices.max()} is beyond the codebook of {len(self.patterns)} kernels")
        table = np.unpackbits(self.patterns, axis=1, count=self.pattern_bits, bitorder="little")
        return table[indices].reshape(rows, columns).astype(bool)


@dataclass(frozen=True, eq=False)
class SparseArray:
    """The positions and values of an array's nonzero numbers.

    Attributes:
        shape: Shape of the array.
        gaps: uint8 [m], the positions in row-major order, coded by :func:`encode_gaps`.
        values: float32 [n], one per position.
    """

    name: ClassVar[str] = "sparse"

    shape: tuple[int, ...]
    gaps: np.ndarray
    values: np.ndarray

    @classmethod
    def encode(cls, array: np.ndarray) -> SparseArray:
        """Code a float32 array; -0.0 counts as nonzero."""
        flat = np.ascontiguousarray(array, np.float32).reshape(-1)
        places = np.flatnonzero(flat.view(np.uint32))
        return cls(array.shape, encode_gaps(places), flat[places])

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.gaps.nbytes + self.values.nbytes

    def decode(self) -> np.ndarray:
        """The array, float32 of ``shape``.

        Raises:
            ValueError: If the arrays do not describe an array of this shape.
        """
        places, size = decode_gaps(self.gaps), math.prod(self.shape)
        if len(places) and places[-1] >= size:
            raise ValueError(f"position {places[-1]} lies beyond the {size} numbers of shape {list(self.shape)}")
        if self.values.shape != places.shape or self.values.dtype != np.float32:
            raise ValueError(
                f"the values of {len(places)} places are float32 [{len(places)}], but got {self.values.dtype} "
                f"{list(self.values.shape)}"
            )
        array = np.zeros(size, np.float32)
        array[places] = self.values
        return array.reshape(self.shape)


def smallest(bits: np.ndarray, pattern_bits: int | None = None) -> Coding:
    """The coding with the fewest bytes; of several the simplest.

    Args:
        bits: bool [rows, columns].
        pattern_bits: Bits of a kernel (kh * kw), if rows consist of kernels; tries a codebook, too.
    """
    codings: list[Coding] = [Bitmap.encode(bits), Gaps.encode(bits), Rice.encode(bits)]
    if pattern_bits is not None and pattern_bits > 1:
        codings.append(Codebook.encode(bits, pattern_bits))
    return min(codings, key=lambda coding: coding.nbytes)


def encode_gaps(positions: np.ndarray) -> np.ndarray:
    """Code a list of positions as gaps, one byte each.

    A byte below 255 is the number of places skipped since the previous position, or since the beginning. The byte 255
    skips 255 places and is not a position.

    Args:
        positions: int64 [n], ascending, at least 0.

    Returns:
        uint8 [m] with m >= n.

    Raises:
        ValueError: If positions are negative or not ascending.

    Examples:
        >>> encode_gaps(np.array([0, 3, 300]))
        array([  0,   2, 255,  41], dtype=uint8)
    """
    gaps: np.ndarray = np.diff(np.asarray(positions, np.int64), prepend=-1) - 1
    if (gaps < 0).any():
        raise ValueError("positions must ascend from 0 on to be coded as gaps")
    escapes = gaps // ESCAPE
    ends = np.cumsum(escapes + 1) - 1
    coded = np.full(int(ends[-1]) + 1 if len(ends) else 0, ESCAPE, np.uint8)
    coded[ends] = gaps % ESCAPE
    return coded


def decode_gaps(gaps: np.ndarray) -> np.ndarray:
    """The positions that :func:`encode_gaps` coded.

    Args:
        gaps: uint8 [m].

    Returns:
        int64 [n], ascending.

    Raises:
        ValueError: If the last gap is incomplete.
    """
    if gaps.dtype != np.uint8 or gaps.ndim != 1:
        raise ValueError(f"gaps are uint8 [n], but got {gaps.dtype} {list(gaps.shape)}")
    if len(gaps) and gaps[-1] == ESCAPE:
        raise ValueError("the gaps are truncated: they end with 255, after which another byte must follow")
    sets = gaps != ESCAPE
    return (np.cumsum(gaps + sets.astype(np.int64)) - 1)[sets]


def pack_fields(values: np.ndarray, width: int) -> np.ndarray:
    """Integers from 0 to ``2**width - 1`` as fields of ``width`` bits, uint8 [max(1, ceil(n * width / 8))]."""
    bits = (np.asarray(values, np.int64)[:, None] >> np.arange(width) & 1).astype(np.uint8)
    packed = np.packbits(bits.reshape(-1), bitorder="little")
    return packed if len(packed) else np.zeros(1, np.uint8)


def unpack_fields(packed: np.ndarray, width: int, count: int) -> np.ndarray:
    """The first ``count`` fields of ``width`` bits, int64 [count].

    Raises:
        ValueError: If there are fewer.
    """
    if packed.dtype != np.uint8 or packed.ndim != 1:
        raise ValueError(f"packed fields are uint8 [n], but got {packed.dtype} {list(packed.shape)}")
    if packed.size * 8 < width * count:
        raise ValueError(
            f"{count} fields of {width} bits take {-(-width * count // 8)} bytes, but there are only {packed.size}"
        )
    bits = np.unpackbits(packed, count=width * count, bitorder="little").reshape(count, width)
    return bits.astype(np.int64) @ (1 << np.arange(width))


def _matrix_shape(bits: np.ndarray) -> tuple[int, int]:
    if bits.ndim != 2:
        raise ValueError(f"expected a matrix of bits, but got an array of shape {list(bits.shape)}")
    return bits.shape[0], bits.shape[1]


def _minority(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The bits, inverted in rows that have more than half of their bits set; and which rows are inverted."""
    rows, columns = _matrix_shape(bits)
    inverted = 2 * np.count_nonzero(bits, axis=1) > columns
    minority = bits.astype(bool) ^ inverted[:, None]
    flags = inverted.astype(np.uint8)
    return minority, flags if (flags != flags[:1]).any() else flags[:1] if rows else np.zeros(1, np.uint8)


def _from_positions(positions: np.ndarray, inverted: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    rows, columns = shape
    if len(positions) and positions[-1] >= rows * columns:
        raise ValueError(f"position {positions[-1]} lies beyond the {rows} x {columns} bits of the matrix")
    if inverted.shape not in ((1,), (rows,)) or inverted.dtype != np.uint8 or (inverted > 1).any():
        raise ValueError(
            f"the inverted rows of {rows} are uint8 [1] or [{rows}] of 0 and 1, but got {inverted.dtype} "
            f"{list(inverted.shape)}{' with other values' if inverted.size and inverted.max() > 1 else ''}"
        )
    bits = np.zeros(rows * columns, bool)
    bits[positions] = True
    return bits.reshape(shape) ^ inverted.astype(bool)[:, None]
