"""Poolings over NHWC feature maps of float32 or integers."""

from __future__ import annotations

from functools import partial

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import Element, Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import largest_number
from ..tir.loops import one_block, parallel_rows
from ..tir.taps import check_windows, taps_inside
from ..tir.vectors import Index, VectorType, load, store
from .template import WindowOperation, WindowTile, window_kernel


def max_pool2d(
    shape: Conv2dShape, epilogue: Program, isa: Isa, tile: WindowTile | None = None, *, dtype: Element = "float32"
) -> Kernel:
    """Largest number of each window; the padding and NaN are ignored.

    A window without a number, all NaN, gives -inf. To keep NaN would take two more instructions per tap on x86.

    Args:
        shape: Shape of the pooling, with ``in_channels == out_channels``.
        epilogue: Ref(0) is the maximum, as float32.
        isa: The instruction set.
        tile: One of ``template.window_tiles(shape, isa, epilogue.packed)``; by default the first.
        dtype: The element type of the data.

    Returns:
        ``func(data [N, H, W, C], *tensors, *constants, *outputs)``.

    Raises:
        ValueError: If a window is entirely in the padding.
    """
    check_windows(shape)
    if dtype != "float32":
        least = int(np.iinfo(dtype).min)
        operation = WindowOperation(
            "max_pool2d", least, lambda sofar, value, _: tirx.max(sofar, value), data=dtype, accumulator="int32"
        )
        return window_kernel(operation, shape, epilogue, isa, tile)
    larger = largest_number(VectorType("float32", isa.float_lanes), isa.architecture)
    operation = WindowOperation("max_pool2d", -np.inf, lambda accumulator, value, _: larger(value, accumulator))
    return window_kernel(operation, shape, epilogue, isa, tile)


def avg_pool2d(
    shape: Conv2dShape,
    epilogue: Program,
    isa: Isa,
    count_include_pad: bool | tuple[int, int, int, int] = False,
    tile: WindowTile | None = None,
    *,
    dtype: Element = "float32",
    zero_point: int = 0,
) -> Kernel:
    """Mean over windows.

    Integers are added in 32 bits; the sum is converted to float32 and divided once.

    Args:
        shape: Shape of the pooling, with ``in_channels == out_channels``.
        epilogue: Ref(0) is the mean of the values minus the zero point.
        isa: The instruction set.
        count_include_pad: Whether the divisor counts the zeros of the padding. A tuple (top, left, bottom, right) gives
            the counted part of the padding, for windows that extend past the padded input (ceil_mode).
        tile: Same as in max_pool2d.
        dtype: The element type of the data.
        zero_point: The integer that stands for 0, also in the padding; 0 for floats.

    Returns:
        ``func(data [N, H, W, C], *tensors, *constants, *outputs)``.

    Raises:
        ValueError: If a window is entirely in the padding.
    """
    check_windows(shape)
    if isinstance(count_include_pad, tuple):
        counted = count_include_pad
    else:
        counted = shape.padding if count_include_pad else (0, 0, 0, 0)

    def taps(y: Index, x: Index, around: tuple[int, int, int, int]) -> tirx.Expr:
        """The number of taps inside the image and the given part of the padding around it."""
        rows, columns = (
            taps_inside(start, shape.kernel[axis], shape.dilation[axis], -around[axis], size + around[axis + 2])
            for axis, start, size in ((0, y, shape.height), (1, x, shape.width))
        )
        return (rows[1] - rows[0]) * (columns[1] - columns[0])

    def mean(total: tirx.Expr, y: Index, x: Index) -> tirx.Expr:
        vector = VectorType("float32", VectorType.of(total).lanes)
        if zero_point:
            total = total - VectorType.of(total).broadcast(T.cast(taps(y, x, (0, 0, 0, 0)) * zero_point, "int32"))
        return vector.cast(total) / vector.broadcast(T.cast(taps(y, x, counted), "float32"))

    def add(accumulator: tirx.Expr, value: tirx.Expr, weight: tirx.Expr | None) -> tirx.Expr:
        return accumulator + value

    operation = WindowOperation("avg_pool2d", 0, add, mean, data=dtype, accumulator=_sums(dtype))
    return window_kernel(operation, shape, epilogue, isa, tile)


def _sums(dtype: Element) -> str:
    """The type in which values are added."""
    return "float32" if dtype == "float32" else "int32"


def global_avg_pool2d(
    shape: tuple[int, int, int, int],
    epilogue: Program,
    isa: Isa,
    *,
    dtype: Element = "float32",
    zero_point: int = 0,
) -> Kernel:
    """Mean over the whole image; integers as in ``avg_pool2d``.

    Args:
        shape: (N, H, W, C) of the input.
        epilogue: Ref(0) is the mean of the values minus the zero point, of shape [N, 1, 1, C].
        isa: The instruction set.
        dtype: The element type of the data.
        zero_point: The integer that stands for 0; 0 for floats.

    Returns:
        ``func(data [N, H, W, C], *tensors, *constants, *outputs)``.
    """
    batch, height, width, channels = shape
    lanes = isa.float_lanes
    vectors = max(4, 8 // lanes)  # independent chains of additions, to hide their latency
    run = vectors * lanes
    blocks = -(-channels // run)
    writer = EpilogueWriter(epilogue, (batch, 1, 1, channels), isa)
    sums, vector = VectorType(_sums(dtype), lanes), VectorType("float32", lanes)
    with KernelBuilder("global_avg_pool2d") as builder:
        data = builder.data(shape, dtype)
        writer.declare(builder)

        def emit_block(n: Index, first: Index, valid: int) -> None:
            total = T.alloc_buffer((run,), sums.element)
            for i in range(0, run, lanes):
                # The zero point of all pixels is subtracted in advance.
                store(total, sums.constant(-zero_point * height * width), (), i)
            with T.serial(0, height) as y, T.serial(0, width) as x:
                for i in range(0, run, lanes):
                    value = sums.cast(load(data, (n, y, x), first + i, lanes, valid - i))
                    store(total, load(total, (), i, lanes) + value, (), i)
            count = vector.constant(height * width)
            means = [vector.cast(load(total, (), i, lanes)) / count for i in range(0, run, lanes)]
            writer.store(means, (n, 0, 0), first)

        with parallel_rows(batch * blocks, batch * height * width * channels) as row:
            one_block(row % blocks, channels, run, partial(emit_block, row // blocks))
    return builder.kernel()
