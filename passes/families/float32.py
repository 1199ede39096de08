"""The door of the float32 kernels: direct convolutions, windows and elementwise maps, channels last."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbnn_tvm.schedules.direct.conv2d import float_conv2d
from sbnn_tvm.schedules.direct.dense import float_dense
from sbnn_tvm.schedules.direct.pooled_conv2d import can_pool, pooled_conv2d
from sbnn_tvm.schedules.direct.tiles import Tile, default_tile, lanes, tile_cost, tiles
from sbnn_tvm.schedules.elementwise.channel_selection import select_channels
from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.elementwise.sample_mean import sample_mean
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.tir.loops import one_thread
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d
from sbnn_tvm.schedules.windows.template import WindowTile, window_tiles

from ..layers.kinds import (
    AvgPool2d,
    BinaryConv2d,
    BinaryLinear,
    ChannelSelection,
    Elementwise,
    FloatConv2d,
    FloatLinear,
    GlobalAvgPool2d,
    Layer,
    Linear,
    MaxPool2d,
    SampleMean,
)
from ..relax.graph import channels_last
from .costs import Steps, cost_of, fetched
from .family import Bound, BuiltKernel, Family, Member, Resource

# From this size of the map between a convolution and its pooling on, one kernel computes both. A smaller map stays in
# the cache between two kernels, which share their work among more threads.
POOLED_BYTES = 512 * 1024


@dataclass(frozen=True)
class Float32(Family):
    """Everything on float32 values. Binary layers too, if they pad with 0."""

    name: ClassVar[str] = "float"

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """One per register tile of a linear layer, depthwise convolution or pooling; else a single one."""
        match layer:
            case BinaryConv2d() if layer.pad_value:
                return ()
            case MaxPool2d() | AvgPool2d():
                return window_tiles(layer.shape, isa)
            case FloatConv2d() | BinaryConv2d() if layer.shape.depthwise:
                return window_tiles(layer.shape, isa)
            case Linear():
                return tiles(layer.shape, isa, "float32")
            case GlobalAvgPool2d() | ChannelSelection() | Elementwise() | SampleMean():
                return (None,)
        return ()

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Multiply-adds of linear layers; other layers are limited by memory, and have no other family.

        A binary layer is compared with kernels on bits: its data must be unpacked, and its weights are fetched. Float
        layers are compared with sparse float kernels, whose costs are fitted without the weights.
        """
        if not isinstance(layer, Linear):
            return cost_of(isa, Steps(element=int(np.prod(layer.extent))))
        shape, slower = layer.shape, 1.0
        if isinstance(member, Tile):
            best = default_tile(shape, isa, "float32")
            slower = tile_cost(member, shape, isa, "float32") / tile_cost(best, shape, isa, "float32")
        if isinstance(layer, BinaryLinear):
            return slower * binary_float_cost(shape, isa, not layer.fitted.folded)
        return slower * cost_of(isa, float_steps(shape, isa))

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """A kernel of schedules.direct, schedules.windows or schedules.elementwise."""
        return BuiltKernel(_kernel(layer, isa, member))

    def bound(self, layer: Layer) -> Bound | None:
        """A multiply-add for each weight and pixel."""
        if not isinstance(layer, Linear) or (isinstance(layer, BinaryLinear) and layer.sums_windows):
            return None
        return Bound(Resource.MULTIPLY_ADD, layer.macs)


FLOAT = Float32()


def binary_float_cost(shape: Conv2dShape, isa: Isa, floats: bool) -> float:
    """Cost of a binary layer between packed words: unpacking, the multiply-adds, the epilogue, the weights.

    Args:
        shape: The layer.
        isa: The instruction set.
        floats: Whether the epilogue is a program, not a comparison.
    """
    read = shape.batch * shape.height * shape.width * shape.in_channels
    stored = shape.batch * shape.out_height * shape.out_width * shape.out_channels
    weights = shape.out_channels * shape.group_in_channels * shape.kernel[0] * shape.kernel[1]
    around = Steps(element=read, word_float=stored if floats else 0)
    return cost_of(isa, float_steps(shape, isa), around, fetched(4 * weights))


def float_steps(shape: Conv2dShape, isa: Isa) -> Steps:
    """Steps of a direct float convolution, or of a dense layer as one."""
    pixels = shape.batch * shape.out_height * shape.out_width
    taps = shape.group_in_channels * shape.kernel[0] * shape.kernel[1]
    vectors = shape.groups * -(-shape.group_out_channels // lanes(shape, isa, "float32"))
    return Steps(float_step=pixels * taps * vectors)


def _kernel(layer: Layer, isa: Isa, member: Member) -> Kernel:
    program = layer.program
    tile = member if isinstance(member, Tile) else None
    window_tile = member if isinstance(member, WindowTile) else None
    match layer:
        case Elementwise():
            return elementwise(channels_last(layer.extent), program, isa)
        case ChannelSelection():
            return select_channels(channels_last(layer.extent)[:-1], layer.selection, program, isa)
        case SampleMean():
            return sample_mean(layer.extent[0], layer.values, isa)
        case GlobalAvgPool2d(shape=of):
            return global_avg_pool2d((of.batch, of.height, of.width, of.in_channels), program, isa)
        case AvgPool2d():
            return avg_pool2d(layer.shape, program, isa, layer.counted_padding or False, window_tile)
        case MaxPool2d():
            return max_pool2d(layer.shape, program, isa, window_tile)
        case FloatConv2d() | BinaryConv2d() if layer.shape.depthwise:
            return depthwise_conv2d(layer.shape, layer.weight, program, isa, window_tile)
        case FloatConv2d() | BinaryConv2d():
            return float_conv2d(layer.shape, layer.weight, program, isa, tile)
        case FloatLinear() | BinaryLinear():
            return float_dense(layer.shape.width, layer.weight, program, isa, tile)
    raise TypeError(f"no {FLOAT} layer: {layer}")


def pools_at_once(conv: Layer, pool: Layer) -> bool:
    """Whether one kernel should compute a float convolution and the max pooling that alone reads it."""
    if not isinstance(conv, FloatConv2d) or not isinstance(pool, MaxPool2d):
        return False
    between = pool.shape.height * pool.shape.width * pool.shape.in_channels * 4
    return between > POOLED_BYTES and can_pool(conv.shape, conv.program, pool.shape)


def build_pooled(
    conv: Layer, pool: Layer, isa: Isa, member: Member, *, serial: bool, minimal_filters: bool
) -> BuiltKernel:
    """The kernel of a convolution and its pooling.

    Args:
        conv: The convolution.
        pool: The pooling.
        isa: The instruction set.
        member: The convolution's own tile.
        serial: Whether it runs on one thread.
        minimal_filters: Whether wide windows of few channels may take fewer multiplications, with more rounding.
    """
    if not isinstance(conv, FloatConv2d) or not isinstance(pool, MaxPool2d):
        raise TypeError(f"no convolution and max pooling: {conv}, {pool}")
    tile = member if isinstance(member, Tile) else None
    with one_thread() if serial else nullcontext():
        layers = conv.shape, conv.weight, conv.program, pool.shape, pool.program
        return BuiltKernel(pooled_conv2d(*layers, isa=isa, tile=tile, filtered=minimal_filters))
