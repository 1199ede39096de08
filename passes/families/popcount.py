"""The family of popcount kernels (schedules/direct/), which compute one popcount per packed word of weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from sbnn_tvm.schedules.direct.conv2d import popcount_conv2d
from sbnn_tvm.schedules.direct.dense import popcount_dense
from sbnn_tvm.schedules.direct.tiles import (
    THREE,
    THREE_INSTRUCTIONS,
    Tile,
    default_tile,
    lanes,
    popcount_by_broadcast,
    popcount_by_lookup,
    popcount_by_threes,
    tile_cost,
    tiles,
)
from sbnn_tvm.schedules.isa import Isa, PopcountMethod
from sbnn_tvm.schedules.shapes import Conv2dShape

from ..layers.forms import Form
from ..layers.kinds import BinaryConvolution, BinaryLinearLayer, Layer
from .costs import Steps, cost_of, fetched
from .family import Bound, BuiltKernel, Family, Member, Resource


@dataclass(frozen=True)
class PopcountFamily(Family):
    """Binary convolutions and dense layers on packed words."""

    name: ClassVar[str] = "popcount"

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """One member per register tile, for any binary linear layer."""
        return tiles(layer.shape, isa, "popcount") if isinstance(layer, BinaryLinearLayer) else ()

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Cost of the word steps (for each bit of the activations), a float epilogue, and fetching the weights."""
        if not isinstance(layer, BinaryLinearLayer) or not isinstance(member, Tile):
            raise TypeError(f"no {self} layer and tile: {layer}, {member}")
        shape, best = layer.shape, default_tile(layer.shape, isa, "popcount")
        slower = tile_cost(member, shape, isa, "popcount") / tile_cost(best, shape, isa, "popcount")
        return slower * popcount_cost(shape, isa, not layer.fitted.folded, layer.input_domain.bits)

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """Build a kernel of schedules.direct.conv2d or schedules.direct.dense."""
        if not isinstance(layer, BinaryLinearLayer) or not isinstance(member, Tile):
            raise TypeError(f"no {self} layer and tile: {layer}, {member}")
        fitted, signs, bits, domain = layer.fitted, layer.weight > 0, layer.input_domain.bits, layer.weight_domain
        if isinstance(layer, BinaryConvolution):
            kernel = popcount_conv2d(
                layer.shape, signs, fitted.padding, fitted.epilogue, isa, tile=member, bits=bits, weight_domain=domain
            )
            return BuiltKernel(kernel, Form.BITS, layer.shape.groups, fitted.folded)
        rows = layer.shape.width
        kernel = popcount_dense(rows, signs, fitted.epilogue, isa, tile=member, bits=bits, weight_domain=domain)
        return BuiltKernel(kernel, Form.BITS, folded=fitted.folded)

    def bound(self, layer: Layer) -> Bound | None:
        """One multiply-accumulate per bit of an activation and weight; None for layers that only sum windows."""
        if not isinstance(layer, BinaryLinearLayer) or layer.sums_windows:
            return None
        return Bound(Resource.POPCOUNT, layer.macs * layer.input_domain.bits)


POPCOUNT = PopcountFamily()

_WITHOUT_BLOCKS = 1.6
"""Cost of a step of AArch64 kernels that broadcast in the loop and leave the order to LLVM, in steps of the others."""


def popcount_cost(shape: Conv2dShape, isa: Isa, floats: bool, bits: int = 1) -> float:
    """Cost with the best tile, fetching the weights included. Arguments: same as in ``popcount_steps``."""
    words = shape.out_channels * shape.kernel[0] * shape.kernel[1] * isa.words(shape.group_in_channels)
    return cost_of(isa, popcount_steps(shape, isa, floats, bits), fetched(words * isa.word_bits // 8))


def popcount_steps(shape: Conv2dShape, isa: Isa, floats: bool, bits: int = 1) -> Steps:
    """Steps of a popcount convolution; a dense layer is a 1x1 convolution.

    Args:
        shape: The layer.
        isa: The instruction set.
        floats: Whether the epilogue is a float program, rather than an integer comparison.
        bits: Bits of an activation.
    """
    pixels = shape.batch * shape.out_height * shape.out_width
    taps = shape.kernel[0] * shape.kernel[1]
    vectors = shape.groups * -(-shape.group_out_channels // lanes(shape, isa, "popcount"))
    if popcount_by_lookup(shape, isa):
        steps = float(-(-shape.group_in_channels // 8))  # steps on bytes, each for 8 times as many outputs
    else:
        # If an ISA can look bytes up, the table has the cost of a step with look-ups, 4 instructions; this step has 5.
        steps = isa.words(shape.group_in_channels) * (5 / 4 if isa.popcount == PopcountMethod.LOOKUP else 1)
    if isa.architecture == "aarch64" and not popcount_by_broadcast(shape, isa):
        steps *= _WITHOUT_BLOCKS
    if popcount_by_threes(shape, isa):
        steps *= THREE_INSTRUCTIONS / (3 * THREE)
    return Steps(
        word=bits * pixels * taps * steps * vectors,
        word_float=pixels * shape.out_channels if floats else 0,
    )
