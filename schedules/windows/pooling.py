"""Poolings over NHWC feature maps, and max pooling of packed bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from ..bits.rows import WideWords, accumulate_rows
from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter, Index, load, store
from ..isa import Isa
from ..kernel import Kernel
from ..layouts.words import pack_channels, packed_shape
from ..shapes import Conv2dShape
from ..tir.llvm import extremum, link
from ..tir.loops import one_block, parallel_rows
from .template import WindowOperation, WindowTile, check_windows, for_columns, taps_inside, window_kernel


def max_pool2d(shape: Conv2dShape, epilogue: Program, isa: Isa, tile: WindowTile | None = None) -> Kernel:
    """Maximum over windows; the padding takes no part.

    Args:
        shape: Input and windows; as many output channels as input channels.
        epilogue: Its anchor is the maximum.
        isa: The instruction set.
        tile: One of ``window.window_tiles(shape, isa)``; by default the first.

    Returns:
        ``func(data float32 [N, H, W, C], *tensors, *constants, *outputs)``.

    Raises:
        ValueError: If a window lies in the padding altogether.
    """
    check_windows(shape)
    maximum = extremum("maximum", f"float32x{isa.float_lanes}", isa.family)
    operation = WindowOperation(
        "max_pool2d", -np.inf, lambda accumulator, value, _: maximum(accumulator, value), functions=(maximum,)
    )
    return window_kernel(operation, shape, epilogue, isa, tile)


def avg_pool2d(
    shape: Conv2dShape,
    epilogue: Program,
    isa: Isa,
    count_include_pad: bool | tuple[int, int, int, int] = False,
    tile: WindowTile | None = None,
) -> Kernel:
    """Mean over windows.

    Args:
        shape: Input and windows; as many output channels as input channels.
        epilogue: Its anchor is the mean.
        isa: The instruction set.
        count_include_pad: Whether the zeros of the padding count; or how much of it does (top, left, bottom, right),
            for windows that ceil_mode lets hang over the padded input.
        tile: As of max_pool2d.

    Returns:
        ``func(data float32 [N, H, W, C], *tensors, *constants, *outputs)``.

    Raises:
        ValueError: If a window lies in the padding altogether.
    """
    check_windows(shape)
    if isinstance(count_include_pad, tuple):
        counted = count_include_pad
    else:
        counted = shape.padding if count_include_pad else (0, 0, 0, 0)

    def mean(total: tirx.Expr, y: Index, x: Index) -> tirx.Expr:
        rows, columns = (
            taps_inside(start, shape.kernel[axis], shape.dilation[axis], -counted[axis], size + counted[axis + 2])
            for axis, start, size in ((0, y, shape.height), (1, x, shape.width))
        )
        count = (rows[1] - rows[0]) * (columns[1] - columns[0])
        return total / tirx.Broadcast(T.cast(count, "float32"), total.ty.dtype.lanes)

    operation = WindowOperation("avg_pool2d", 0.0, lambda accumulator, value, _: accumulator + value, mean)
    return window_kernel(operation, shape, epilogue, isa, tile)


def global_avg_pool2d(shape: tuple[int, int, int, int], epilogue: Program, isa: Isa) -> Kernel:
    """Mean over the whole image.

    Args:
        shape: (N, H, W, C) of the input.
        epilogue: Its anchor is the mean, of shape [N, 1, 1, C].
        isa: The instruction set.

    Returns:
        ``func(data float32 [N, H, W, C], *tensors, *constants, *outputs)``.
    """
    batch, height, width, channels = shape
    lanes = isa.float_lanes
    vectors = max(4, 8 // lanes)  # as many chains of additions hide their latency
    run = vectors * lanes
    blocks = -(-channels // run)
    writer = EpilogueWriter(epilogue, (batch, 1, 1, channels), isa)
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("global_avg_pool2d")
        T.func_attr({"tirx.noalias": True})
        data = T.arg("data", T.buffer(shape, "float32"))
        writer.declare_tensors()
        writer.declare_constants()
        writer.declare_outputs()

        def emit_block(n: Index, first: Index, valid: int) -> None:
            total = T.alloc_buffer((run,), "float32")
            for i in range(0, run, lanes):
                store(total, tirx.Broadcast(tirx.const(0.0, "float32"), lanes), (), i, lanes)
            with T.serial(0, height) as y, T.serial(0, width) as x:
                for i in range(0, run, lanes):
                    value = load(data, (n, y, x), first + i, lanes, valid - i)
                    store(total, load(total, (), i, lanes, lanes) + value, (), i, lanes)
            count = tirx.Broadcast(tirx.const(height * width, "float32"), lanes)
            writer.store([load(total, (), i, lanes, lanes) / count for i in range(0, run, lanes)], (n, 0, 0), first)

        with parallel_rows(batch * blocks, batch * height * width * channels) as row:
            one_block(row % blocks, channels, run, partial(emit_block, row // blocks))
    return Kernel("global_avg_pool2d", link(ib.get(), writer.functions), tuple(writer.constants), writer.outputs)


def max_pool2d_bits(shape: Conv2dShape, isa: Isa, minima: np.ndarray | None = None, bits: int = 1) -> Kernel:
    """Maximum over windows of packed bits or codes; or minimum, which is NOT max NOT. The padding takes no part.

    Args:
        shape: Input and windows; as many output channels as input channels.
        isa: The instruction set.
        minima: bool [C], which channels take the minimum; None for none.
        bits: Of a code.

    Returns:
        ``func(words of words.packed_shape, *constants, out words of the pooled map)``.

    Raises:
        ValueError: If a window lies in the padding altogether.
    """
    check_windows(shape)
    wide = WideWords.of(shape.in_channels, isa)
    data_shape = packed_shape((shape.batch, shape.height, shape.width, shape.in_channels), bits, isa)
    out_shape = packed_shape((shape.batch, shape.out_height, shape.out_width, shape.in_channels), bits, isa)
    rows = shape.batch * shape.out_height
    constants: tuple[np.ndarray, ...] = ()
    if minima is not None:
        constants = (np.tile(pack_channels(minima, isa), shape.width).view(wide.dtype),)
    with IRBuilder() as ib, T.prim_func(s_tir=True):
        T.func_name("max_pool2d_bits")
        T.func_attr({"tirx.noalias": True})
        data = T.arg("data", T.buffer(data_shape, isa.word))
        flip = T.arg("flip", T.buffer(constants[0].shape, wide.dtype)) if constants else None
        out = T.arg("out", T.buffer(out_shape, isa.word))
        maxima = wide.rows(out)
        with parallel_rows(rows, rows * bits * shape.width * wide.count * shape.kernel[0]) as row:
            columns, _ = accumulate_rows(data, shape, row, isa, _larger, flip, bits)
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
    return Kernel("max_pool2d_bits", ib.get(), constants, ((out_shape, isa.word),))


def _larger(first: Sequence[tirx.Expr], second: Sequence[tirx.Expr]) -> list[tirx.Expr]:
    """Of two codes in every bit of words the larger one: digits, the lowest first, compared from the highest on."""
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
