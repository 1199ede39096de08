"""The loop nest of all direct convolutions, for float32, for integers and for packed bits.

Layouts: data [N, H, W, elements], weights [groups * blocks, steps per window, lanes per block]. A block is
``tile.vectors`` vectors of output channels::

    copy the image into a padded workspace
    parallel for block, row (or row, block):                  outer loop: the larger of weights and image
        for tile of pixels in row:                            the last tile overlaps the one before
            accumulators[pixels][vectors] = 0                 registers
            for plane of the image, the last one first:       one plane per digit of a code; otherwise one plane
                accumulators *= 2
                for step in window:
                    weight[vectors] = load                    contiguous
                    for pixel: accumulators[pixel] += broadcast(input[pixel]) * weight
            epilogue

A :class:`MultiplyAccumulate` defines ``+=``, ``*`` and ``broadcast``. Instructions per step: ``pixels * vectors``
multiply-adds, ``vectors`` loads, ``pixels`` broadcasts (memory operands on AVX-512).

Where a multiply-add takes its factor from one lane of a register (NEON), steps come in runs: one load per pixel reads
the elements of the run, and nothing is broadcast. Sums are added in the same order.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Protocol

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..kernel import Kernel
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import LlvmFunction
from ..tir.loops import parallel_rows
from ..tir.vectors import Index, VectorType, lanes_of, load, powers_of_two, store
from .tiles import Tile

# Channels per store once a row is collected: a multiple of 8 that divides every word size.
_COLLECTED_RUN = 16

# Kernels with at most this many columns of taps may have the column loop unrolled.
_UNROLLED = 5

# TVM does not put more bytes on the stack, and LLVM keeps nothing else in registers.
_MOST_ON_STACK = 1023

Store = Callable[[tirx.Expr, Sequence[tirx.Expr]], None]


class Sink(Protocol):
    """Turns accumulators into outputs: declares the parameters it needs and stores runs of channels."""

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the tensor operands, the constants and the outputs."""

    def store(self, values: Sequence[tirx.Expr], position: Sequence[Index], first_channel: Index) -> None:
        """Store vectors of consecutive channels of the pixel at ``position``."""


@dataclass(frozen=True)
class ReductionLoop:
    """A loop of the reduction: ``extent`` iterations; each advances ``stride`` elements and ``rows`` rows."""

    extent: int
    stride: int
    rows: int = 0

    def grouped(self, steps: int) -> ReductionLoop:
        """The loop with ``steps`` steps per iteration."""
        return ReductionLoop(self.extent // steps, self.stride * steps, self.rows)


@dataclass(frozen=True)
class Partial:
    """Narrow accumulators for a few steps. They are then added to the full-width accumulators.

    Attributes:
        dtype: The dtype of the narrow accumulators.
        steps: The number of steps that cannot overflow them.
        lanes: Lanes of a vector of them.
    """

    dtype: str
    steps: int
    lanes: int


@dataclass(frozen=True, eq=False)
class MultiplyAccumulate:
    """The arithmetic of one step of the reduction. This class is float32; subclasses are packed bits and integers.

    Attributes:
        element: dtype of the image in the workspace, and of the data unless ``data_element`` says otherwise.
        accumulator: dtype of the accumulators.
        lanes: Output channels per vector.
    """

    element: str
    accumulator: str
    lanes: int

    @property
    def data_element(self) -> str:
        """dtype of the data."""
        return self.element

    @property
    def image_element(self) -> str:
        """dtype in which the inner loop reads the image."""
        return self.element

    @property
    def instruction(self) -> str:
        """The instruction that multiplies, for the report; empty if there is nothing to choose."""
        return ""

    @property
    def partial(self) -> Partial | None:
        """The narrow accumulators, or None if steps add to the full-width accumulators."""
        return None

    def widened(self, narrow: tirx.Expr) -> tirx.Expr:
        """A vector of narrow accumulators as one of full-width accumulators."""
        return VectorType(self.accumulator, self.lanes).cast(narrow)

    @property
    def together(self) -> int:
        """Neighbouring elements of an image row that one step reads. ``joined`` replaces the first of them."""
        return 1

    @property
    def beyond(self) -> int:
        """Elements that a step may read after the last one of the window: every row is followed by so many."""
        return 0

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the constants other than the weights."""

    def spread(self, element: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """The elements of the workspace that replace one element of the data."""
        return (element,)

    @property
    def copies(self) -> bool:
        """Whether the inner loop cannot read the data itself, even if nothing is padded."""
        return self.together > 1 or self.beyond > 0 or self.data_element != self.element

    def joined(self, elements: Sequence[tirx.Expr]) -> tirx.Expr:
        """The combination that replaces the first element of a step. The weights are already stored this way."""
        return elements[0]

    def input(self, image: tirx.Buffer, at: list[tirx.Expr]) -> tuple[tirx.Expr, ...]:
        """Read an element of the image and broadcast it to all lanes."""
        return (T.bind(VectorType(self.image_element, self.lanes).broadcast(image[tuple(at)])),)

    def weight(self, vector: tirx.Expr) -> tuple[tirx.Expr, ...]:
        """Preprocess a loaded weight vector once, for all pixels of the tile."""
        return (vector,)

    def accumulate(self, sums: tirx.Expr, x: tuple[tirx.Expr, ...], w: tuple[tirx.Expr, ...]) -> tirx.Expr:
        """Add the products of a step."""
        return sums + x[0] * w[0]

    def packed(self, weights: np.ndarray) -> np.ndarray:
        """The weights as the inner loop reads them: [blocks, steps, channels].

        Args:
            weights: [blocks, channels of a block, steps].
        """
        return weights.transpose(0, 2, 1)

    def sums(self, tile: Tile) -> int:
        """Vectors of accumulators of a tile."""
        return tile.pixels * tile.vectors

    def results(self, sums: Callable[[int], tirx.Expr], tile: Tile, pixel: int) -> list[tirx.Expr]:
        """The vectors of output channels of a pixel of the tile; ``sums`` gives the accumulators."""
        return [sums(pixel * tile.vectors + v) for v in range(tile.vectors)]

    def block(self, tile: Tile, pixels: Sequence[int], stride: int, steps: int) -> LlvmFunction | None:
        """A function for all steps of the innermost loop; None if steps are emitted one by one.

        Args:
            tile: The register tile.
            pixels: The pixels of the tile to process.
            stride: Elements of the image from a pixel to the next one.
            steps: The number of steps.

        Returns:
            A function of pointers to the accumulators of the tile, and to the elements of the image and of the weights
            that the first step reads.
        """
        return None


@dataclass(frozen=True, eq=False)
class Accumulators:
    """The sums of a tile, which LLVM keeps in registers.

    Attributes:
        vector: The type of one.
        buffers: They are in these, one after the other, each small enough for the stack: [``each``, lanes].
        each: Accumulators per buffer.
    """

    vector: VectorType
    buffers: tuple[tirx.Buffer, ...]
    each: int

    @classmethod
    def allocated(cls, count: int, vector: VectorType) -> Accumulators:
        """``count`` accumulators."""
        each = min(count, _MOST_ON_STACK * 8 // (vector.lanes * vector.bits))
        sizes = [min(each, count - first) for first in range(0, count, each)]
        return cls(vector, tuple(T.alloc_buffer((size, vector.lanes), vector.element) for size in sizes), each)

    def load(self, k: int) -> tirx.Expr:
        """An accumulator."""
        return load(self.buffers[k // self.each], (k % self.each,), 0, self.vector.lanes)

    def store(self, k: int, value: tirx.Expr) -> None:
        """Set an accumulator."""
        store(self.buffers[k // self.each], value, (k % self.each,), 0)

    @property
    def data(self) -> tirx.Expr:
        """Where all of them are, for functions of pointers."""
        (buffer,) = self.buffers
        return buffer.data


@dataclass(frozen=True, eq=False)
class DirectConv2d:
    """A direct convolution without its epilogue.

    Attributes:
        name: Symbol of the function.
        shape: Shape of the layer.
        data_shape: Shape of the first parameter: (N, H, W, groups * depth). A dense layer is a convolution over one
            row of N pixels: (N, depth). With several planes, the plane axis follows N.
        arithmetic: The arithmetic of one step.
        tile: The register tile.
        weights: [groups, output channels per group, kh, kw, steps per pixel]; or [..., kh, 1, steps per row] if
            ``loops`` walk through a whole row of the window.
        loops: The loops over one group's elements of a pixel, as the inner loop reads the image; one iteration per
            step.
        border: A pixel outside the image, in the layout of the data: [planes, elements].
        planes: Planes of the data. The result is the sum over planes j of 2^j times the result for plane j.
        skippable: Whether taps outside the image may be skipped. The sink then accounts for them.
        run_length: Steps whose elements of the image one load reads. They must be neighbours in memory. Only for plain
            arithmetic: no narrow accumulators, no joined elements, no taps skipped.
        rare: More weights for the same steps, mostly 0, as ``weights``: the sums are those of both. A block lists the
            steps where it has any, and repeats these alone. Only for plain arithmetic and one plane.
    """

    name: str
    shape: Conv2dShape
    data_shape: tuple[int, ...]
    arithmetic: MultiplyAccumulate
    tile: Tile
    weights: np.ndarray
    loops: tuple[ReductionLoop, ...]
    border: np.ndarray
    planes: int = 1
    skippable: bool = False
    run_length: int = 1
    rare: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.tile.pixels <= self.shape.out_width:
            raise ValueError(
                f"a tile of {self.tile.pixels} pixels does not fit a row of {self.shape.out_width} output pixels: "
                "take one of tiles.tiles()"
            )

    @property
    def dense(self) -> bool:
        """Whether this is a dense layer."""
        return len(self.data_shape) < 4

    @property
    def skips_rows(self) -> bool:
        """Whether rows of taps outside the image are skipped."""
        return self.skippable and bool(self.shape.padding[0] or self.shape.padding[2])

    @property
    def skips_columns(self) -> bool:
        """Whether columns of taps outside the image are skipped.

        This needs tiles of a whole row, so that the column of every pixel is known at compile time.
        """
        left, right = self.shape.padding[1], self.shape.padding[3]
        whole = self.tile.pixels == self.shape.out_width
        whole = whole and self.arithmetic.partial is None and self.arithmetic.together == 1
        return self.skippable and whole and bool(left or right) and 1 < self.shape.kernel[1] <= _UNROLLED

    @property
    def block(self) -> int:
        """Output channels per block."""
        return self.arithmetic.lanes * self.tile.vectors

    @property
    def blocks(self) -> int:
        """Blocks per group."""
        return -(-self.shape.group_out_channels // self.block)

    @property
    def collected(self) -> bool:
        """Whether a row is first collected in a buffer, because groups may start in the middle of a byte or block."""
        return self.shape.groups > 1 and (self.block % 8 > 0 or self.shape.group_out_channels % self.block > 0)

    @property
    def run(self) -> int:
        """Output channels per call of the sink. The first channel of a run is a multiple of this number."""
        return _COLLECTED_RUN if self.collected else self.block

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result: (N, H, W, C), or (N, C) for a dense layer."""
        shape = self.shape
        if self.dense:
            return (shape.out_width, shape.out_channels)
        return (shape.batch, shape.out_height, shape.out_width, shape.out_channels)

    def packed_weights(self) -> np.ndarray:
        """The weights as the inner loop reads them: [groups * blocks, kh * kw * steps, block]."""
        return np.ascontiguousarray(self.arithmetic.packed(self._blocked(self.weights)))

    def _blocked(self, weights: np.ndarray) -> np.ndarray:
        """[groups * blocks, channels of a block, kh * columns * steps]."""
        groups, channels, kh, columns, steps = weights.shape
        padded = np.pad(weights, [(0, 0), (0, self.blocks * self.block - channels), *[(0, 0)] * 3])
        return padded.reshape(groups * self.blocks, self.block, kh * columns * steps)

    def rare_steps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """The steps of the weights ``rare``.

        Returns:
            The weights [steps of all blocks, channels of a block], how far each step's elements are from the first of
            the window, and the number of steps before each block [blocks + 1]. None if there are no such steps.
        """
        if self.rare is None or not self.rare.any():
            return None
        blocked, (down, right) = self._blocked(self.rare).transpose(0, 2, 1), self.shape.dilation
        pixel = self.shape.in_channels
        row = self.shape.padded_width * pixel + self.arithmetic.beyond
        strides = [row * down, pixel * right, *(loop.stride for loop in self.loops)]
        extents = [*self.weights.shape[2:4], *(loop.extent for loop in self.loops)]
        places = np.tensordot(strides, np.indices(extents), 1).ravel()
        block, step = np.nonzero(blocked.any(axis=2))
        first = np.searchsorted(block, np.arange(len(blocked) + 1))
        return blocked[block, step], places[step].astype(np.int32), first.astype(np.int32)

    def build(self, sink: Sink, outside: Callable[[], tirx.Expr] | None = None) -> Kernel:
        """Generate the kernel.

        Args:
            sink: Stores runs of ``self.run`` accumulators.
            outside: Gives the elements of a pixel outside the image, all equal, if only a tensor operand of the sink
                knows them; by default they are ``self.border``.
        """
        weights, arithmetic = self.packed_weights(), self.arithmetic
        with KernelBuilder(self.name) as builder:
            data = builder.data(self.data_shape, arithmetic.data_element)
            weight = builder.constant("weights", weights)
            arithmetic.declare(builder)
            sink.declare(builder)
            rare = _Rare.declared(self, builder)
            nest = Nest(self, padded_image(self, data, None if outside is None else outside()), weight, rare)
            rows, blocks = self.shape.batch * self.shape.out_height, self.shape.groups * self.blocks
            work = rows * blocks * (weights[0].size // arithmetic.lanes) * self.shape.out_width
            if self.collected:
                with parallel_rows(rows, work) as row:
                    nest.collected_row(row, sink)
            else:
                image_outside = np.prod(self.data_shape) > weights.size
                with parallel_rows(rows * blocks, work) as task:
                    if image_outside:
                        nest.row(tirx.floordiv(task, blocks), tirx.floormod(task, blocks), sink)
                    else:
                        nest.row(tirx.floormod(task, rows), tirx.floordiv(task, rows), sink)
        return builder.kernel(" ".join(filter(None, (self.name, str(self.tile), arithmetic.instruction))))


def padded_image(conv: DirectConv2d, data: tirx.Buffer, outside: tirx.Expr | None = None) -> tirx.Buffer:
    """The padded image as the inner loop reads it, [N, rows, elements per row]; the data itself if no copy is needed.

    The planes of a feature map are stored like images, one after the other. The planes of a dense layer are stored
    within a pixel. If a step reads several elements together, each row is followed by its joined elements.
    ``outside`` replaces the border of the convolution.
    """
    shape, arithmetic = conv.shape, conv.arithmetic
    borders = [
        [
            arithmetic.spread(tirx.const(value, arithmetic.data_element) if outside is None else outside)
            for value in plane
        ]
        for plane in conv.border.tolist()
    ]
    images, channels, spread = shape.batch * conv.planes, len(borders[0]), len(borders[0][0])
    if conv.dense:
        images, channels = shape.batch, conv.planes * channels
    if spread == 1 and not arithmetic.copies and not any(shape.padding):
        return T.decl_buffer((images, shape.height, shape.width * channels), arithmetic.element, data=data.data)
    top, left, bottom, right = shape.padding
    width = shape.padded_width * channels * spread
    copies = 1 if arithmetic.together == 1 else 2
    padded = T.alloc_buffer((images, shape.padded_height, copies * width + arithmetic.beyond), arithmetic.element)
    rows = T.decl_buffer((images * shape.height, shape.width * channels), arithmetic.data_element, data=data.data)
    uniform = conv.border.min() == conv.border.max()

    def put(n: Index, y: Index, element: Index, values: tuple[tirx.Expr, ...]) -> None:
        for i, value in enumerate(values):
            T.buffer_store(padded, value, [n, y, element * spread + i])

    def border(n: Index, channel: int) -> tuple[tirx.Expr, ...]:
        values = borders[0][channel]
        for plane in range(1, conv.planes):
            chosen = zip(borders[plane][channel], values, strict=True)
            values = tuple(tirx.Select(tirx.floormod(n, conv.planes) == plane, new, old) for new, old in chosen)
        return values

    def fill(n: Index, y: Index, first: int, pixels: int) -> None:
        if pixels and uniform:
            with T.serial(0, pixels * channels) as i:
                put(n, y, first * channels + i, borders[0][0])
        elif pixels:
            with T.serial(0, pixels) as x:
                for c in range(channels):
                    put(n, y, (first + x) * channels + c, border(n, c))

    def end(n: Index, y: Index) -> None:
        for i in range(arithmetic.beyond):  # their weights are 0
            T.buffer_store(padded, tirx.const(0, arithmetic.element), [n, y, copies * width + i])

    for first, count in ((0, top), (top + shape.height, bottom)):
        if count:
            with T.serial(0, images) as n, T.serial(0, count) as y:
                fill(n, first + y, 0, shape.padded_width)
                end(n, first + y)
    with parallel_rows(images * shape.height, images * shape.height * width) as row:
        n, y = T.bind(tirx.floordiv(row, shape.height)), T.bind(top + tirx.floormod(row, shape.height))
        fill(n, y, 0, left)
        with T.serial(0, shape.width * channels) as i:
            put(n, y, left * channels + i, arithmetic.spread(T.bind(rows[row, i])))
        fill(n, y, left + shape.width, right)
        end(n, y)
    if copies > 1:
        with parallel_rows(images * shape.padded_height, images * shape.padded_height * width) as row:
            n, y = T.bind(tirx.floordiv(row, shape.padded_height)), T.bind(tirx.floormod(row, shape.padded_height))
            with T.serial(0, width - arithmetic.together + 1) as i:
                elements = [padded[n, y, i + k] for k in range(arithmetic.together)]
                T.buffer_store(padded, arithmetic.joined(elements), [n, y, width + i])
    ratio = np.dtype(arithmetic.element).itemsize // np.dtype(arithmetic.image_element).itemsize
    if ratio == 1:
        return padded
    return T.decl_buffer((*padded.shape[:-1], copies * width * ratio), arithmetic.image_element, data=padded.data)


@dataclass(frozen=True, eq=False)
class _Rare:
    """The steps of ``DirectConv2d.rare_steps``, as constants of the kernel."""

    weights: tirx.Buffer
    places: tirx.Buffer
    first: tirx.Buffer

    @classmethod
    def declared(cls, conv: DirectConv2d, builder: KernelBuilder) -> _Rare | None:
        """The constants; None if there are no such steps."""
        if (steps := conv.rare_steps()) is None:
            return None
        names = ("rare_weights", "rare_places", "rare_first")
        return cls(*(builder.constant(name, each) for name, each in zip(names, steps, strict=True)))


@dataclass(frozen=True, eq=False)
class Nest:
    """Emits the main loops."""

    conv: DirectConv2d
    image: tirx.Buffer
    weights: tirx.Buffer
    rare: _Rare | None = None

    def row(self, row: tirx.Expr, block: tirx.Expr, sink: Sink) -> None:
        """Emit one row of one block of channels, stored directly by the sink."""
        conv = self.conv
        n, y = self._image_row(row)
        group, block = T.bind(tirx.floordiv(block, conv.blocks)), T.bind(tirx.floormod(block, conv.blocks))
        first = T.bind(group * conv.shape.group_out_channels + block * conv.block)
        self.tiles((n, y), group, block, lambda x, values: sink.store(values, self._position(n, y, x), first))

    def collected_row(self, row: tirx.Expr, sink: Sink) -> None:
        """Emit one row of all groups, collected in a buffer before the sink stores it."""
        conv, shape = self.conv, self.conv.shape
        n, y = self._image_row(row)
        accumulator, lanes = conv.arithmetic.accumulator, conv.arithmetic.lanes
        collected = T.alloc_buffer((shape.out_width, shape.out_channels + max(conv.block, conv.run)), accumulator)
        with T.serial(0, shape.out_width) as x:
            store(collected, VectorType(accumulator, conv.run).constant(0), (x,), shape.out_channels)
        # A block may extend past the end of its group. The next group is written later and overwrites the excess.
        with T.serial(0, shape.groups) as group, T.serial(0, conv.blocks) as block:
            first = T.bind(group * shape.group_out_channels + block * conv.block)

            def keep(x: tirx.Expr, values: Sequence[tirx.Expr]) -> None:
                for i, value in enumerate(values):
                    store(collected, value, (x,), first + i * lanes)

            self.tiles((n, y), group, block, keep)
        with T.serial(0, shape.out_width) as x, T.serial(0, -(-shape.out_channels // conv.run)) as i:
            first = T.bind(i * conv.run)
            value = T.bind(load(collected, (x,), first, conv.run))
            sink.store([value], self._position(n, y, x), first)

    def tiles(self, row: tuple[tirx.Expr, tirx.Expr], group: tirx.Expr, block: tirx.Expr, keep: Store) -> None:
        """Emit all tiles of a row (image, row) of one block."""
        conv, tile = self.conv, self.conv.tile
        width = conv.shape.out_width
        with T.serial(0, -(-width // tile.pixels)) as i:
            x = T.bind(tirx.min(i * tile.pixels, width - tile.pixels))
            accumulators = self._zeros(VectorType(conv.arithmetic.accumulator, conv.arithmetic.lanes))
            self._reduce(accumulators, (*row, x), group, T.bind(group * conv.blocks + block))
            for p in range(tile.pixels):
                values = conv.arithmetic.results(accumulators.load, tile, p)
                keep(T.bind(x + p), [T.bind(value) for value in values])

    def _reduce(
        self,
        accumulators: Accumulators,
        position: tuple[tirx.Expr, tirx.Expr, tirx.Expr],
        group: tirx.Expr,
        block: tirx.Expr,
    ) -> None:
        """Emit the sums over planes and window for every pixel of the tile that starts at ``position`` (n, y, x)."""
        conv, shape, (n, y, x) = self.conv, self.conv.shape, position
        pixel = self._row_elements // shape.padded_width
        start = T.bind(x * (shape.strides[1] * pixel) + group * (pixel // shape.groups))
        row = T.bind(y * shape.strides[0])
        if conv.planes == 1:
            self._reduce_plane(accumulators, n, _Place(row, start, tirx.const(0, "int32")), pixel, block)
            if self.rare is not None:
                self._reduce_rare(accumulators, [n, row, start], self.rare, block)
            return
        # The last plane is the most significant: its sum is doubled once for each plane that follows.
        for plane in reversed(range(conv.planes)):
            for k in range(conv.tile.pixels * conv.tile.vectors if plane < conv.planes - 1 else 0):
                accumulators.store(k, accumulators.load(k) + accumulators.load(k))
            image, first = (
                (n, start + plane * (pixel // conv.planes)) if conv.dense else (n * conv.planes + plane, start)
            )
            place = _Place(row, T.bind(first), tirx.const(0, "int32"))
            self._reduce_plane(accumulators, T.bind(image), place, pixel, block)

    def _reduce_plane(
        self, accumulators: Accumulators, n: tirx.Expr, place: _Place, pixel: int, block: tirx.Expr
    ) -> None:
        """Emit the sums over the window in one plane for every pixel of the tile; a pixel has ``pixel`` elements."""
        shape, partial = self.conv.shape, self.conv.arithmetic.partial
        column = ReductionLoop(self.conv.weights.shape[3], shape.dilation[1] * pixel)
        loops, stride = self.conv.loops, shape.strides[1] * pixel
        columns, together = _fuse([column, *loops]), self.conv.arithmetic.together
        if together > 1:
            columns = [columns[0].grouped(together)]
        elif self.conv.skips_columns:
            subsets = [self._pixels_inside(kx) for kx in range(shape.kernel[1])]
            together = self._steps_of_block(loops[-1].extent, stride, subsets)
            loops = (*loops[:-1], loops[-1].grouped(together))
        else:
            together = self._steps_of_block(columns[-1].extent, stride, [range(self.conv.tile.pixels)])
            columns[-1] = columns[-1].grouped(together)
        rows = ReductionLoop(shape.kernel[0], 0, shape.dilation[0])

        def step(target: Accumulators, place: _Place, pixels: Sequence[int] = range(self.conv.tile.pixels)) -> None:
            at, number = [n, T.bind(place.line), T.bind(place.element)], T.bind(place.step * together)
            function = self.conv.arithmetic.block(self.conv.tile, pixels, stride, together) if pixels else None
            if function is None:
                self._step(target, at, stride, self._step_weights(block, number), pixels)
            else:
                function.emit(target.data, T.address_of(self.image[at]), T.address_of(self.weights[block, number, 0]))

        def chunk(walk: Callable[[Callable[[_Place], None]], None]) -> None:
            assert partial is not None
            narrow = self._zeros(VectorType(partial.dtype, partial.lanes))
            walk(lambda place: step(narrow, place))
            for k in range(self.conv.tile.pixels * self.conv.tile.vectors):
                added = self.conv.arithmetic.widened(narrow.load(k))
                accumulators.store(k, accumulators.load(k) + added)

        def walk_row(place: _Place) -> None:
            if partial is not None:
                _walk_in_chunks(columns, place, partial.steps, chunk)
            elif not self.conv.skips_columns:
                _walk(columns, place, lambda place: step(accumulators, place))
            else:
                inner = prod(loop.extent for loop in loops)
                for kx in range(shape.kernel[1]):
                    moved, pixels = place.moved(column, tirx.const(kx, "int32"), inner), self._pixels_inside(kx)
                    _walk(loops, moved, functools.partial(step, accumulators, pixels=pixels))

        inner = prod(loop.extent for loop in ([column, *loops] if self.conv.skips_columns else columns))
        if self.conv.skips_rows or self.conv.skips_columns:
            first, end = self._inside(place.line) if self.conv.skips_rows else (0, shape.kernel[0])
            with T.serial(first, end) as i:
                walk_row(place.moved(rows, i, inner))
        elif self.conv.run_length > 1:
            run = functools.partial(self._run, accumulators, n, shape.strides[1] * pixel, block)
            _walk_in_runs([rows, *columns], place, self.conv.run_length, run)
        elif partial is None:
            _walk([rows, *columns], place, lambda place: step(accumulators, place))
        else:
            _walk_in_chunks([rows, *columns], place, partial.steps, chunk)

    def _reduce_rare(self, sums: Accumulators, at: list[tirx.Expr], rare: _Rare, block: tirx.Expr) -> None:
        """Emit the steps that the block has listed; the window starts at ``at``."""
        pixel = self._row_elements // self.conv.shape.padded_width
        lanes, vectors = self.conv.arithmetic.lanes, range(self.conv.tile.vectors)
        with T.serial(rare.first[block], rare.first[block + 1]) as step:
            place = [*at[:-1], T.bind(at[-1] + rare.places[step])]
            loaded = [T.bind(load(rare.weights, (step,), v * lanes, lanes)) for v in vectors]
            weights = [self.conv.arithmetic.weight(vector) for vector in loaded]
            self._step(sums, place, self.conv.shape.strides[1] * pixel, weights, range(self.conv.tile.pixels))

    def _steps_of_block(self, steps: int, stride: int, subsets: Sequence[Sequence[int]]) -> int:
        """``steps`` if the arithmetic has blocks of them for all these subsets of the pixels, otherwise 1."""
        blocks = (self.conv.arithmetic.block(self.conv.tile, pixels, stride, steps) for pixels in subsets if pixels)
        return steps if all(blocks) else 1

    def _pixels_inside(self, tap: int) -> list[int]:
        """The output pixels of a row for which tap column ``tap`` is inside the image."""
        shape = self.conv.shape
        columns = [x * shape.strides[1] + tap * shape.dilation[1] - shape.padding[1] for x in range(shape.out_width)]
        return [x for x, column in enumerate(columns) if 0 <= column < shape.width]

    def _inside(self, row: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        """The tap rows [first, end) inside the image, for a window that starts at ``row``."""
        shape, down = self.conv.shape, self.conv.shape.dilation[0]
        first, end = (
            T.bind(tirx.floordiv(border - row + (down - 1), down))
            for border in (shape.padding[0], shape.padding[0] + shape.height)
        )
        return T.bind(tirx.max(first, 0)), T.bind(tirx.min(end, shape.kernel[0]))

    @property
    def _row_elements(self) -> int:
        """Elements per image row, as the inner loop reads it, without the joined elements and those beyond."""
        arithmetic = self.conv.arithmetic
        return (int(self.image.shape[-1]) - arithmetic.beyond) // (1 if arithmetic.together == 1 else 2)

    def _step_weights(self, block: tirx.Expr, step: tirx.Expr) -> list[tuple[tirx.Expr, ...]]:
        """The weights of one step, for each vector of the tile's channels."""
        arithmetic = self.conv.arithmetic

        def vectors(first: int) -> tuple[tirx.Expr, ...]:
            rows = [step + i for i in range(arithmetic.together)]
            loaded = [T.bind(load(self.weights, (block, row), first, arithmetic.lanes)) for row in rows]
            return tuple(part for vector in loaded for part in arithmetic.weight(vector))

        return [vectors(v * arithmetic.lanes) for v in range(self.conv.tile.vectors)]

    def _step(
        self,
        sums: Accumulators,
        at: list[tirx.Expr],
        stride: int,
        weights: Sequence[tuple[tirx.Expr, ...]],
        pixels: Sequence[int],
    ) -> None:
        """Emit one step for the given pixels of the tile: multiply their elements with all weights and accumulate."""
        arithmetic, tile = self.conv.arithmetic, self.conv.tile
        elements = list(range(arithmetic.together))
        places = elements if arithmetic.together == 1 else [self._row_elements, *elements[1:]]
        for p in pixels:
            inputs = [arithmetic.input(self.image, [*at[:-1], at[-1] + (p * stride + i)]) for i in places]
            value = tuple(part for parts in inputs for part in parts)
            for v in range(tile.vectors):
                k = p * tile.vectors + v
                sums.store(k, arithmetic.accumulate(sums.load(k), value, weights[v]))

    def _run(self, sums: Accumulators, n: tirx.Expr, stride: int, block: tirx.Expr, place: _Place, length: int) -> None:
        """Emit ``length`` steps on neighbouring elements, the first of them at ``place``."""
        arithmetic, tile = self.conv.arithmetic, self.conv.tile
        line, element = T.bind(place.line), T.bind(place.element)
        loaded = [T.bind(load(self.image, (n, line), element + p * stride, length)) for p in range(tile.pixels)]
        elements = [lanes_of(vector, arithmetic.lanes) for vector in loaded]
        # All loads come first: a core that executes in order waits once.
        weights = [self._step_weights(block, T.bind(place.step + i)) for i in range(length)]
        for i, p in itertools.product(range(length), range(tile.pixels)):
            value = (T.bind(elements[p][i]),)
            for v in range(tile.vectors):
                k = p * tile.vectors + v
                sums.store(k, arithmetic.accumulate(sums.load(k), value, weights[i][v]))

    def _image_row(self, row: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        height = self.conv.shape.out_height
        return T.bind(tirx.floordiv(row, height)), T.bind(tirx.floormod(row, height))

    def _position(self, n: tirx.Expr, y: tirx.Expr, x: tirx.Expr) -> tuple[tirx.Expr, ...]:
        return (x,) if self.conv.dense else (n, y, x)

    def _zeros(self, vector: VectorType) -> Accumulators:
        """Accumulators of the tile, set to 0."""
        count = self.conv.arithmetic.sums(self.conv.tile)
        accumulators = Accumulators.allocated(count, vector)
        for k in range(count):
            accumulators.store(k, vector.constant(0))
        return accumulators


@dataclass(frozen=True, eq=False)
class _Place:
    """The position of a reduction step: row and element of the image, and its index in the weights."""

    line: tirx.Expr
    element: tirx.Expr
    step: tirx.Expr

    def moved(self, loop: ReductionLoop, i: tirx.Expr, inner: int) -> _Place:
        """The position after ``i`` iterations of a loop, each of which covers ``inner`` steps of the weights."""
        return _Place(self.line + i * loop.rows, self.element + i * loop.stride, self.step + i * inner)


def _fuse(loops: Sequence[ReductionLoop]) -> list[ReductionLoop]:
    """Merge loops that together walk contiguous elements, such as the taps of a row without dilation and groups."""
    fused = [loops[-1]]
    for loop in reversed(loops[:-1]):
        if loop.extent == 1:
            continue
        if loop.stride == fused[0].extent * fused[0].stride:
            fused[0] = ReductionLoop(loop.extent * fused[0].extent, fused[0].stride)
        else:
            fused.insert(0, loop)
    return fused


def _walk(loops: Sequence[ReductionLoop], place: _Place, body: Callable[[_Place], None], steps: int = 1) -> None:
    """Emit the loops over all steps, of which ``body`` emits ``steps``."""
    if not loops:
        body(place)
        return
    loop, *rest = loops
    with T.serial(0, loop.extent) as i:
        _walk(rest, place.moved(loop, i, prod(each.extent for each in rest) * steps), body, steps)


def _walk_in_runs(
    loops: Sequence[ReductionLoop], place: _Place, length: int, run: Callable[[_Place, int], None]
) -> None:
    """Emit the loops over all steps; ``run`` emits up to ``length`` steps of the last loop."""
    *outer, last = loops
    whole, rest = divmod(last.extent, length)

    def runs(place: _Place) -> None:
        if whole:
            with T.serial(0, whole) as i:
                run(place.moved(last, i * length, 1), length)
        for start, size in powers_of_two(rest):
            run(place.moved(last, tirx.const(whole * length + start, "int32"), 1), size)

    _walk(outer, place, runs, last.extent)


def _walk_in_chunks(loops: Sequence[ReductionLoop], place: _Place, steps: int, chunk: Callable[..., None]) -> None:
    """Emit the loops over all steps in chunks: ``chunk(walk)`` is called for each, ``walk`` has at most ``steps``."""
    loop, *rest = loops
    inner = prod(each.extent for each in rest)
    if inner > steps:
        with T.serial(0, loop.extent) as i:
            _walk_in_chunks(rest, place.moved(loop, i, inner), steps, chunk)
        return
    size = min(loop.extent, steps // inner)
    with T.serial(0, -(-loop.extent // size)) as first:
        count = size if loop.extent % size == 0 else T.bind(tirx.min(size, loop.extent - first * size))

        def walk(body: Callable[[_Place], None]) -> None:
            with T.serial(0, count) as i:
                _walk(rest, place.moved(loop, first * size + i, inner), body)

        chunk(walk)
