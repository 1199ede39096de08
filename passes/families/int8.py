"""The family of kernels on integers of 8 bits: convolutions, dense layers and poolings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from sbnn_tvm.schedules.direct.tiles import Tile, default_tile, tile_cost, tiles
from sbnn_tvm.schedules.int8.conv2d import int8_conv2d, int8_dense
from sbnn_tvm.schedules.int8.depthwise import depthwise_tiles, int8_depthwise_conv2d
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d
from sbnn_tvm.schedules.windows.template import WindowTile, window_tiles

from ..layers.kinds import AvgPool2d, GlobalAvgPool2d, IntegerDense, IntegerLinearLayer, Layer, MaxPool2d
from .costs import Steps, cost_of, fetched
from .family import Bound, BuiltKernel, Family, Member, Resource


@dataclass(frozen=True)
class Int8Family(Family):
    """Linear layers and poolings of integers."""

    name: ClassVar[str] = "int8"

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """One member per register tile."""
        match layer:
            case MaxPool2d() | AvgPool2d() if layer.data_dtype != "float32":
                return window_tiles(layer.shape, isa, layer.program.packed)
            case GlobalAvgPool2d() if layer.data_dtype != "float32":
                return (None,)
            case IntegerLinearLayer() if layer.shape.depthwise:
                return depthwise_tiles(layer.shape, isa, layer.program.packed)
            case IntegerLinearLayer():
                return tiles(layer.shape, isa, "int8")
        return ()

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Cost of the products, the results and the weights. No other family computes these layers."""
        results = Steps(element=int(np.prod(layer.extent)))
        if not isinstance(layer, IntegerLinearLayer):
            return cost_of(isa, results)
        cost = cost_of(isa, Steps(integer_step=layer.macs / 16), results, fetched(layer.weight.size))
        if isinstance(member, Tile):
            best = default_tile(layer.shape, isa, "int8")
            cost *= tile_cost(member, layer.shape, isa, "int8") / tile_cost(best, layer.shape, isa, "int8")
        return cost

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """Build a kernel of schedules.int8 or schedules.windows."""
        return BuiltKernel(_kernel(layer, isa, member))

    def bound(self, layer: Layer) -> Bound | None:
        """One multiply-accumulate per weight and output pixel; None for poolings."""
        return Bound(Resource.INT8, layer.macs) if isinstance(layer, IntegerLinearLayer) else None


INT8 = Int8Family()


def _kernel(layer: Layer, isa: Isa, member: Member) -> Kernel:
    program = layer.program
    tile = member if isinstance(member, Tile) else None
    window_tile = member if isinstance(member, WindowTile) else None
    match layer:
        case MaxPool2d():
            return max_pool2d(layer.shape, program, isa, window_tile, dtype=layer.data_dtype)
        case AvgPool2d():
            counted, kind = layer.counted_padding or False, {"dtype": layer.data_dtype, "zero_point": layer.zero_point}
            return avg_pool2d(layer.shape, program, isa, counted, window_tile, **kind)  # type: ignore[arg-type]
        case GlobalAvgPool2d(shape=of):
            image = of.batch, of.height, of.width, of.in_channels
            return global_avg_pool2d(image, program, isa, dtype=layer.data_dtype, zero_point=layer.zero_point)
        case IntegerLinearLayer():
            weight, point = layer.weight, layer.zero_point
            more: dict[str, Any] = {"data_dtype": layer.data_dtype, "bias": layer.bias}
            if isinstance(layer, IntegerDense):
                return int8_dense(layer.shape.width, weight, point, program, isa, **more, tile=tile)
            if layer.shape.depthwise:
                return int8_depthwise_conv2d(layer.shape, weight, point, program, isa, **more, tile=window_tile)
            return int8_conv2d(layer.shape, weight, point, program, isa, **more, tile=tile)
    raise TypeError(f"no {INT8} layer: {layer}")
