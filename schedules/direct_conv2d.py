"""The loop nest of every direct convolution, for floats and for packed bits.

Layouts: data [N, H, W, groups * depth], weights [groups, blocks, kh, kw * depth, lanes of a block], where an element
is a float or a word of bits, and a block is ``tile.vectors`` vectors of output channels::

    copy the image into a padded workspace
    parallel for block, row (or row, block):                  what is larger is outside: weights or image
        for tile of pixels in row:                            the last one overlaps its neighbour
            accumulators[pixels][vectors] = 0                 registers
            for ky, (kx, element):
                weight[vectors] = load                        contiguous
                for pixel: accumulators[pixel] += broadcast(input[pixel]) * weight
            epilogue

Budget of a step: ``pixels * vectors`` multiply-adds, ``vectors`` loads, ``pixels`` broadcasts (memory operands on
AVX-512).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from sbnn_tvm.schedules.emit import Index
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.llvm import LlvmFunction, link
from sbnn_tvm.schedules.loops import parallel_rows
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.tiles import Tile

# Channels that are stored at once after a row was collected: a multiple of 8 and a divisor of every word.
_COLLECTED_RUN = 16

_Store = Callable[[tirx.Expr, Sequence[tirx.Expr]], None]


class Sink(Protocol):
    """Where a kernel's accumulators go: declares parameters and outputs, and stores runs of channels."""

    constants: Sequence[np.ndarray]
    functions: set[LlvmFunction]

    @property
    def outputs(self) -> tuple[tuple[tuple[int, ...], str], ...]:
        """Shape and dtype of each output."""

    def declare_tensors(self) -> None:
        """Declare the tensor operands, the parameters after the data."""

    def declare_constants(self) -> None:
        """Declare the constants, the parameters after the weights."""

    def declare_outputs(self) -> None:
        """Declare the outputs, the last parameters."""

    def store(self, values: Sequence[tirx.Expr], position: Sequence[Index], first_channel: Index) -> None:
        """Store vectors of consecutive channels of the pixel at ``position``."""


@dataclass(frozen=True, eq=False)
class DirectConv2d:
    """One direct convolution, complete but for its epilogue.

    Attributes:
        name: The symbol of the function.
        shape: The layer.
        data_shape: Shape of the first parameter: (N, H, W, groups * depth), or (N, depth) for a dense layer, which is
            a convolution over one row of N pixels.
        element: dtype of data and weights.
        accumulator: dtype of the accumulators.
        lanes: Output channels in a vector.
        tile: The register tile.
        weights: [groups, out channels of a group, kh, kw, depth].
        border: [groups * depth], a pixel outside of the image.
        accumulate: ``(accumulators, input, weight) -> accumulators``, on vectors.
    """

    name: str
    shape: Conv2dShape
    data_shape: tuple[int, ...]
    element: str
    accumulator: str
    lanes: int
    tile: Tile
    weights: np.ndarray
    border: np.ndarray
    accumulate: Callable[[tirx.Expr, tirx.Expr, tirx.Expr], tirx.Expr]

    def __post_init__(self) -> None:
        if not 1 <= self.tile.pixels <= self.shape.out_width:
            raise ValueError(
                f"a tile of {self.tile.pixels} pixels does not fit a row of {self.shape.out_width} output pixels: "
                "take one of tiles.tiles()"
            )

    @property
    def depth(self) -> int:
        """Elements of a pixel that belong to one group."""
        return self.weights.shape[-1]

    @property
    def block(self) -> int:
        """Output channels in a block."""
        return self.lanes * self.tile.vectors

    @property
    def blocks(self) -> int:
        """Blocks in a group."""
        return -(-self.shape.group_out_channels // self.block)

    @property
    def collected(self) -> bool:
        """Whether blocks cannot be stored where they are computed, since groups begin in the middle of a byte."""
        return self.shape.groups > 1 and (self.block % 8 > 0 or self.shape.group_out_channels % self.block > 0)

    @property
    def run(self) -> int:
        """Output channels that the sink gets at once, from a multiple of their number."""
        return _COLLECTED_RUN if self.collected else self.block

    @property
    def out_shape(self) -> tuple[int, ...]:
        """Shape of the result: (N, H, W, C), or (N, C) for a dense layer."""
        shape = self.shape
        if len(self.data_shape) == 2:
            return (shape.out_width, shape.out_channels)
        return (shape.batch, shape.out_height, shape.out_width, shape.out_channels)

    def packed_weights(self) -> np.ndarray:
        """The weights as the inner loop reads them: [groups * blocks, kh, kw * depth, block]."""
        groups, channels, kh, kw, depth = self.weights.shape
        padded = np.pad(self.weights, [(0, 0), (0, self.blocks * self.block - channels), *[(0, 0)] * 3])
        blocked = padded.reshape(groups * self.blocks, self.block, kh, kw * depth)
        return np.ascontiguousarray(blocked.transpose(0, 2, 3, 1))

    def build(self, sink: Sink) -> Kernel:
        """Generate the kernel.

        Args:
            sink: Takes runs of ``self.run`` accumulators.
        """
        weights = self.packed_weights()
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name(self.name)
            T.func_attr({"tirx.noalias": True})
            data = T.arg("data", T.buffer(self.data_shape, self.element))
            sink.declare_tensors()
            weight = T.arg("weights", T.buffer(weights.shape, self.element))
            sink.declare_constants()
            sink.declare_outputs()
            nest = _Nest(self, sink, _pad(self, data), weight)
            rows, blocks = self.shape.batch * self.shape.out_height, self.shape.groups * self.blocks
            work = rows * blocks * (weights[0].size // self.lanes) * self.shape.out_width
            if self.collected:
                with parallel_rows(rows, work) as row:
                    nest.collected_row(row)
            else:
                image_outside = np.prod(self.data_shape) > weights.size
                with parallel_rows(rows * blocks, work) as task:
                    if image_outside:
                        nest.row(tirx.floordiv(task, blocks), tirx.floormod(task, blocks))
                    else:
                        nest.row(tirx.floormod(task, rows), tirx.floordiv(task, rows))
        func = link(builder.get(), sink.functions)
        return Kernel(f"{self.name} {self.tile}", func, (weights, *sink.constants), sink.outputs)


def _pad(conv: DirectConv2d, data: tirx.Buffer) -> tirx.Buffer:
    """Copy the image into a workspace with its padding; returns it as [N, rows, columns * channels]."""
    shape, channels = conv.shape, len(conv.border)
    if not any(shape.padding):
        return T.decl_buffer((shape.batch, shape.height, shape.width * channels), conv.element, data=data.data)
    top, left, bottom, right = shape.padding
    width = shape.padded_width * channels
    padded = T.alloc_buffer((shape.batch, shape.padded_height, width), conv.element)
    rows = T.decl_buffer((shape.batch * shape.height, shape.width * channels), conv.element, data=data.data)

    def fill(n: Index, y: Index, first: int, pixels: int) -> None:
        if pixels and len(set(conv.border.tolist())) == 1:
            with T.serial(0, pixels * channels) as i:
                T.buffer_store(padded, tirx.const(conv.border[0].item(), conv.element), [n, y, first * channels + i])
        elif pixels:
            with T.serial(0, pixels) as x:
                for c, value in enumerate(conv.border.tolist()):
                    T.buffer_store(padded, tirx.const(value, conv.element), [n, y, (first + x) * channels + c])

    for first, count in ((0, top), (top + shape.height, bottom)):
        if count:
            with T.serial(0, shape.batch) as n, T.serial(0, count) as y:
                fill(n, first + y, 0, shape.padded_width)
    with parallel_rows(shape.batch * shape.height, shape.batch * shape.height * width) as row:
        n, y = T.bind(tirx.floordiv(row, shape.height)), T.bind(top + tirx.floormod(row, shape.height))
        fill(n, y, 0, left)
        with T.serial(0, shape.width * channels) as i:
            T.buffer_store(padded, rows[row, i], [n, y, left * channels + i])
        fill(n, y, left + shape.width, right)
    return padded


@dataclass(frozen=True, eq=False)
class _Nest:
    """The main loops, while they are written."""

    conv: DirectConv2d
    sink: Sink
    image: tirx.Buffer
    weights: tirx.Buffer

    def row(self, row: tirx.Expr, block: tirx.Expr) -> None:
        """One row of one block of channels, straight into the sink."""
        conv = self.conv
        n, y = self._image_row(row)
        group, block = T.bind(tirx.floordiv(block, conv.blocks)), T.bind(tirx.floormod(block, conv.blocks))
        first = T.bind(group * conv.shape.group_out_channels + block * conv.block)
        self._tiles(n, y, group, block, lambda x, values: self.sink.store(values, self._position(n, y, x), first))

    def collected_row(self, row: tirx.Expr) -> None:
        """One row of all groups, through memory."""
        conv, shape = self.conv, self.conv.shape
        n, y = self._image_row(row)
        channels = shape.out_channels + max(conv.block, conv.run)
        collected = T.alloc_buffer((shape.out_width, channels), conv.accumulator)
        with T.serial(0, shape.out_width) as x:
            self._store(collected, self._zero(conv.run), x, shape.out_channels)
        # A block may hang over the end of its group: the next group, written later, overwrites that.
        with T.serial(0, shape.groups) as group, T.serial(0, conv.blocks) as block:
            first = T.bind(group * shape.group_out_channels + block * conv.block)

            def store(x: tirx.Expr, values: Sequence[tirx.Expr]) -> None:
                for i, value in enumerate(values):
                    self._store(collected, value, x, first + i * conv.lanes)

            self._tiles(n, y, group, block, store)
        with T.serial(0, shape.out_width) as x, T.serial(0, -(-shape.out_channels // conv.run)) as i:
            first = T.bind(i * conv.run)
            value = T.bind(collected.vload([x, first], f"{conv.accumulator}x{conv.run}"))
            self.sink.store([value], self._position(n, y, x), first)

    def _tiles(self, n: tirx.Expr, y: tirx.Expr, group: tirx.Expr, block: tirx.Expr, store: _Store) -> None:
        conv, tile = self.conv, self.conv.tile
        width = conv.shape.out_width
        with T.serial(0, -(-width // tile.pixels)) as i:
            x = T.bind(tirx.min(i * tile.pixels, width - tile.pixels))
            accumulators = T.alloc_buffer((tile.pixels * tile.vectors, conv.lanes), conv.accumulator)
            for k in range(tile.pixels * tile.vectors):
                self._store(accumulators, self._zero(conv.lanes), k, 0)
            self._reduce(accumulators, n, y, x, group, T.bind(group * conv.blocks + block))
            vector = f"{conv.accumulator}x{conv.lanes}"
            for p in range(tile.pixels):
                loads = [accumulators.vload([p * tile.vectors + v, 0], vector) for v in range(tile.vectors)]
                store(T.bind(x + p), [T.bind(load) for load in loads])

    def _reduce(
        self, accumulators: tirx.Buffer, n: tirx.Expr, y: tirx.Expr, x: tirx.Expr, group: tirx.Expr, block: tirx.Expr
    ) -> None:
        """Sum over the window of every pixel of the tile."""
        conv, shape = self.conv, self.conv.shape
        (kh, kw), channels = shape.kernel, len(conv.border)
        first = T.bind(x * (shape.strides[1] * channels) + group * conv.depth)
        stride = shape.strides[1] * channels
        if shape.groups == 1 and shape.dilation[1] == 1:
            # The taps of a row lie behind one another: one loop over all of them.
            taps, run = 1, kw * conv.depth
        else:
            taps, run = kw, conv.depth
        with T.serial(0, kh) as ky:
            line = T.bind(y * shape.strides[0] + ky * shape.dilation[0])
            with T.serial(0, taps) as kx, T.serial(0, run) as i:
                element = T.bind(first + kx * (shape.dilation[1] * channels) + i)
                step = T.bind(kx * run + i)
                self._step(accumulators, [n, line, element], stride, [block, ky, step])

    def _step(self, accumulators: tirx.Buffer, at: list[tirx.Expr], stride: int, step: list[tirx.Expr]) -> None:
        """Add the products of one element of every pixel with all its weights."""
        conv, tile = self.conv, self.conv.tile
        dtype = f"{conv.element}x{conv.lanes}"
        weights = [T.bind(self.weights.vload([*step, v * conv.lanes], dtype)) for v in range(tile.vectors)]
        for p in range(tile.pixels):
            value = T.bind(tirx.Broadcast(self.image[(*at[:-1], at[-1] + p * stride)], conv.lanes))
            for v, weight in enumerate(weights):
                k = p * tile.vectors + v
                vector = f"{conv.accumulator}x{conv.lanes}"
                self._store(accumulators, conv.accumulate(accumulators.vload([k, 0], vector), value, weight), k, 0)

    def _image_row(self, row: tirx.Expr) -> tuple[tirx.Expr, tirx.Expr]:
        height = self.conv.shape.out_height
        return T.bind(tirx.floordiv(row, height)), T.bind(tirx.floormod(row, height))

    def _position(self, n: tirx.Expr, y: tirx.Expr, x: tirx.Expr) -> tuple[tirx.Expr, ...]:
        return (x,) if len(self.conv.data_shape) == 2 else (n, y, x)

    def _zero(self, lanes: int) -> tirx.Expr:
        return tirx.Broadcast(tirx.const(0, self.conv.accumulator), lanes)

    def _store(self, buffer: tirx.Buffer, value: tirx.Expr, row: Index, first: Index) -> None:
        T.buffer_store(buffer, value, [row, tirx.Ramp(first, 1, value.ty.dtype.lanes)])
