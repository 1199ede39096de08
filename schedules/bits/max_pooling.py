"""Max pooling of packed bits and codes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..kernel import Kernel
from ..layouts.words import pack_channels, packed_shape
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows
from ..tir.taps import check_windows, for_columns
from ..tir.vectors import Index
from .rows import WideWords, accumulate_rows


def max_pool2d_bits(shape: Conv2dShape, isa: Isa, minima: np.ndarray | None = None, bits: int = 1) -> Kernel:
    """Maximum or minimum over windows of packed bits or codes; the padding is ignored.

    The minimum is computed as NOT max(NOT x).

    Args:
        shape: Shape of the pooling, with ``in_channels == out_channels``.
        isa: The instruction set.
        minima: bool [C], True for channels that take the minimum; None if all take the maximum.
        bits: Bits per code.

    Returns:
        ``func(words of words.packed_shape, *constants, out words of the pooled map)``.

    Raises:
        ValueError: If a window is entirely in the padding.
    """
    check_windows(shape)
    wide = WideWords.of(shape.in_channels, isa)
    data_shape = packed_shape((shape.batch, shape.height, shape.width, shape.in_channels), bits, isa)
    out_shape = packed_shape((shape.batch, shape.out_height, shape.out_width, shape.in_channels), bits, isa)
    rows = shape.batch * shape.out_height
    with KernelBuilder("max_pool2d_bits") as builder:
        data = builder.data(data_shape, isa.word)
        flip = None
        if minima is not None:
            flip = builder.constant("flip", np.tile(pack_channels(minima, isa), shape.width).view(wide.dtype))
        maxima = wide.rows(builder.output(out_shape, isa.word))
        with parallel_rows(rows, rows * bits * shape.width * wide.count * shape.kernel[0]) as row:
            columns, _ = accumulate_rows(data, shape, row, isa, _larger, flip=flip, digits=bits)
            first_row = T.bind(row // shape.out_height * (bits * shape.out_height) + row % shape.out_height)

            def emit_pixel(x: Index, left: Index) -> None:
                taps = [left + kx * shape.dilation[1] for kx in range(shape.kernel[1])]
                taps = [tap for tap in taps if not isinstance(tap, int) or 0 <= tap < shape.width]
                with T.serial(0, wide.count) as i:
                    codes = ([T.bind(columns[digit, tap * wide.count + i]) for digit in range(bits)] for tap in taps)
                    largest: list[tirx.Expr] = reduce(_larger, codes)
                    for digit, value in enumerate(largest):
                        value = value if flip is None else value ^ flip[i]
                        T.buffer_store(maxima, value, [first_row + digit * shape.out_height, x * wide.count + i])

            for_columns(shape, emit_pixel)
    return builder.kernel()


def _larger(first: Sequence[tirx.Expr], second: Sequence[tirx.Expr]) -> list[tirx.Expr]:
    """The larger of two codes, for every bit position of the words.

    Args:
        first: The digits of the first code, one word per digit, the lowest digit first.
        second: The digits of the second code.

    Returns:
        The digits of the larger code. Digits are compared from the highest to the lowest.
    """
    digits: list[tirx.Expr] = []
    greater: tirx.Expr | None = None
    less: tirx.Expr | None = None
    for a, b in zip(reversed(first), reversed(second), strict=True):
        if greater is None or less is None:
            digits.append(T.bind(a | b))
            greater, less = T.bind(a & ~b), T.bind(b & ~a)
        else:
            digits.append(T.bind((a & ~less) | (b & ~greater)))
            greater, less = T.bind(greater | (a & ~b & ~less)), T.bind(less | (b & ~a & ~greater))
    return digits[::-1]
