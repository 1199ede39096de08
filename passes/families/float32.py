"""The family of float32 kernels: direct convolutions, poolings, elementwise maps and recurrent layers."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbnn_tvm.schedules.direct.batched_matmul import batched_matmul
from sbnn_tvm.schedules.direct.conv2d import float_conv2d
from sbnn_tvm.schedules.direct.dense import float_dense
from sbnn_tvm.schedules.direct.pooled_conv2d import can_pool, pooled_conv2d
from sbnn_tvm.schedules.direct.tiles import Tile, default_tile, lanes, tile_cost, tiles
from sbnn_tvm.schedules.elementwise.channel_selection import select_channels
from sbnn_tvm.schedules.elementwise.concatenation import concatenate
from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.elementwise.quantisation_range import quantisation_range
from sbnn_tvm.schedules.elementwise.resampling import resample
from sbnn_tvm.schedules.elementwise.rows import map_rows
from sbnn_tvm.schedules.elementwise.sample_mean import sample_mean
from sbnn_tvm.schedules.elementwise.strided_copy import strided_copy
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.interleaving import interleave
from sbnn_tvm.schedules.recurrent.sequence import recurrent
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.tir.loops import one_thread
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d
from sbnn_tvm.schedules.windows.template import WindowTile, window_tiles

from ..layers.forms import Form
from ..layers.kinds import (
    AvgPool2d,
    BatchedProduct,
    BinaryConvolution,
    BinaryLinearLayer,
    ChannelSelection,
    Concatenation,
    Copy,
    Elementwise,
    FloatConvolution,
    FloatLinearLayer,
    GlobalAvgPool2d,
    IntegerLinearLayer,
    Layer,
    LinearLayer,
    MaxPool2d,
    PhaseInterleaving,
    QuantisationRange,
    Recurrent,
    Resampling,
    Rows,
    SampleMean,
)
from ..relax.graph import channels_last
from .costs import Steps, cost_of, fetched
from .family import Bound, BuiltKernel, Family, Member, Resource

# If the map between a convolution and its pooling is larger than this, one kernel computes both. A smaller map stays in
# the cache between two kernels, and two kernels divide their work among more threads.
POOLED_BYTES = 512 * 1024


@dataclass(frozen=True)
class Float32Family(Family):
    """All layers on float32 values, and binary layers that pad with 0."""

    name: ClassVar[str] = "float"

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """One member per register tile of linear layers, depthwise convolutions and poolings; else a single one."""
        match layer:
            case IntegerLinearLayer():
                return ()
            case MaxPool2d() | AvgPool2d() | GlobalAvgPool2d() if layer.data_dtype != "float32":
                return ()
            case BinaryConvolution() if layer.pad_value:
                return ()
            case MaxPool2d() | AvgPool2d():
                return window_tiles(layer.shape, isa, layer.program.packed)
            case FloatConvolution() | BinaryConvolution() if layer.shape.depthwise:
                return window_tiles(layer.shape, isa, layer.program.packed)
            case LinearLayer():
                return tiles(layer.shape, isa, "float32")
            case BatchedProduct():
                return tiles(layer.shape.one, isa, "float32")
            case GlobalAvgPool2d() | ChannelSelection() | Elementwise() | SampleMean() | Recurrent():
                return (None,)
            case Rows() | Copy() | Concatenation() | Resampling() | PhaseInterleaving() | QuantisationRange():
                return (None,)
        return ()

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Cost of the multiply-adds of a linear layer; of the elements of any other layer, which has no other family.

        Only costs that are compared with each other need the same terms. A binary layer competes with kernels on bits,
        so its cost includes unpacking the data and fetching the weights. A float layer competes with sparse float
        kernels, whose costs are fitted without fetching weights.
        """
        if not isinstance(layer, LinearLayer):
            return cost_of(isa, Steps(element=int(np.prod(layer.extent))))
        shape, slower = layer.shape, 1.0
        if isinstance(member, Tile):
            best = default_tile(shape, isa, "float32")
            slower = tile_cost(member, shape, isa, "float32") / tile_cost(best, shape, isa, "float32")
        if isinstance(layer, BinaryLinearLayer):
            return slower * binary_float_cost(shape, isa, not layer.fitted.folded)
        return slower * cost_of(isa, float_steps(shape, isa))

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """Build a kernel of schedules.direct, schedules.windows or schedules.elementwise."""
        plain = isinstance(layer, Concatenation | Copy)
        return BuiltKernel(_kernel(layer, isa, member), Form.PLAIN if plain else Form.CHANNELS_LAST)

    def bound(self, layer: Layer) -> Bound | None:
        """One multiply-add per weight and output pixel; None without weights, or if all of them are +1."""
        if isinstance(layer, BatchedProduct):
            return Bound(Resource.MULTIPLY_ADD, layer.shape.macs)
        if isinstance(layer, Recurrent):
            return Bound(Resource.MULTIPLY_ADD, layer.macs)
        if not isinstance(layer, LinearLayer) or layer.sums_windows:
            return None
        return Bound(Resource.MULTIPLY_ADD, layer.macs)


FLOAT = Float32Family()


def binary_float_cost(shape: Conv2dShape, isa: Isa, floats: bool) -> float:
    """Cost of a binary layer in float: unpacking the data, multiply-adds, epilogue and fetching the weights.

    Args:
        shape: The layer.
        isa: The instruction set.
        floats: Whether the epilogue is a float program, rather than an integer comparison.
    """
    read = shape.batch * shape.height * shape.width * shape.in_channels
    stored = shape.batch * shape.out_height * shape.out_width * shape.out_channels
    weights = shape.out_channels * shape.group_in_channels * shape.kernel[0] * shape.kernel[1]
    around = Steps(element=read, word_float=stored if floats else 0)
    return cost_of(isa, float_steps(shape, isa), around, fetched(4 * weights))


def float_steps(shape: Conv2dShape, isa: Isa) -> Steps:
    """Steps of a direct float convolution; a dense layer is a 1x1 convolution."""
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
            return elementwise(channels_last(layer.extent), program, isa, layer.data_dtype)
        case ChannelSelection():
            pixels = channels_last(layer.extent)[:-1]
            return select_channels(pixels, layer.selection, program, isa, layer.pixels, layer.fill, layer.data_dtype)
        case Copy():
            return strided_copy(layer.view, isa, layer.data_dtype)
        case PhaseInterleaving():
            return interleave(layer.small, layer.parts, layer.interleaving, layer.data_dtype, isa)
        case Concatenation():
            return concatenate(layer.outer, layer.lengths, layer.parts, isa)
        case Resampling():
            batch, channels, height, width = layer.source
            return resample((batch, height, width, channels), layer.rows, layer.columns, program, isa)
        case QuantisationRange():
            return quantisation_range(layer.values, isa)
        case Rows():
            return map_rows(channels_last(layer.extent), program, isa)
        case BatchedProduct():
            return batched_matmul(layer.shape, program, isa, tile)
        case Recurrent():
            return recurrent(layer.steps, layer.batch, layer.recurrence, isa)
        case SampleMean():
            return sample_mean(layer.extent[0], layer.values, isa)
        case GlobalAvgPool2d(shape=of):
            return global_avg_pool2d((of.batch, of.height, of.width, of.in_channels), program, isa)
        case AvgPool2d():
            return avg_pool2d(layer.shape, program, isa, layer.counted_padding or False, window_tile)
        case MaxPool2d():
            return max_pool2d(layer.shape, program, isa, window_tile)
        case FloatConvolution() | BinaryConvolution() if layer.shape.depthwise:
            return depthwise_conv2d(layer.shape, layer.weight, program, isa, window_tile)
        case FloatConvolution() | BinaryConvolution():
            return float_conv2d(layer.shape, layer.weight, program, isa, tile)
        case FloatLinearLayer() | BinaryLinearLayer():
            return float_dense(layer.shape.width, layer.weight, program, isa, tile)
    raise TypeError(f"no {FLOAT} layer: {layer}")


def pools_at_once(conv: Layer, pool: Layer) -> bool:
    """Whether one kernel should compute a float convolution and a max pooling that is its only reader."""
    if not isinstance(conv, FloatConvolution) or not isinstance(pool, MaxPool2d):
        return False
    between = pool.shape.height * pool.shape.width * pool.shape.in_channels * 4
    return between > POOLED_BYTES and can_pool(conv.shape, conv.program, pool.shape)


def build_pooled(
    conv: Layer, pool: Layer, isa: Isa, member: Member, *, serial: bool, minimal_filters: bool
) -> BuiltKernel:
    """Build the kernel that computes a convolution and its max pooling.

    Args:
        conv: The convolution.
        pool: The pooling.
        isa: The instruction set.
        member: The register tile that was chosen for the convolution.
        serial: Whether it runs on one thread.
        minimal_filters: Whether wide windows of few channels may use minimal filters: fewer multiplications, with
            more rounding.
    """
    if not isinstance(conv, FloatConvolution) or not isinstance(pool, MaxPool2d):
        raise TypeError(f"no convolution and max pooling: {conv}, {pool}")
    tile = member if isinstance(member, Tile) else None
    with one_thread() if serial else nullcontext():
        layers = conv.shape, conv.weight, conv.program, pool.shape, pool.program
        return BuiltKernel(pooled_conv2d(*layers, isa=isa, tile=tile, filtered=minimal_filters))
