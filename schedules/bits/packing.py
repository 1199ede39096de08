"""Kernels on packed bits: unpacking, regrouping for grouped convolutions, sums over windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.domain import BinaryDomain, Domain

from ..isa import Isa
from ..kernel import Kernel
from ..layouts.words import packed_shape
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import choose, spread
from ..tir.loops import for_blocks, parallel_rows
from ..tir.vectors import Index, store
from .rows import WideWords, accumulate_rows


def unpack(shape: tuple[int, ...], domain: Domain, isa: Isa) -> Kernel:
    """Convert packed bits or codes to the float32 values that they represent.

    Args:
        shape: (N, H, W, C) or (N, C) of the result.
        domain: The values that bits or codes represent.
        isa: The instruction set.

    Returns:
        ``func(words of words.packed_shape, out float32 [..., C])``.
    """
    channels, rows = shape[-1], int(np.prod(shape[:-1]))
    words, function, between = isa.words(channels), spread(isa.word_bits), choose(isa.word_bits)
    data_shape = packed_shape(shape, domain.bits, isa)
    pixels_an_image = int(np.prod(shape[1:-1]))

    def const(value: float) -> tirx.Expr:
        return tirx.const(value, "float32")

    def value_of(planes: Sequence[tirx.Expr]) -> tirx.Expr:
        if isinstance(domain, BinaryDomain):
            return function(*planes, const(domain.hi), const(domain.lo))
        # The lowest digit selects between neighbouring levels; each higher digit selects between pairs of results.
        pairs = zip(domain.levels[::2], domain.levels[1::2], strict=True)
        chosen = [T.bind(function(planes[0], const(high), const(low))) for low, high in pairs]
        for word in planes[1:]:
            chosen = [T.bind(between(word, high, low)) for low, high in zip(chosen[::2], chosen[1::2], strict=True)]
        return chosen[0]

    with KernelBuilder("unpack") as builder:
        data = builder.data(data_shape, isa.word)
        out = builder.output(shape, "float32")
        pixels = T.decl_buffer((shape[0], domain.bits, pixels_an_image, words), isa.word, data=data.data)
        values = T.decl_buffer((rows, channels), "float32", data=out.data)
        with parallel_rows(rows, rows * channels) as row:

            def spread_word(first: Index, valid: int) -> None:
                image, pixel = tirx.floordiv(row, pixels_an_image), tirx.floormod(row, pixels_an_image)
                word = tirx.floordiv(first, isa.word_bits)
                planes = [T.bind(pixels[image, j, pixel, word]) for j in range(domain.bits)]
                store(values, T.bind(value_of(planes)), (row,), first, valid)

            for_blocks(channels, isa.word_bits, spread_word)
    return builder.kernel()


def regroup(shape: tuple[int, ...], channels: int, groups: int, isa: Isa) -> Kernel:
    """Move the channels of every group to separate words.

    Args:
        shape: (N, H, W, C) of the feature map.
        channels: C, a multiple of ``groups``.
        groups: Number of groups.
        isa: The instruction set.

    Returns:
        ``func(words [N, H, W, isa.words(C)], out [N, H, W, groups * isa.words(C / groups)])``.

    Raises:
        ValueError: If ``groups`` does not divide ``channels``.
    """
    if channels % groups:
        raise ValueError(f"cannot split {channels} channels into {groups} groups of the same size")
    size, bits = channels // groups, isa.word_bits
    pixels, words, group_words = int(np.prod(shape[:-1])), isa.words(channels), isa.words(channels // groups)

    def const(value: int) -> tirx.Expr:
        return tirx.const(value, isa.word)

    with KernelBuilder("regroup") as builder:
        data = builder.data((*shape[:-1], words), isa.word)
        out = builder.output((*shape[:-1], groups * group_words), isa.word)
        source = T.decl_buffer((pixels, words), isa.word, data=data.data)
        target = T.decl_buffer((pixels, groups * group_words), isa.word, data=out.data)
        with parallel_rows(pixels, pixels * groups * group_words) as pixel, T.serial(0, groups) as group:
            for i in range(group_words):
                first = T.bind(group * size + i * bits)
                word, shift = T.bind(first // bits), T.bind(T.cast(first % bits, isa.word))
                # The next word is shifted up by bits - shift, in two steps because a shift by the full width is
                # undefined. After the last word there is none, but then the mask removes the bits read instead.
                low = source[pixel, word] >> shift
                high = (source[pixel, tirx.min(word + 1, words - 1)] << const(1)) << (const(bits - 1) - shift)
                mask = (1 << min(bits, size - i * bits)) - 1
                T.buffer_store(target, (low | high) & const(mask), [pixel, group * group_words + i])
    return builder.kernel()


def window_sum(shape: Conv2dShape, pad_value: int, isa: Isa) -> Kernel:
    """The exact sum of packed signs, -1 and +1, over each window and all channels.

    Args:
        shape: Shape of the layer; a dense layer is a 1x1 convolution over N images of one pixel.
        pad_value: The value of each channel outside the image: -1, 0 or +1.
        isa: The instruction set.

    Returns:
        ``func(words [N, H, W, isa.words(C)], out float32 [N, OH, OW, 1])``.

    Raises:
        ValueError: If there are several groups, or ``pad_value`` is another number.
    """
    if shape.groups != 1:
        raise ValueError(f"a window sum is over all channels, but this layer has {shape.groups} groups")
    if pad_value not in (-1, 0, 1):
        raise ValueError(f"a padded bit counts -1, 0 or +1 in a window sum, not {pad_value}")
    channels, (kernel_height, kernel_width) = shape.in_channels, shape.kernel
    wide = WideWords.of(channels, isa)
    rows = shape.batch * shape.out_height
    with KernelBuilder("window_sum") as builder:
        data = builder.data((shape.batch, shape.height, shape.width, isa.words(channels)), isa.word)
        out = builder.output((shape.batch, shape.out_height, shape.out_width, 1), "float32")
        sums = T.decl_buffer((rows, shape.out_width), "float32", data=out.data)
        with parallel_rows(rows, rows * shape.width * wide.count * kernel_height) as row:
            ones, valid_taps = accumulate_rows(
                data, shape, row, isa, lambda totals, words: [totals[0] + tirx.popcount(words[0])]
            )
            # The sum over the tap rows for each column, including the columns of the padding.
            columns = T.alloc_buffer((shape.padded_width,), "int32")
            outside = pad_value * channels * kernel_height
            for x in (*range(shape.padding[1]), *range(shape.padding[1] + shape.width, shape.padded_width)):
                T.buffer_store(columns, tirx.const(outside, "int32"), [x])
            signs = T.bind(outside - valid_taps * (channels + pad_value * channels))
            with T.serial(0, shape.width) as x:
                count = sum(
                    (T.cast(ones[0, x * wide.count + i], "int32") for i in range(wide.count)), start=tirx.const(0)
                )
                T.buffer_store(columns, signs + 2 * count, [x + shape.padding[1]])
            with T.serial(0, shape.out_width) as x:
                taps = (columns[x * shape.strides[1] + kx * shape.dilation[1]] for kx in range(kernel_width))
                T.buffer_store(sums, T.cast(sum(taps, start=tirx.const(0)), "float32"), [row, x])
    return builder.kernel()
