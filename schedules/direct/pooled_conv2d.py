"""A float convolution and the max pooling behind it in one kernel: the map between them never lies in memory.

It is the largest map of many a network, larger than the second-level cache. Here a row of it lives for as long as it
takes to pool it along the row; as many pooled rows as a window has wait for the others::

    copy the image into a padded workspace, or transform it
    parallel for band of output rows, block of channels:
        for output row in band:
            for row of the convolution that is new:          the first window of a band needs all of its own
                convolve into a buffer of one row            loop_nest.py, filtered_rows.py
                maxima of neighbours into the ring
            maxima of the rows in the ring, to the epilogue
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..epilogue.program import FloatOutput, Program, TensorOperand
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import LlvmFunction, extremum
from ..tir.loops import parallel_rows
from ..tir.taps import check_windows, for_columns
from ..tir.vectors import Index, VectorType, load, store
from .filtered_rows import FilteredRows, filters_pay
from .float32 import float_convolution
from .loop_nest import DirectConv2d, Nest, Store, padded_image
from .tiles import Tile

# Of the rows of the convolution so many are computed twice at most, by bands that meet.
_TWICE = 1 / 50


class Rows(Protocol):
    """A convolution row by row."""

    @property
    def tile(self) -> Tile:
        """The register tile."""

    @property
    def lanes(self) -> int:
        """Output channels in a vector."""

    @property
    def block(self) -> int:
        """Output channels in a block."""

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""

    @property
    def width(self) -> int:
        """Outputs of a row, and those behind its end that are computed with them."""

    def packed_weights(self, weight: np.ndarray) -> np.ndarray:
        """The constant that the code reads, from float32 [OC, Cin, kh, kw]."""

    def begin(self, data: tirx.Buffer) -> tirx.Buffer:
        """Emit what comes before all rows: a copy of the image as ``row`` reads it."""

    def row(
        self,
        image: tirx.Buffer,
        weights: tirx.Buffer,
        position: tuple[tirx.Expr, tirx.Expr],
        block: tirx.Expr,
        keep: Store,
    ) -> None:
        """Emit the row of outputs at ``position`` (n, y): ``keep(x, vectors)`` for each x, maybe more than once."""


@dataclass(frozen=True, eq=False)
class _DirectRows:
    """Rows of the direct convolution."""

    conv: DirectConv2d

    @property
    def tile(self) -> Tile:
        return self.conv.tile

    @property
    def lanes(self) -> int:
        return self.conv.arithmetic.lanes

    @property
    def block(self) -> int:
        return self.conv.block

    @property
    def blocks(self) -> int:
        return self.conv.blocks

    @property
    def width(self) -> int:
        return self.conv.shape.out_width

    def packed_weights(self, weight: np.ndarray) -> np.ndarray:
        return self.conv.packed_weights()

    def begin(self, data: tirx.Buffer) -> tirx.Buffer:
        return padded_image(self.conv, data)

    def row(
        self,
        image: tirx.Buffer,
        weights: tirx.Buffer,
        position: tuple[tirx.Expr, tirx.Expr],
        block: tirx.Expr,
        keep: Store,
    ) -> None:
        Nest(self.conv, image, weights).tiles(position, tirx.const(0, "int32"), block, keep)


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
    *,
    isa: Isa,
    tile: Tile | None = None,
    filtered: bool = True,
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
        filtered: Whether it may multiply sums of pixels where that pays (filtered_rows.py), and round more.

    Returns:
        ``func(data [N, H, W, C], *tensors of pool_epilogue, weights, *constants, *outputs)``.

    Raises:
        ValueError: If can_pool refuses it, or a window of the pooling lies in its padding altogether.
    """
    if not can_pool(shape, epilogue, pool):
        raise ValueError("a convolution with tensor operands, several outputs or groups cannot be pooled as it runs")
    check_windows(pool)
    name, data_shape = "pooled_conv2d", (shape.batch, shape.height, shape.width, shape.in_channels)
    rows: Rows
    filtered = filtered and filters_pay(shape)
    if filtered:
        rows = FilteredRows.of(shape, isa)
    else:
        rows = _DirectRows(float_convolution(name, shape, weight, isa, data_shape=data_shape, tile=tile))
    before = EpilogueWriter(epilogue, (pool.batch, pool.height, pool.width, pool.in_channels), isa, tile=rows.block)
    pooled_shape = (pool.batch, pool.out_height, pool.out_width, pool.in_channels)
    after = EpilogueWriter(pool_epilogue, pooled_shape, isa, pool.border_classes(), rows.block)
    maximum = extremum("maximum", VectorType("float32", rows.lanes), isa.architecture)
    with KernelBuilder(name) as builder:
        data = builder.data(data_shape, "float32")
        weights = builder.constant("weights", rows.packed_weights(weight))
        before.declare_constants(builder)
        after.declare(builder)
        bands = _bands(pool)
        height = -(-pool.out_height // bands)
        image = rows.begin(data)
        with parallel_rows(shape.batch * bands * rows.blocks, shape.macs // rows.lanes) as task:
            block = T.bind(tirx.floormod(task, rows.blocks))
            n = T.bind(tirx.floordiv(task, rows.blocks * bands))
            first = T.bind(tirx.floormod(tirx.floordiv(task, rows.blocks), bands) * height)
            line = T.alloc_buffer((rows.width, rows.block), "float32")
            ring = T.alloc_buffer((pool.kernel[0], pool.out_width, rows.block), "float32")

            def convolve(y: tirx.Expr) -> None:
                channel = T.bind(block * rows.block)

                def keep(x: tirx.Expr, sums: Sequence[tirx.Expr]) -> None:
                    for i, value in enumerate(before.values(sums, channel)):
                        store(line, value, (x,), i * rows.lanes)

                rows.row(image, weights, (n, y), block, keep)

            band = _Band(
                pool=pool, convolve=convolve, after=after, maximum=maximum, line=line, ring=ring, lanes=rows.lanes
            )
            with T.serial(first, tirx.min(first + height, pool.out_height)) as y:
                band.row((n, y), y == first, T.bind(block * rows.block))
    return builder.kernel(f"{name}{' filtered' * filtered} {rows.tile}")


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
        pool: The pooling.
        convolve: Emits a row of the convolution with its epilogue, into ``line``.
        after: Stores the pooled rows.
        maximum: Of two vectors.
        line: A row of the convolution: float32 [W, block].
        ring: Its rows, pooled along the row; row y is in slot y % kh: float32 [kh, OW, block].
        lanes: Of a vector.
    """

    pool: Conv2dShape
    convolve: Callable[[tirx.Expr], None]
    after: EpilogueWriter
    maximum: LlvmFunction
    line: tirx.Buffer
    ring: tirx.Buffer
    lanes: int

    @property
    def vectors(self) -> range:
        """The first channel of each vector of a block."""
        return range(0, int(self.line.shape[-1]), self.lanes)

    def row(self, position: tuple[tirx.Expr, tirx.Expr], alone: tirx.Expr, channel: tirx.Expr) -> None:
        """One output row (n, y); ``alone`` if the ring does not hold the rows that it shares with the one before."""
        pool, taps = self.pool, self.pool.kernel[0]
        top = T.bind(position[1] * pool.strides[0] - pool.padding[0])
        shared = T.bind(tirx.Select(alone, 0, max(taps - pool.strides[0], 0)))
        with T.serial(tirx.max(top + shared, 0), tirx.min(top + taps, pool.height)) as source:
            self.convolve(source)
            self._pool_line(T.bind(tirx.floormod(source, taps)))
        # Rows outside of the image take no part: the nearest one inside counts twice instead.
        inside = [tirx.min(tirx.max(top + ky, 0), pool.height - 1) for ky in range(taps)]
        slots = [T.bind(tirx.floormod(source, taps)) for source in inside]
        with T.serial(0, pool.out_width) as x:
            vectors = []
            for i in self.vectors:
                values = [load(self.ring, (slot, x), i, self.lanes) for slot in slots]
                vectors.append(T.bind(reduce(self.maximum, values)))
            self.after.store(vectors, (*position, x), channel)

    def _pool_line(self, slot: tirx.Expr) -> None:
        """The maxima of neighbours in a row of the convolution."""
        pool = self.pool

        def pixel(x: Index, left: Index) -> None:
            taps = [left + kx for kx in range(pool.kernel[1])]
            taps = [tap for tap in taps if not isinstance(tap, int) or 0 <= tap < pool.width]
            for i in self.vectors:
                values = [load(self.line, (tap,), i, self.lanes) for tap in taps]
                store(self.ring, reduce(self.maximum, values), (slot, x), i)

        for_columns(pool, pixel)
