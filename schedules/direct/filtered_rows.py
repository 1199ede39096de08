"""Rows of a float convolution of few channels and wide windows, by minimal filtering along the row.

A filter of kw taps and stride s is s filters of about kw / s taps, one for each phase of the columns; the sum over the
rows of the window and the channels is between the transforms of inputs and outputs, which cost little therefore::

    for row of the image:                                        begin
        for phase, product, channel, vector of tiles:
            image[row][phase, product, channel][tiles] = of_inputs @ pixels
    for tiles of 4 outputs in a row:                             row
        for phase, product:
            products[phase, product] = 0                         registers
            for row of the window, channel:
                products[...] += broadcast(image[...]) * weights
        outputs = to_outputs @ products

The 7x7 filter with stride 2 takes 13 products for 4 outputs instead of 28.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..isa import Isa
from ..shapes import Conv2dShape
from ..tir.loops import parallel_rows
from ..tir.vectors import VectorType, load, store, transposed
from .loop_nest import Store
from .minimal_filters import MOST_TAPS, OUTPUTS, MinimalFilter, minimal_filter
from .tiles import Tile, default_tile

# The share of the direct way's multiply-adds that must suffice: transforms move data, too.
_WORTHWHILE = 0.75


def filters_pay(shape: Conv2dShape) -> bool:
    """Whether a convolution should take minimal filters."""
    taps = _taps(shape)
    if shape.groups > 1 or shape.dilation[1] > 1 or max(taps) > MOST_TAPS:
        return False
    depth = shape.kernel[0] * shape.in_channels
    products = sum(minimal_filter(r).products for r in taps)
    transforms = products * OUTPUTS + products * 2 * depth * max(taps) / shape.out_channels
    return products * depth + transforms < _WORTHWHILE * OUTPUTS * shape.kernel[1] * depth


def _taps(shape: Conv2dShape) -> list[int]:
    """Of the filter of each phase; there are no more phases than taps."""
    stride, width = shape.strides[1], shape.kernel[1]
    return [len(range(phase, width, stride)) for phase in range(min(stride, width))]


@dataclass(frozen=True, eq=False)
class FilteredRows:
    """The convolution, while its code is written.

    Attributes:
        shape: The layer.
        filters: One a phase.
        tile: Tiles of 4 outputs that are computed together, and vectors of output channels.
        lanes: Of a vector.
    """

    shape: Conv2dShape
    filters: tuple[MinimalFilter, ...]
    tile: Tile
    lanes: int

    @classmethod
    def of(cls, shape: Conv2dShape, isa: Isa) -> FilteredRows:
        """For a layer for which filters_pay."""
        tiles = -(-shape.out_width // OUTPUTS)
        column = replace(
            shape, width=tiles, kernel=(shape.kernel[0], 1), strides=(shape.strides[0], 1),
            padding=(shape.padding[0], 0, shape.padding[2], 0),
        )  # fmt: skip
        filters = tuple(minimal_filter(taps) for taps in _taps(shape))
        return cls(shape, filters, default_tile(column, isa, "float32"), isa.float_lanes)

    @property
    def block(self) -> int:
        """Output channels in a block."""
        return self.lanes * self.tile.vectors

    @property
    def blocks(self) -> int:
        """Blocks of output channels."""
        return -(-self.shape.out_channels // self.block)

    @property
    def tiles(self) -> int:
        """Tiles in a row; they may hang over its end."""
        return -(-self.shape.out_width // OUTPUTS)

    @property
    def width(self) -> int:
        """Outputs of a row with those that hang over its end."""
        return self.tiles * OUTPUTS

    @property
    def products(self) -> int:
        """Of all phases."""
        return sum(each.products for each in self.filters)

    def packed_weights(self, weight: np.ndarray) -> np.ndarray:
        """From float32 [OC, Cin, kh, kw] to [blocks, products, kh * Cin, block]."""
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
        """Copy a row of the padded image."""
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
        """All products of a vector of tiles, in one channel."""
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

        Calls ``keep(x, vectors)`` for each x below ``width``, for some more than once.
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
        """One product of all tiles of a register tile, summed over the window's rows and the channels."""
        shape, tile, lanes = self.shape, self.tile, self.lanes
        sums, vector_type = T.alloc_buffer((tile.pixels, self.block), "float32"), VectorType("float32", lanes)
        runs = [(p, v) for p in range(tile.pixels) for v in range(0, self.block, lanes)]
        for p, v in runs:
            store(sums, vector_type.constant(0.0), (p,), v)
        with T.serial(0, shape.kernel[0]) as ky, T.serial(0, shape.in_channels) as channel:
            at = (block, product, ky * shape.in_channels + channel)
            vectors = {v: T.bind(load(weights, at, v, lanes)) for v in range(0, self.block, lanes)}
            source = (top + ky * shape.dilation[0], product * shape.in_channels + channel)
            for p in range(tile.pixels):
                value = T.bind(vector_type.broadcast(image[(*source, first + p)]))
                for v, vector in vectors.items():
                    store(sums, load(sums, (p,), v, lanes) + value * vector, (p,), v)
        for p, v in runs:
            store(products, load(sums, (p,), v, lanes), (product, p), v)


def _combination(factors: Sequence[float], values: Sequence[tirx.Expr]) -> tirx.Expr:
    """The sum of products of vectors with numbers."""
    total: tirx.Expr | None = None
    for factor, value in zip(factors, values, strict=True):
        if factor:
            term = value if factor == 1 else value * VectorType.of(value).constant(float(factor))
            total = term if total is None else total + term
    assert total is not None
    return total
