"""The family of counter kernels (schedules/counters/), which add one bit plane per set weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.schedules.counters.conv2d import cuts, sparse_conv2d
from sbnn_tvm.schedules.counters.counting import Cut, PlaneCounting
from sbnn_tvm.schedules.counters.weight_lists import TAIL
from sbnn_tvm.schedules.epilogue.program import WindowThreshold
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.shapes import Conv2dShape

from ..layers.forms import Form
from ..layers.kinds import BinaryConvolution, Layer
from .costs import Steps, cost_of, fetched
from .family import Bound, BuiltKernel, Family, Member, Resource

_ENTRY = 2  # bytes per entry of most weight lists
_CODE = 24 * 1024  # bytes of machine code of a kernel with its conversions, where LLVM has no vectors


@dataclass(frozen=True)
class CountersFamily(Family):
    """Binary convolutions on bit planes. Their time is proportional to the number of set weights."""

    name: ClassVar[str] = "counters"

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """One member per cut of the weight lists. Counters neither read nor store codes of several bits."""
        if not isinstance(layer, BinaryConvolution) or layer.input_domain.bits > 1 or layer.fitted.thresholds > 1:
            return ()
        fitted = layer.fitted_counters
        return cuts(layer.shape, fitted.counted, isa, fitted.domain)

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Cost of the kernel, of conversions from words and back, and of fetching the lists; the same for all cuts."""
        if not isinstance(layer, BinaryConvolution):
            raise TypeError(f"no {self} layer: {layer}")
        fitted = layer.fitted_counters
        return counters_cost(layer.shape, fitted.counted, isa, not fitted.folded, fitted.domain)

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """Build a kernel of schedules.counters.conv2d."""
        if not isinstance(layer, BinaryConvolution) or not isinstance(member, Cut):
            raise TypeError(f"no {self} layer and cut: {layer}, {member}")
        fitted = layer.fitted_counters
        kernel = sparse_conv2d(
            layer.shape, fitted.counted, fitted.padding, fitted.epilogue, isa, weight_domain=fitted.domain, cut=member
        )
        own_sums = isinstance(fitted.epilogue, WindowThreshold)
        return BuiltKernel(kernel, Form.PLANES, folded=fitted.folded, reads_operands=not own_sums)

    def bound(self, layer: Layer) -> Bound | None:
        """One full adder per counted weight and output pixel; None for layers that only sum windows."""
        if not isinstance(layer, BinaryConvolution) or layer.sums_windows:
            return None
        return Bound(Resource.FULL_ADDER, layer.macs * layer.counted_density)


COUNTERS = CountersFamily()


def counters_cost(shape: Conv2dShape, counted: np.ndarray, isa: Isa, floats: bool, domain: BinaryDomain) -> float:
    """Cost between packed words: kernel, conversions, fetching the lists. Arguments: same as in ``counter_steps``."""
    counting = _counting(shape, counted, isa, domain)
    lists = fetched(_ENTRY * int(counting.counts.sum()) + (_CODE if isa.small else 0))
    return cost_of(isa, _steps(counting, floats), conversion_steps(shape, isa, floats), lists)


def counter_steps(shape: Conv2dShape, counted: np.ndarray, isa: Isa, floats: bool, domain: BinaryDomain) -> Steps:
    """Steps of the kernel alone, from planes to planes or to a float epilogue.

    Args:
        shape: The layer.
        counted: bool [OC, Cin / groups, kh, kw], True for weights with bit 1. For domain.SIGN, the kernel counts the
            rarer sign of each output channel.
        isa: The instruction set.
        floats: Whether the epilogue is a float program, rather than an integer comparison.
        domain: The values of the weights, domain.SIGN or domain.BIT.
    """
    return _steps(_counting(shape, counted, isa, domain), floats)


def conversion_steps(shape: Conv2dShape, isa: Isa, floats: bool) -> Steps:
    """Words that are converted to planes before the kernel, and back after it if it stores planes.

    Every pixel position of a vector counts, whether it is inside the image or not.
    """
    inputs, outputs = (each.vectors * each.vector_bits * isa.words(each.channels) for each in _layouts(shape, isa))
    return Steps(to_planes=inputs, to_words=0 if floats else outputs)


def _counting(shape: Conv2dShape, counted: np.ndarray, isa: Isa, domain: BinaryDomain) -> PlaneCounting:
    source, target = _layouts(shape, isa)
    return PlaneCounting(
        shape=shape, bits=counted, pad_value=0, isa=isa, signs=domain == SIGN, source=source, target=target
    )


def _steps(counting: PlaneCounting, floats: bool) -> Steps:
    conv, source, target = counting.shape, counting.source, counting.target
    window, vectors = counting.window, target.vectors
    slabs = target.blocks * len(window.rows.needed()) * len(window.columns.needed()) * conv.in_channels
    lists = vectors * int((-(-counting.counts // (TAIL * counting.pieces)) * TAIL).sum())
    if counting.signs:  # the sum over all planes of the input is computed too, once
        lists += source.vectors * conv.in_channels
    narrow, half = counting.pieces > 1, target.vector_bits < counting.isa.plane_bits
    elements = conv.batch * conv.out_height * conv.out_width * conv.out_channels
    # The counters of each slice are added to the sum over the slices before it.
    compared = 2 * (counting.slices - 1) * counting.levels
    if not floats:
        compared += counting.levels + counting.signs
    return Steps(
        plane=0 if half or narrow else lists,
        half=lists if half and not narrow else 0,
        narrow=lists if narrow else 0,
        shift=slabs if window.direct else 0,
        gather=0 if window.direct else slabs * target.images * target.rows,
        compare=vectors * conv.out_channels * compared,
        plane_float=(1 + counting.count_bytes) * elements if floats else 0,
    )


def _layouts(shape: Conv2dShape, isa: Isa) -> tuple[PlaneLayout, PlaneLayout]:
    return (
        plane_layout(shape.batch, shape.height, shape.width, shape.in_channels, isa),
        plane_layout(shape.batch, shape.out_height, shape.out_width, shape.out_channels, isa),
    )
