"""A float convolution and the max pooling after it in one kernel: the feature map between them is never stored.

This feature map is often the largest of a network and larger than the second-level cache. Here a row of it is kept only
until it is pooled along the row. A ring buffer holds the pooled rows, one per row of the pooling window::

    copy the image into a padded workspace, or transform it
    parallel for band of output rows, block of channels:
        for output row in band:
            for row of the convolution not yet computed:     all rows of the window at the start of a band
                convolve into a buffer of one row            loop_nest.py, filtered_rows.py
                maxima of neighbours in the row into the ring
            maxima over the rows of the ring into the epilogue
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
from ..tir.llvm import LlvmFunction, largest_number
from ..tir.loops import parallel_rows
from ..tir.taps import check_windows, for_columns
from ..tir.vectors import Index, VectorType, load, store
from .filtered_rows import FilteredRows, filters_pay
from .float32 import float_convolution
from .loop_nest import DirectConv2d, Nest, Store, padded_image
from .tiles import Tile

# At most this share of the rows of the convolution is computed twice, where two bands meet.
_TWICE = 1 / 50


class Rows(Protocol):
    """A convolution that is computed row by row."""

    @property
    def tile(self) -> Tile:
        """The register tile."""

    @property
    def lanes(self) -> int:
        """Output channels per vector."""

    @property
    def block(self) -> int:
        """Output channels per block."""

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""

    @property
    def width(self) -> int:
        """Outputs per row, including those past its end that are computed with it."""

    def packed_weights(self, weight: np.ndarray) -> np.ndarray:
        """The weight constant of the kernel, from float32 [OC, Cin, kh, kw]."""

    def begin(self, data: tirx.Buffer) -> tirx.Buffer:
        """Emit the code before all rows: it prepares the image in the layout that ``row`` reads."""

    def row(
        self,
        image: tirx.Buffer,
        weights: tirx.Buffer,
        position: tuple[tirx.Expr, tirx.Expr],
        block: tirx.Expr,
        keep: Store,
    ) -> None:
        """Emit the row of outputs at ``position`` (n, y). Calls ``keep(x, vectors)`` at least once for each x."""


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
    """Whether pooled_conv2d supports a convolution with this epilogue, followed by this pooling."""
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
        shape: Shape of the convolution.
        weight: float32 [OC, Cin, kh, kw].
        epilogue: Epilogue of the convolution, accepted by can_pool.
        pool: Shape of the pooling. Its input is the output of the convolution; its padding is ignored by the maximum.
        pool_epilogue: Epilogue of the pooling; Ref(0) is the maximum.
        isa: The instruction set.
        tile: Register tile of the convolution: one of tiles.tiles(shape, isa, "float32"); by default the first.
        filtered: Whether minimal filters may be used where they are faster (filtered_rows.py). Their rounding error
            is larger.

    Returns:
        ``func(data [N, H, W, C], *tensors of pool_epilogue, weights, *constants, *outputs)``.

    Raises:
        ValueError: If can_pool is False, or a window of the pooling is entirely in the padding.
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
    larger = largest_number(VectorType("float32", rows.lanes), isa.architecture)
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
                pool=pool, convolve=convolve, after=after, larger=larger, line=line, ring=ring, lanes=rows.lanes
            )
            with T.serial(first, tirx.min(first + height, pool.out_height)) as y:
                band.row((n, y), y == first, T.bind(block * rows.block))
    return builder.kernel(f"{name}{' filtered' * filtered} {rows.tile}")


def _bands(pool: Conv2dShape) -> int:
    """The number of bands into which the output rows are divided."""
    twice = pool.kernel[0] - pool.strides[0]
    if twice <= 0:
        return pool.out_height
    return max(1, min(pool.out_height, int(pool.height * _TWICE / twice)))


@dataclass(frozen=True, eq=False)
class _Band:
    """Emits the code for a band of output rows of one block of channels.

    Attributes:
        pool: Shape of the pooling.
        convolve: Emits a row of the convolution with its epilogue, stored in ``line``.
        after: Writes the epilogue of the pooling.
        larger: The larger of two vectors, of which the first may have NaN, which is ignored.
        line: A row of the convolution: float32 [W, block].
        ring: Rows of the convolution, pooled along the row: float32 [kh, OW, block]. Row y is in slot y % kh.
        lanes: Channels per vector.
    """

    pool: Conv2dShape
    convolve: Callable[[tirx.Expr], None]
    after: EpilogueWriter
    larger: LlvmFunction
    line: tirx.Buffer
    ring: tirx.Buffer
    lanes: int

    @property
    def vectors(self) -> range:
        """The first channel of each vector of a block."""
        return range(0, int(self.line.shape[-1]), self.lanes)

    def row(self, position: tuple[tirx.Expr, tirx.Expr], alone: tirx.Expr, channel: tirx.Expr) -> None:
        """Emit the output row (n, y); ``alone`` if the ring lacks the rows shared with the output row before."""
        pool, taps = self.pool, self.pool.kernel[0]
        top = T.bind(position[1] * pool.strides[0] - pool.padding[0])
        shared = T.bind(tirx.Select(alone, 0, max(taps - pool.strides[0], 0)))
        with T.serial(tirx.max(top + shared, 0), tirx.min(top + taps, pool.height)) as source:
            self.convolve(source)
            self._pool_line(T.bind(tirx.floormod(source, taps)))
        # Rows outside the image must not affect the maximum: they are replaced by the nearest row inside.
        inside = [tirx.min(tirx.max(top + ky, 0), pool.height - 1) for ky in range(taps)]
        slots = [T.bind(tirx.floormod(source, taps)) for source in inside]
        with T.serial(0, pool.out_width) as x:
            vectors = []
            for i in self.vectors:
                values = [load(self.ring, (slot, x), i, self.lanes) for slot in slots]
                vectors.append(T.bind(self._largest(values)))
            self.after.store(vectors, (*position, x), channel)

    def _pool_line(self, slot: tirx.Expr) -> None:
        """Emit the maxima along a row of the convolution, stored in a slot of the ring."""
        pool = self.pool

        def pixel(x: Index, left: Index) -> None:
            taps = [left + kx for kx in range(pool.kernel[1])]
            taps = [tap for tap in taps if not isinstance(tap, int) or 0 <= tap < pool.width]
            for i in self.vectors:
                least = VectorType("float32", self.lanes).constant(-np.inf)
                values = [least, *(load(self.line, (tap,), i, self.lanes) for tap in taps)]
                store(self.ring, self._largest(values), (slot, x), i)

        for_columns(pool, pixel)

    def _largest(self, values: Sequence[tirx.Expr]) -> tirx.Expr:
        """The largest number of vectors, of which the first has no NaN."""
        return reduce(lambda largest, value: self.larger(value, largest), values)
