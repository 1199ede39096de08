"""What a layer costs in each kernel family, on one core: the model behind the choice of kernels.

Costs are linear in what the inner loops do: how often a step runs is counted here, what it costs says cost_factors.py.
"""

from __future__ import annotations

import numpy as np

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.schedules.counters.counting import PlaneCounting
from sbnn_tvm.schedules.counters.weight_lists import TAIL
from sbnn_tvm.schedules.direct.tiles import (
    THREE,
    THREE_INSTRUCTIONS,
    Arithmetic,
    lanes,
    popcount_by_lookup,
    popcount_by_threes,
)
from sbnn_tvm.schedules.isa import AVX512_VPOPCNTDQ, Isa
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.shapes import Conv2dShape

from .cost_factors import FACTORS, Factors


def popcount_pays(conv: Conv2dShape, isa: Isa, bits: int = 1) -> bool:
    """Whether a popcount convolution beats a float one: a word must hold enough channels of a group.

    A float32 channel costs one operation for a vector of outputs. For each bit of an activation a word costs three
    where there is a vector popcount and five on other x86, as measured on groups of 2 to 24 channels; a byte that is
    looked up costs four. Vectors are as wide as the channels of a group allow.
    """
    channels = conv.group_in_channels

    def vectors(arithmetic: Arithmetic) -> int:
        return -(-conv.group_out_channels // lanes(conv, isa, arithmetic))

    if popcount_by_lookup(conv, isa):
        steps = 4 * -(-channels // 8)
    else:
        steps = (5 if isa.family == "x86" and isa != AVX512_VPOPCNTDQ else 3) * isa.words(channels)
    return bits * steps * vectors("popcount") <= channels * vectors("float32")


def sparse_pays(
    conv: Conv2dShape,
    signs: np.ndarray,
    isa: Isa,
    floats: bool,
    domain: BinaryDomain = SIGN,
    popcount_floats: bool | None = None,
) -> bool:
    """Whether a binary convolution should count its set weights on bit planes, rather than take popcounts of words.

    Args:
        conv: The layer.
        signs: bool [OC, Cin / groups, kh, kw]; of every channel the rarer sign is counted.
        isa: The instruction set.
        floats: Whether the epilogue is a program, not a comparison.
        domain: domain.SIGN, or domain.BIT, where the set weights are counted whether they are rarer or not.
        popcount_floats: The same as ``floats`` for the popcounts, where that differs.
    """
    of_popcount = popcount_cost(conv, isa, floats if popcount_floats is None else popcount_floats)
    return sparse_cost(conv, signs, isa, floats, domain) < of_popcount


def popcount_cost(conv: Conv2dShape, isa: Isa, floats: bool) -> float:
    """Cost of schedules.direct.conv2d.popcount_conv2d; the arguments are those of ``popcount_steps``."""
    taps = conv.kernel[0] * conv.kernel[1]
    weights = conv.out_channels * taps * isa.words(conv.group_in_channels) * isa.word_bits // 8
    return FACTORS[isa.name].cost(popcount_steps(conv, isa, floats)) + _fetched(weights, isa)


def popcount_steps(conv: Conv2dShape, isa: Isa, floats: bool) -> Factors:
    """Steps of schedules.direct.conv2d.popcount_conv2d: one for each vector of packed words, or less where three are one step.

    Args:
        conv: The layer.
        isa: The instruction set.
        floats: Whether the epilogue is a program, not a comparison.
    """
    pixels = conv.batch * conv.out_height * conv.out_width
    words = conv.kernel[0] * conv.kernel[1] * isa.words(conv.group_in_channels)
    vectors = conv.groups * -(-conv.group_out_channels // isa.word_lanes)
    steps = pixels * words * vectors * (THREE_INSTRUCTIONS / (3 * THREE) if popcount_by_threes(conv, isa) else 1)
    return Factors(word=steps, word_float=pixels * conv.out_channels if floats else 0)


def sparse_cost(conv: Conv2dShape, signs: np.ndarray, isa: Isa, floats: bool, domain: BinaryDomain = SIGN) -> float:
    """Cost of schedules.counters.adders.conv2d.sparse_conv2d, with conversions from words and back to them.

    Args:
        conv: The layer.
        signs: As of ``sparse_steps``, like the others.
        isa, floats, domain: As of ``sparse_steps``.
    """
    counting = _counting(conv, signs, isa, domain)
    steps = [_steps(counting, floats), transpose_steps(conv, isa, floats)]
    return sum(map(FACTORS[isa.name].cost, steps)) + _fetched(_ENTRY * int(counting.counts.sum()), isa)


_ENTRY = 2  # bytes of an entry of a list, mostly


def _fetched(size: int, isa: Isa) -> float:
    return FACTORS[isa.name].fetch * size / 1024


def sparse_steps(conv: Conv2dShape, signs: np.ndarray, isa: Isa, floats: bool, domain: BinaryDomain = SIGN) -> Factors:
    """Steps of schedules.counters.adders.conv2d.sparse_conv2d alone, planes to planes or to an epilogue.

    Args:
        conv: The layer.
        signs: bool [OC, Cin / groups, kh, kw]; of every channel the rarer sign is counted.
        isa: The instruction set.
        floats: Whether the epilogue is a program, not a comparison.
        domain: What the weights are, domain.SIGN or domain.BIT.
    """
    return _steps(_counting(conv, signs, isa, domain), floats)


def _counting(conv: Conv2dShape, signs: np.ndarray, isa: Isa, domain: BinaryDomain) -> PlaneCounting:
    return PlaneCounting(conv, signs, 0, isa, domain == SIGN, *_layouts(conv, isa))


def _steps(counting: PlaneCounting, floats: bool) -> Factors:
    conv, source, target = counting.shape, counting.source, counting.target
    window, vectors = counting.window, target.vectors
    slabs = target.blocks * len(window.rows.needed()) * len(window.columns.needed()) * conv.in_channels
    lists = vectors * int((-(-counting.counts // (TAIL * counting.pieces)) * TAIL).sum())
    if counting.signs:  # and all planes of the input are added, once
        lists += source.vectors * conv.in_channels
    narrow, half = counting.pieces > 1, target.vector_bits < counting.isa.vector_bits
    elements = conv.batch * conv.out_height * conv.out_width * conv.out_channels
    # Counters of a slice are added to those of the slices before.
    compared = 2 * (counting.slices - 1) * counting.levels
    if not floats:
        compared += counting.levels + counting.signs
    return Factors(
        plane=0 if half or narrow else lists,
        half=lists if half and not narrow else 0,
        narrow=lists if narrow else 0,
        shift=slabs if window.direct else 0,
        gather=0 if window.direct else slabs * target.images * target.rows,
        compare=vectors * conv.out_channels * compared,
        plane_float=(1 + counting.count_bytes) * elements if floats else 0,
    )


def transpose_steps(conv: Conv2dShape, isa: Isa, floats: bool) -> Factors:
    """Words that are brought into planes before counters, and back behind them if these store planes.

    Pixels that a vector has room for count, whether they are pixels of the image or not.
    """
    inputs, outputs = (each.vectors * each.vector_bits * isa.words(each.channels) for each in _layouts(conv, isa))
    return Factors(to_planes=inputs, to_words=0 if floats else outputs)


def _layouts(conv: Conv2dShape, isa: Isa) -> tuple[PlaneLayout, PlaneLayout]:
    return (
        plane_layout(conv.batch, conv.height, conv.width, conv.in_channels, isa),
        plane_layout(conv.batch, conv.out_height, conv.out_width, conv.out_channels, isa),
    )
