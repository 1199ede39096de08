"""Rows of a packed feature map, accessed in the widest words that fit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd, prod

from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..shapes import Conv2dShape
from ..tir.loops import for_blocks
from ..tir.taps import taps_inside
from ..tir.vectors import Index, VectorType, load, store


@dataclass(frozen=True)
class WideWords:
    """A view of a pixel's packed channels as wider words. The bytes in memory are the same for every word size.

    Attributes:
        bits: Bits per wide word, at most 64.
        count: Wide words per pixel.
    """

    bits: int
    count: int

    @classmethod
    def of(cls, channels: int, isa: Isa) -> WideWords:
        """The widest words that divide a pixel of ``channels`` packed channels."""
        pixel = isa.words(channels) * isa.word_bits
        bits = gcd(pixel, 64)
        return cls(bits, pixel // bits)

    @property
    def dtype(self) -> str:
        """dtype of a wide word."""
        return f"uint{self.bits}"

    def rows(self, packed: tirx.Buffer) -> tirx.Buffer:
        """A packed buffer [..., W, words] as [rows, W * count] wide words."""
        *rows, width, _ = (int(extent) for extent in packed.shape)
        return T.decl_buffer((prod(rows), width * self.count), self.dtype, data=packed.data)


def accumulate_rows(
    data: tirx.Buffer,
    shape: Conv2dShape,
    row: Index,
    isa: Isa,
    combine: Callable[[Sequence[tirx.Expr], Sequence[tirx.Expr]], Sequence[tirx.Expr]],
    *,
    flip: tirx.Buffer | None = None,
    digits: int = 1,
) -> tuple[tirx.Buffer, Index]:
    """Emit the vertical half of a separable window over packed words.

    Args:
        data: Packed [N, H, W, words], or [N, digits, H, W, words].
        shape: The windows.
        row: Index of the output row, counted over all images.
        isa: The instruction set.
        combine: Computes the new accumulators from the old ones and the input. Both are vectors of wide words, one per
            digit. Accumulators start at 0.
        flip: Wide words [W * count] that are XORed with every input row first.
        digits: Binary digits per code; the lowest digit is stored first.

    Returns:
        A buffer of one row of accumulators, wide words [digits, W * count], and the number of taps inside the image.
    """
    wide = WideWords.of(shape.in_channels, isa)
    rows = wide.rows(data)
    length, lanes = shape.width * wide.count, isa.vector_bits // wide.bits
    image, y = row // shape.out_height, row % shape.out_height
    top = T.bind(y * shape.strides[0] - shape.padding[0])
    first, end = (T.bind(tap) for tap in taps_inside(top, shape.kernel[0], shape.dilation[0], 0, shape.height))
    total = T.alloc_buffer((digits, length), wide.dtype)
    zero = VectorType(wide.dtype, lanes).constant(0)
    for digit in range(digits):
        for_blocks(length, lanes, lambda i, valid: store(total, zero, (digit,), i, valid))  # noqa: B023
    with T.serial(first, end) as ky:
        source = T.bind(image * (digits * shape.height) + top + ky * shape.dilation[0])

        def add(i: Index, valid: int) -> None:
            words = [load(rows, (source + digit * shape.height,), i, lanes, valid) for digit in range(digits)]
            if flip is not None:
                mask = load(flip, (), i, lanes, valid)
                words = [word ^ mask for word in words]
            sums = [load(total, (digit,), i, lanes, valid) for digit in range(digits)]
            combined = combine([T.bind(each) for each in sums], [T.bind(word) for word in words])
            for digit, each in enumerate([T.bind(each) for each in combined]):
                store(total, each, (digit,), i, valid)

        for_blocks(length, lanes, add)
    return total, end - first
