"""Rows of a float convolution with few channels and wide windows, by minimal filtering along the row.

A filter of kw taps and stride s consists of s filters of about kw / s taps, one per phase of the columns. The sum over
window rows and channels is computed between the transforms of inputs and outputs, so the transforms cost little::

    for row of the image:                                        begin
        for phase, product, channel, vector of tiles:
            image[row][phase, product, channel][tiles] = of_inputs @ pixels
    for tiles of 4 outputs in a row:                             row
        for phase, product:
            products[phase, product] = 0                         registers
            for row of the window, channel:
                products[...] += broadcast(image[...]) * weights
        outputs = to_outputs @ products

Example: a 7x7 filter with stride 2 needs 13 products per window row for 4 outputs, instead of 28.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..shapes import Conv2dShape
from ..tir.loops import parallel_rows
from ..tir.vectors import VectorType, lanes_of, load, powers_of_two, store, transposed
from .loop_nest import Store
from .minimal_filters import MOST_TAPS, OUTPUTS, MinimalFilter, minimal_filter
from .tiles import Tile, default_tile

# Minimal filters are used below this share of the direct convolution's multiply-adds: transforms also move data.
_WORTHWHILE = 0.75


def filters_pay(shape: Conv2dShape) -> bool:
    """Whether minimal filters are expected to be faster than the direct convolution."""
    taps = _taps(shape)
    if shape.groups > 1 or shape.dilation[1] > 1 or max(taps) > MOST_TAPS:
        return False
    depth = shape.kernel[0] * shape.in_channels
    products = sum(minimal_filter(r).products for r in taps)
    transforms = products * OUTPUTS + products * 2 * depth * max(taps) / shape.out_channels
    return products * depth + transforms < _WORTHWHILE * OUTPUTS * shape.kernel[1] * depth


def _taps(shape: Conv2dShape) -> list[int]:
    """The number of taps of each phase's filter; there are no more phases than taps."""
    stride, width = shape.strides[1], shape.kernel[1]
    return [len(range(phase, width, stride)) for phase in range(min(stride, width))]


@dataclass(frozen=True, eq=False)
class FilteredRows:
    """Emits the rows of a convolution.

    Attributes:
        shape: Shape of the layer.
        filters: One filter per phase.
        tile: The register tile. Its pixels are tiles of 4 outputs; its vectors are of output channels.
        lanes: float32 values per vector.
        by_lane: Whether a multiply-add takes its factor from one lane of a register, so that one load reads several.
    """

    shape: Conv2dShape
    filters: tuple[MinimalFilter, ...]
    tile: Tile
    lanes: int
    by_lane: bool

    @classmethod
    def of(cls, shape: Conv2dShape, isa: Isa) -> FilteredRows:
        """The rows of a layer for which ``filters_pay`` is True."""
        tiles = -(-shape.out_width // OUTPUTS)
        column = replace(
            shape, width=tiles, kernel=(shape.kernel[0], 1), strides=(shape.strides[0], 1),
            padding=(shape.padding[0], 0, shape.padding[2], 0),
        )  # fmt: skip
        filters = tuple(minimal_filter(taps) for taps in _taps(shape))
        return cls(shape, filters, default_tile(column, isa, "float32"), isa.float_lanes, isa.multiplies_by_lane)

    @property
    def block(self) -> int:
        """Output channels per block."""
        return self.lanes * self.tile.vectors

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""
        return -(-self.shape.out_channels // self.block)

    @property
    def tiles(self) -> int:
        """Tiles per row; the last one may extend past its end."""
        return -(-self.shape.out_width // OUTPUTS)

    @property
    def width(self) -> int:
        """Outputs per row, including those past its end."""
        return self.tiles * OUTPUTS

    @property
    def products(self) -> int:
        """Products of all phases."""
        return sum(each.products for each in self.filters)

    def packed_weights(self, weight: np.ndarray) -> np.ndarray:
        """Transform weights float32 [OC, Cin, kh, kw] to float32 [blocks, products, kh * Cin, block]."""
        shape, stride = self.shape, self.shape.strides[1]
        padded = np.pad(weight.astype(np.float64), [(0, self.blocks * self.block - shape.out_channels), *[(0, 0)] * 3])
        phases = [
            np.einsum("ir,ochr->ihco", each.of_taps, padded[..., p::stride]) for p, each in enumerate(self.filters)
        ]
        products = np.concatenate(phases).reshape(self.products, -1, self.blocks, self.block)
        return np.ascontiguousarray(products.transpose(2, 0, 1, 3), dtype=np.float32)

    def begin(self, data: tirx.Buffer) -> tirx.Buffer:
        """Emit the transform of the image to [N * padded rows, products * channels, tiles]."""
        shape, lanes = self.shape, self.lanes
        unit = shape.strides[1] * OUTPUTS * shape.in_channels
        beyond = max(each.products - 1 for each in self.filters) // OUTPUTS
        vectors = -(-self.tiles // lanes)
        steps = -(-(vectors * lanes + beyond) // lanes) * lanes
        rows = shape.batch * shape.padded_height
        image = T.alloc_buffer((rows, self.products * shape.in_channels, vectors * lanes), "float32")
        with parallel_rows(rows, rows * self.products * shape.in_channels * self.tiles) as row:
            line = T.alloc_buffer((steps * unit + lanes,), "float32")
            pixels = T.alloc_buffer((unit, steps), "float32")
            self._fetch(data, row, line, steps * unit + lanes)
            with T.serial(0, steps // lanes) as block:
                for first in range(0, unit, lanes):
                    starts = [(block * lanes + i) * unit + first for i in range(lanes)]
                    square = [T.bind(load(line, (), start, lanes)) for start in starts]
                    for i, column in enumerate(transposed(square)[: unit - first]):
                        store(pixels, column, (first + i,), block * lanes)
            with T.serial(0, vectors) as vector, T.serial(0, shape.in_channels) as channel:
                self._transform(pixels, image, row, vector * lanes, channel)
        return image

    def _fetch(self, data: tirx.Buffer, row: tirx.Expr, line: tirx.Buffer, length: int) -> None:
        """Emit the copy of a row of the padded image."""
        shape, channels = self.shape, self.shape.in_channels
        n, y = tirx.floordiv(row, shape.padded_height), tirx.floormod(row, shape.padded_height) - shape.padding[0]
        source = T.decl_buffer((shape.batch, shape.height, shape.width * channels), "float32", data=data.data)
        start = shape.padding[1] * channels
        count = min(shape.width * channels, length - start)

        def zeros(first: int, end: int) -> None:
            with T.serial(first, end) as i:
                T.buffer_store(line, tirx.const(0.0, "float32"), [i])

        with T.If(tirx.all(y >= 0, y < shape.height)):
            with T.Then():
                zeros(0, start)
                with T.serial(0, count) as i:
                    T.buffer_store(line, source[n, y, i], [start + i])
                zeros(start + count, length)
            with T.Else():
                zeros(0, length)

    def _transform(
        self, pixels: tirx.Buffer, image: tirx.Buffer, row: tirx.Expr, first: tirx.Expr, channel: tirx.Expr
    ) -> None:
        """Emit the input transform of a vector of tiles in one channel: all its products."""
        channels, stride = self.shape.in_channels, self.shape.strides[1]
        product = 0
        for phase, each in enumerate(self.filters):
            inputs = []
            for k in range(each.products):
                element = (stride * (k % OUTPUTS) + phase) * channels + channel
                inputs.append(T.bind(load(pixels, (element,), first + k // OUTPUTS, self.lanes)))
            for factors in each.of_inputs:
                store(image, _combination(factors, inputs), (row, product * channels + channel), first)
                product += 1

    def row(
        self,
        image: tirx.Buffer,
        weights: tirx.Buffer,
        position: tuple[tirx.Expr, tirx.Expr],
        block: tirx.Expr,
        keep: Store,
    ) -> None:
        """Emit the row of outputs at ``position`` (n, y).

        Calls ``keep(x, vectors)`` at least once for each x below ``width``.
        """
        shape, tile, lanes, (n, y) = self.shape, self.tile, self.lanes, position
        top = T.bind(n * shape.padded_height + y * shape.strides[0])
        with T.serial(0, -(-self.tiles // tile.pixels)) as i:
            first = T.bind(tirx.min(i * tile.pixels, self.tiles - tile.pixels))
            products = T.alloc_buffer((self.products, tile.pixels, self.block), "float32")
            for product in range(self.products):
                self._multiply(image, weights, products, top=top, first=first, block=block, product=product)
            with T.serial(0, tile.pixels) as p:
                outputs: list[list[tirx.Expr]] = [[] for _ in range(OUTPUTS)]
                for v in range(0, self.block, lanes):
                    values = [T.bind(load(products, (k, p), v, lanes)) for k in range(self.products)]
                    factors = np.concatenate([each.to_outputs for each in self.filters], axis=1)
                    for j in range(OUTPUTS):
                        outputs[j].append(T.bind(_combination(factors[j], values)))
                for j in range(OUTPUTS):
                    keep(T.bind((first + p) * OUTPUTS + j), outputs[j])

    def _multiply(
        self,
        image: tirx.Buffer,
        weights: tirx.Buffer,
        products: tirx.Buffer,
        *,
        top: tirx.Expr,
        first: tirx.Expr,
        block: tirx.Expr,
        product: int,
    ) -> None:
        """Emit one product for all tiles of a register tile, summed over window rows and channels."""
        shape, tile, lanes = self.shape, self.tile, self.lanes
        sums, vector_type = T.alloc_buffer((tile.pixels, self.block), "float32"), VectorType("float32", lanes)
        runs = [(p, v) for p in range(tile.pixels) for v in range(0, self.block, lanes)]
        for p, v in runs:
            store(sums, vector_type.constant(0.0), (p,), v)
        with T.serial(0, shape.kernel[0]) as ky, T.serial(0, shape.in_channels) as channel:
            at = (block, product, ky * shape.in_channels + channel)
            vectors = {v: T.bind(load(weights, at, v, lanes)) for v in range(0, self.block, lanes)}
            source = (top + ky * shape.dilation[0], product * shape.in_channels + channel)
            for p, value in enumerate(self._inputs(image, source, first)):
                for v, vector in vectors.items():
                    store(sums, load(sums, (p,), v, lanes) + value * vector, (p,), v)
        for p, v in runs:
            store(products, load(sums, (p,), v, lanes), (product, p), v)

    def _inputs(self, image: tirx.Buffer, source: tuple[tirx.Expr, tirx.Expr], first: tirx.Expr) -> Iterator[tirx.Expr]:
        """Emit one input of each tile of a register tile, in all lanes."""
        run = self.lanes if self.by_lane else 1
        for start in range(0, self.tile.pixels, run):
            for begin, size in powers_of_two(min(run, self.tile.pixels - start)):
                loaded = T.bind(load(image, source, first + (start + begin), size))
                yield from map(T.bind, lanes_of(loaded, self.lanes))


def _combination(factors: Sequence[float], values: Sequence[tirx.Expr]) -> tirx.Expr:
    """A linear combination of vectors."""
    total: tirx.Expr | None = None
    for factor, value in zip(factors, values, strict=True):
        if factor:
            term = value if factor == 1 else value * VectorType.of(value).constant(float(factor))
            total = term if total is None else total + term
    assert total is not None
    return total
