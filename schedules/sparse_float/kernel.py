"""Convolutions and dense layers with sparse float32 weights, at a cost of one multiply-add per nonzero weight.

The cost does not depend on the pattern of the weights. The lanes of a vector are pixels, and the accumulators hold the
pixels of a few rows. The nonzero weights are data, one list per output channel::

    make planes of the input                                    input_planes.py
    parallel for rows of pixels, 16 channels:
        for channel:
            accumulators[vectors] = 0                           registers
            for weight, offset in list:
                for v: accumulators[v] += weight * planes[offset + v]
            store the accumulators
        transpose to channels last, epilogue

Budget per weight: one load of the offset, one broadcast of the weight, and one multiply-add with a memory operand per
vector of pixels. Output rows have the same distance as rows of the planes, so lanes between two output rows are unused.

Products with zero weights are skipped. So the result differs from that of a dense layer if an input is infinite or NaN:
the dense layer would add a NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.domain import Domain

from ..epilogue.program import Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape, dense_shape
from ..tir.kernel_builder import KernelBuilder
from ..tir.loops import parallel_rows
from ..tir.vectors import VectorType, load, store, transposed
from .input_planes import Input, LayerData, Pixels, Planes

RUN = 16
"""Output channels per task, which the epilogue processes at once."""

_CHAINS = 8  # independent accumulators that hide the latency of a multiply-add


def sparse_float_conv2d(
    shape: Conv2dShape, weight: np.ndarray, epilogue: Program, isa: Isa, domain: Domain | None = None
) -> Kernel:
    """A convolution, padded with zeros, at a cost proportional to the number of nonzero weights.

    Args:
        shape: The layer.
        weight: float32 [OC, Cin / groups, kh, kw].
        epilogue: Its Ref(0) is the sum of products. The order of the sum differs from other implementations.
        isa: The instruction set to generate code for.
        domain: The values of packed codes, if the data is words.packed_shape((N, H, W, C), ...); None for float32 NHWC.

    Raises:
        ValueError: If ``weight`` or the epilogue's constants do not fit the layer.
    """
    expected = (shape.out_channels, shape.group_in_channels, *shape.kernel)
    if weight.shape != expected:
        raise ValueError(f"the weight of a convolution is {weight.shape}, not (OC, Cin / groups, kh, kw) = {expected}")
    return _build("sparse_float_conv2d", LayerData(shape, False, domain, isa), weight, epilogue)


def sparse_float_dense(
    batch: int, weight: np.ndarray, epilogue: Program, isa: Isa, domain: Domain | None = None
) -> Kernel:
    """A dense layer, at a cost proportional to the number of nonzero weights.

    Args:
        batch: Rows of the data.
        weight: float32 [OC, K].
        epilogue: Its Ref(0) is the sum of products.
        isa: The instruction set to generate code for.
        domain: The values of packed codes, if the data is words.packed_shape((batch, K), ...); None for float32.

    Raises:
        ValueError: If the epilogue's constants do not fit.
    """
    channels, depth = weight.shape
    source = LayerData(dense_shape(batch, depth, channels), True, domain, isa)
    return _build("sparse_float_dense", source, weight[:, :, None, None], epilogue)


@dataclass(frozen=True)
class PixelTile:
    """Output pixels that are computed together.

    Attributes:
        rows: Number of rows. Several rows are always whole rows.
        columns: Pixels per row.
        vectors: Vectors that hold the tile, including the unused lanes between rows.
    """

    rows: int
    columns: int
    vectors: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"


def pixel_tile(shape: Conv2dShape, row: int, lanes: int, most: int) -> PixelTile:
    """The tile that needs the fewest instructions per weight.

    Args:
        shape: The layer.
        row: Distance between rows of output pixels, in elements.
        lanes: Pixels per vector.
        most: Maximum number of vectors in a tile.
    """
    rows_of_pixels = (
        PixelTile(rows, shape.out_width, -(-((rows - 1) * row + shape.out_width) // lanes))
        for rows in range(1, shape.out_height + 1)
    )
    whole = takewhile(lambda tile: tile.vectors <= most, rows_of_pixels)
    parts = (PixelTile(1, min(vectors * lanes, shape.out_width), vectors) for vectors in range(1, most + 1))

    def cost(tile: PixelTile) -> tuple[int, int]:
        tiles = -(-shape.out_height // tile.rows) * -(-shape.out_width // tile.columns)
        # Each weight takes about two instructions in addition to its multiply-adds.
        return tiles * (tile.vectors + 2), tile.vectors

    return min(chain(whole, parts), key=cost)


@dataclass(frozen=True, eq=False)
class NonzeroWeights:
    """The nonzero weights, channel by channel.

    Attributes:
        first: int32 [channels + 1], the first entry of each channel's list. Channels are padded to a multiple of RUN.
        offsets: uint16 or uint32, offset of the input of each weight, for the first output pixel.
        values: float32, the weights.
    """

    first: np.ndarray
    offsets: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, shape: Conv2dShape, weight: np.ndarray, offsets: np.ndarray) -> NonzeroWeights:
        """The lists of weights [OC, C / groups, kh, kw] with inputs at ``offsets`` (``Input.offsets``)."""
        of_channel = offsets.repeat(shape.group_out_channels, axis=0)  # [OC, C / groups, kh, kw]
        kept = (weight != 0) & (of_channel >= 0)
        channels = np.nonzero(kept)[0]
        values, places = weight[kept], of_channel[kept]
        order = np.lexsort((places, channels))
        padded = -(-shape.out_channels // RUN) * RUN
        counts = np.bincount(channels, minlength=padded)
        dtype = np.uint32 if places.max(initial=0) >= 1 << 16 else np.uint16
        # Parameters of a kernel must not be empty.
        tail = [0] if not len(values) else []
        return cls(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int32),
            np.append(places[order], tail).astype(dtype),
            np.append(values[order], tail).astype(np.float32),
        )


def vector_steps(shape: Conv2dShape, isa: Isa, domain: Domain | None) -> int:
    """The cost of one weight for all pixels: vectors it is multiplied with, plus 2 per tile for its other work."""
    source = LayerData(shape, False, domain, isa)
    tile = _tile(source)
    tiles = -(-shape.out_height // tile.rows) * -(-shape.out_width // tile.columns)
    return shape.batch * tiles * (tile.vectors * (2 if source.halves else 1) + 2)


def _input(source: LayerData) -> Input:
    one_pixel = source.shape.out_height == source.shape.out_width == 1
    return Pixels(source) if one_pixel else Planes(source)


def _tile(source: LayerData) -> PixelTile:
    read = _input(source)
    return pixel_tile(source.shape, read.row, read.lanes, (source.isa.registers - 4) // (2 if read.halves else 1))


def _build(name: str, source: LayerData, weight: np.ndarray, epilogue: Program) -> Kernel:
    shape, isa = source.shape, source.isa
    read = _input(source)
    tile = _tile(source)
    lists = NonzeroWeights.of(shape, weight, read.offsets())
    pixels = (shape.out_width,) if source.dense else (shape.batch, shape.out_height, shape.out_width)
    sink = EpilogueWriter(
        epilogue, (*pixels, shape.out_channels), isa, None if source.dense else shape.border_classes()
    )
    with KernelBuilder(name) as builder:
        data = builder.data(source.data_shape, source.dtype)
        first = builder.constant("first", lists.first)
        offsets, values = builder.constant("offsets", lists.offsets), builder.constant("values", lists.values)
        sink.declare(builder)
        nest = _SparseFloatNest(
            source=source,
            read=read,
            tile=tile,
            sink=sink,
            image=read.emit(data, tile.vectors * read.lanes),
            first=first,
            offsets=offsets,
            values=values,
        )
        down, across = -(-shape.out_height // tile.rows), -(-shape.out_width // tile.columns)
        blocks = -(-shape.out_channels // RUN)
        tiles = shape.batch * down * across
        work = tiles * (len(lists.values) * tile.vectors + shape.out_channels * tile.vectors * 4)
        with parallel_rows(tiles * blocks, work) as task:
            block, rest = T.bind(task % blocks), T.bind(task // blocks)
            n = T.bind(rest // (down * across))
            y = T.bind(tirx.min(rest // across % down * tile.rows, shape.out_height - tile.rows))
            x = T.bind(tirx.min(rest % across * tile.columns, shape.out_width - tile.columns))
            nest.task((n, y, x), T.bind(block * RUN))
    return builder.kernel(f"{name} {tile}")


@dataclass(frozen=True, eq=False)
class _SparseFloatNest:
    """Emits the main loops."""

    source: LayerData
    read: Input
    tile: PixelTile
    sink: EpilogueWriter
    image: tirx.Buffer
    first: tirx.Buffer
    offsets: tirx.Buffer
    values: tirx.Buffer

    def task(self, position: tuple[tirx.Expr, tirx.Expr, tirx.Expr], channel: tirx.Expr) -> None:
        """Emit one task: ``RUN`` channels of the tile that begins at ``position`` (n, y, x)."""
        n, y, x = position
        pixels = self.tile.vectors * self.read.lanes
        # The transpose reads up to one vector after the last pixel.
        collected = T.alloc_buffer((RUN, pixels + self.source.isa.float_lanes if pixels > 1 else 1), "float32")
        start = T.bind(n * self.read.image + y * self.read.row + x)
        with T.serial(0, RUN) as i:
            for v, total in enumerate(self._sums(start, channel + i)):
                store(collected, total, (i,), v * self.lanes)
        if pixels == 1:
            column = T.decl_buffer((RUN,), "float32", data=collected.data)
            self._store(column, (), position, channel)
        else:
            self._store_rows(collected, position, channel)

    @property
    def lanes(self) -> int:
        """Lanes of an accumulator."""
        return self.read.lanes // 2 if self.read.halves else self.read.lanes

    @property
    def vector(self) -> VectorType:
        """The type of an accumulator."""
        return VectorType("float32", self.lanes)

    def _sums(self, start: tirx.Expr, channel: tirx.Expr) -> list[tirx.Expr]:
        """The sums of a channel, as vectors of consecutive pixels."""
        lanes, count = self.lanes, self.tile.vectors * (2 if self.read.halves else 1)
        chains = max(1, _CHAINS // count)
        sums = T.alloc_buffer((chains * count, lanes), "float32")
        for k in range(chains * count):
            store(sums, self.vector.constant(0.0), (k,), 0)
        begin, end = T.bind(self.first[channel]), T.bind(self.first[channel + 1])
        blocks = T.bind((end - begin) // chains)
        if chains > 1:
            with T.serial(0, blocks) as block:
                for chain in range(chains):
                    self._add(sums, chain * count, start, begin + block * chains + chain)
        with T.serial(0, end - begin - blocks * chains if chains > 1 else end - begin) as i:
            self._add(sums, 0, start, begin + blocks * chains + i if chains > 1 else begin + i)
        totals = [self._get(sums, v) for v in range(count)]
        for chain in range(1, chains):
            totals = [total + self._get(sums, chain * count + v) for v, total in enumerate(totals)]
        totals = [T.bind(total) for total in totals]
        if not self.read.halves:
            return totals
        order = [i // 2 + (lanes if i % 2 else 0) for i in range(2 * lanes)]
        pairs = zip(totals[::2], totals[1::2], strict=True)
        return [T.bind(tirx.Shuffle(list(pair), half)) for pair in pairs for half in (order[:lanes], order[lanes:])]

    def _add(self, sums: tirx.Buffer, first: int, start: tirx.Expr, entry: tirx.Expr) -> None:
        """Add the products of one weight to the accumulators from ``first`` on."""
        entry = T.bind(entry)
        at = T.bind(start + tirx.Cast("int32", self.offsets[entry]))
        factor = self.vector.broadcast(T.bind(self.values[entry]))
        inputs = [x for v in range(self.tile.vectors) for x in self._inputs(at + v * self.read.lanes)]
        for k, x in enumerate(inputs, first):
            store(sums, self._get(sums, k) + x() * factor, (k,), 0)

    def _inputs(self, at: tirx.Expr) -> list[Callable[[], tirx.Expr]]:
        """Functions that emit the float32 vectors of the pixels from element ``at`` on."""
        lanes = self.lanes
        if not self.read.halves:
            return [lambda: load(self.image, (), at, lanes)]
        pairs: list[tirx.Expr] = []
        words = VectorType("uint32", lanes)

        def even() -> tirx.Expr:
            pairs.append(T.bind(words.reinterpret(load(self.image, (), at, 2 * lanes))))
            return self.vector.reinterpret(pairs[0] << words.constant(16))

        def odd() -> tirx.Expr:
            return self.vector.reinterpret(pairs[0] & words.constant(0xFFFF0000))

        return [even, odd]

    def _store_rows(
        self, collected: tirx.Buffer, position: tuple[tirx.Expr, tirx.Expr, tirx.Expr], channel: tirx.Expr
    ) -> None:
        """Transpose the sums to channels last, and store the pixels of each row."""
        n, y, x = position
        lanes, columns = self.source.isa.float_lanes, self.tile.columns
        turned = T.alloc_buffer((lanes, RUN), "float32")
        with T.serial(0, self.tile.rows) as r, T.serial(0, -(-columns // lanes)) as block:
            at = T.bind(r * self.read.row + block * lanes)
            for c in range(0, RUN, lanes):
                square = [T.bind(load(collected, (c + i,), at, lanes)) for i in range(lanes)]
                for i, vector in enumerate(transposed(square)):
                    store(turned, vector, (i,), c)
            with T.serial(0, tirx.min(lanes, columns - block * lanes)) as i:
                self._store(turned, (i,), (n, T.bind(y + r), T.bind(x + block * lanes + i)), channel)

    def _store(
        self, buffer: tirx.Buffer, row: Sequence[tirx.Expr], position: Sequence[tirx.Expr], channel: tirx.Expr
    ) -> None:
        lanes = min(RUN, self.source.isa.float_lanes)
        values = [T.bind(load(buffer, row, c, lanes)) for c in range(0, RUN, lanes)]
        self.sink.store(values, position[-1:] if self.source.dense else position, channel)

    def _get(self, sums: tirx.Buffer, k: int) -> tirx.Expr:
        return load(sums, (k,), 0, self.lanes)
