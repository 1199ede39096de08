"""A float convolution and the max pooling behind it in one kernel: the map between them never lies in memory.

It is the largest map of many a network, larger than the second-level cache. Here a row of it lives for as long as it
takes to pool it along the row; as many pooled rows as a window has wait for the others::

    copy the image into a padded workspace
    parallel for band of output rows, block of channels:
        for output row in band:
            for row of the convolution that is new:          the first window of a band needs all of its own
                convolve into a buffer of one row            direct_conv2d.py
                maxima of neighbours into the ring
            maxima of the rows in the ring, to the epilogue
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.direct_conv2d import Nest, padded_image
from sbnn_tvm.schedules.direct_float import float_convolution
from sbnn_tvm.schedules.emit import EpilogueWriter, Index, load, store
from sbnn_tvm.schedules.epilogue import FloatOutput, Program, TensorOperand
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.llvm import LlvmFunction, extremum, link
from sbnn_tvm.schedules.loops import parallel_rows
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.tiles import Tile
from sbnn_tvm.schedules.window import check_windows, column_spans

# Of the rows of the convolution so many are computed twice at most, by bands that meet.
_TWICE = 1 / 50


def can_pool(shape: Conv2dShape, epilogue: Program, pool: Conv2dShape) -> bool:
    """Whether pooled_conv2d takes a convolution with its epilogue, and the pooling behind it."""
    operands = [operand for step in epilogue.steps for operand in (step.a, step.b)]
    reads = any(isinstance(operand, TensorOperand) for operand in operands)
    stores = len(epilogue.outputs) == 1 and isinstance(epilogue.outputs[0], FloatOutput)
    return stores and not reads and shape.groups == 1 and pool.dilation == (1, 1)


def pooled_conv2d(
    shape: Conv2dShape,
    weight: np.ndarray,
    epilogue: Program,
    pool: Conv2dShape,
    pool_epilogue: Program,
    isa: Isa,
    tile: Tile | None = None,
) -> Kernel:
    """A float32 convolution of an NHWC feature map, padded with zeros, and a max pooling of its result.

    Args:
        shape: The convolution.
        weight: float32 [OC, Cin, kh, kw].
        epilogue: Of the convolution, as can_pool wants it.
        pool: The pooling; its input is the convolution's output, and its padding takes no part.
        pool_epilogue: Its anchor is the maximum.
        isa: What to generate code for.
        tile: Of the convolution: one of tiles.tiles(shape, isa, "float32"); by default the first.

    Returns:
        ``func(data [N, H, W, C], *tensors of pool_epilogue, weights, *constants, *outputs)``.

    Raises:
        ValueError: If can_pool refuses it, or a window of the pooling lies in its padding altogether.
    """
    if not can_pool(shape, epilogue, pool):
        raise ValueError("a convolution with tensor operands, several outputs or groups cannot be pooled as it runs")
    check_windows(pool)
    conv = float_convolution(
        "pooled_conv2d", shape, weight, isa, tile, (shape.batch, shape.height, shape.width, shape.in_channels)
    )
    before = EpilogueWriter(epilogue, conv.out_shape, isa, tile=conv.run)
    pooled_shape = (pool.batch, pool.out_height, pool.out_width, pool.in_channels)
    after = EpilogueWriter(pool_epilogue, pooled_shape, isa, pool.border_classes(), conv.run)
    maximum = extremum("maximum", f"float32x{conv.arithmetic.lanes}", isa.family)
    weights = conv.packed_weights()
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(conv.name)
        T.func_attr({"tirx.noalias": True})
        data = T.arg("data", T.buffer(conv.data_shape, "float32"))
        after.declare_tensors()
        weight_buffer = T.arg("weights", T.buffer(weights.shape, "float32"))
        before.declare_constants()
        after.declare_constants()
        after.declare_outputs()
        bands = _bands(pool)
        rows = -(-pool.out_height // bands)
        nest = Nest(conv, after, padded_image(conv, data), weight_buffer)
        with parallel_rows(shape.batch * bands * conv.blocks, shape.macs // conv.arithmetic.lanes) as task:
            block = T.bind(tirx.floormod(task, conv.blocks))
            n = T.bind(tirx.floordiv(task, conv.blocks * bands))
            first = T.bind(tirx.floormod(tirx.floordiv(task, conv.blocks), bands) * rows)
            band = _Band.emit(nest, pool, before, after, maximum, n, block)
            with T.serial(first, tirx.min(first + rows, pool.out_height)) as y:
                band.row(y, y == first)
    func = link(builder.get(), before.functions | after.functions | {maximum})
    constants = (weights, *before.constants, *after.constants)
    return Kernel(f"{conv.name} {conv.tile}", func, constants, after.outputs)


def _bands(pool: Conv2dShape) -> int:
    """Into how many bands the output rows are cut."""
    twice = pool.kernel[0] - pool.strides[0]
    if twice <= 0:
        return pool.out_height
    return max(1, min(pool.out_height, int(pool.height * _TWICE / twice)))


@dataclass(frozen=True, eq=False)
class _Band:
    """A band of output rows of one block of channels, while its code is written.

    Attributes:
        nest: The convolution.
        pool: The pooling.
        before: Its epilogue is that of the convolution; it stores nothing.
        after: Stores the pooled rows.
        maximum: Of two vectors.
        n: The image.
        block: The block of channels.
        line: A row of the convolution: float32 [W, block].
        ring: Its rows, pooled along the row; row y is in slot y % kh: float32 [kh, OW, block].
    """

    nest: Nest
    pool: Conv2dShape
    before: EpilogueWriter
    after: EpilogueWriter
    maximum: LlvmFunction
    n: tirx.Expr
    block: tirx.Expr
    line: tirx.Buffer
    ring: tirx.Buffer

    @classmethod
    def emit(
        cls,
        nest: Nest,
        pool: Conv2dShape,
        before: EpilogueWriter,
        after: EpilogueWriter,
        maximum: LlvmFunction,
        n: tirx.Expr,
        block: tirx.Expr,
    ) -> _Band:
        """Declare the buffers."""
        line = T.alloc_buffer((pool.width, nest.conv.block), "float32")
        ring = T.alloc_buffer((pool.kernel[0], pool.out_width, nest.conv.block), "float32")
        return cls(nest, pool, before, after, maximum, n, block, line, ring)

    @property
    def first_channel(self) -> tirx.Expr:
        """Of the block."""
        return self.block * self.nest.conv.block

    def row(self, y: tirx.Expr, alone: tirx.Expr) -> None:
        """One output row; ``alone`` if the ring does not hold the rows that it shares with the one before."""
        pool, lanes = self.pool, self.nest.conv.arithmetic.lanes
        taps = pool.kernel[0]
        top = T.bind(y * pool.strides[0] - pool.padding[0])
        shared = T.bind(tirx.Select(alone, 0, max(taps - pool.strides[0], 0)))
        with T.serial(tirx.max(top + shared, 0), tirx.min(top + taps, pool.height)) as source:
            self._convolve(source)
            self._pool_line(T.bind(tirx.floormod(source, taps)))
        # Rows outside of the image take no part: the nearest one inside counts twice instead.
        inside = [tirx.min(tirx.max(top + ky, 0), pool.height - 1) for ky in range(taps)]
        slots = [T.bind(tirx.floormod(source, taps)) for source in inside]
        with T.serial(0, pool.out_width) as x:
            vectors = []
            for i in range(0, self.nest.conv.block, lanes):
                values = [load(self.ring, (slot, x), i, lanes, lanes) for slot in slots]
                vectors.append(T.bind(reduce(self.maximum, values)))
            self.after.store(vectors, (self.n, y, x), T.bind(self.first_channel))

    def _convolve(self, source: tirx.Expr) -> None:
        """One row of the convolution, with its epilogue."""
        lanes = self.nest.conv.arithmetic.lanes
        first = T.bind(self.first_channel)

        def keep(x: tirx.Expr, sums: Sequence[tirx.Expr]) -> None:
            for i, value in enumerate(self.before.values(sums, first)):
                store(self.line, value, (x,), i * lanes, lanes)

        self.nest.tiles(self.n, source, tirx.const(0, "int32"), self.block, keep)

    def _pool_line(self, slot: tirx.Expr) -> None:
        """The maxima of neighbours in a row of the convolution."""
        pool, lanes = self.pool, self.nest.conv.arithmetic.lanes

        def pixel(x: Index, left: Index) -> None:
            taps = [left + kx for kx in range(pool.kernel[1])]
            taps = [tap for tap in taps if not isinstance(tap, int) or 0 <= tap < pool.width]
            for i in range(0, self.nest.conv.block, lanes):
                values = [load(self.line, (tap,), i, lanes, lanes) for tap in taps]
                store(self.ring, reduce(self.maximum, values), (slot, x), i, lanes)

        for start, _, count in column_spans(pool, 1):
            left = start * pool.strides[1] - pool.padding[1]
            if count == 1:
                pixel(start, left)
            else:
                with T.serial(0, count) as x:
                    pixel(start + x, left + x * pool.strides[1])
