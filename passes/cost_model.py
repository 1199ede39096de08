"""What a layer costs in each kernel family: the model behind the choice of kernels.

Costs are linear in what the inner loops do, on one core: nanoseconds on x86, instructions on ARM. Only ratios within an
instruction set matter, which differ less between machines than the costs themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbnn_tvm.domain import SIGN, BinaryDomain
from sbnn_tvm.schedules.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.shapes import Conv2dShape


@dataclass(frozen=True)
class Factors:
    """The inner loops of one instruction set.

    Attributes:
        word: A vector of packed words: xor, popcount, add.
        plane: Adding one vector of a plane to the counters.
        narrow: The same of planes of less than half a vector, relative to ``plane``.
        channel: What a channel costs for each vector of pixels beside its planes: window, start, comparison, store.
        word_float: An element of a float epilogue behind popcounts.
        plane_float: An element of a float epilogue behind counters of up to 8 bits, which must be taken apart; half as
            much again for each further byte.
        transpose: A word converted between words and planes.
    """

    word: float
    plane: float
    narrow: float
    channel: float
    word_float: float
    plane_float: float
    transpose: float


# Between what 3x3 convolutions of 56x56x64, 28x28x128, 14x14x256 and 7x7x512 at 2 % to 50 % set weights take on a Zen 4
# and on a Sapphire Rapids, both at 3.6 GHz; they differ by less than 20 %. ARM by exact counts of instructions.
_FACTORS = {
    "avx512-vpopcntdq": Factors(0.44, 0.42, 0.5, 15, 0.15, 0.3, 1.0),
    "avx512": Factors(0.6, 0.42, 0.5, 15, 0.15, 0.3, 1.0),
    "avx2": Factors(0.45, 0.5, 0.65, 13, 0.15, 0.5, 1.5),
    "sse": Factors(1.2, 0.45, 0.75, 11, 0.15, 0.82, 2.2),
    "neon": Factors(4.0, 4.9, 0.8, 100, 3.0, 8.3, 7.0),
    "armv7-neon": Factors(4.0, 4.9, 0.8, 100, 3.0, 8.3, 7.0),
}


def popcount_pays(conv: Conv2dShape, isa: Isa, bits: int = 1) -> bool:
    """Whether a popcount convolution beats a float one: a word must hold enough channels of a group.

    For each bit of an activation a word costs three vector operations for ``word_lanes`` outputs, a float32 channel one
    for ``float_lanes``.
    """
    channels = conv.group_in_channels
    return 3 * bits * isa.words(channels) * isa.float_lanes < channels * isa.word_lanes


def sparse_pays(conv: Conv2dShape, signs: np.ndarray, isa: Isa, floats: bool, domain: BinaryDomain = SIGN) -> bool:
    """Whether a binary convolution should count its set weights on bit planes, rather than take popcounts of words.

    Args:
        conv: The layer.
        signs: bool [OC, Cin / groups, kh, kw]; of every channel the rarer sign is counted.
        isa: The instruction set.
        floats: Whether the epilogue is a program, not a comparison.
        domain: domain.SIGN, or domain.BIT, where the set weights are counted whether they are rarer or not.
    """
    return sparse_cost(conv, signs, isa, floats, domain) < popcount_cost(conv, isa, floats)


def popcount_cost(conv: Conv2dShape, isa: Isa, floats: bool) -> float:
    """Cost of schedules.conv2d.popcount_conv2d: one step for each vector of packed words.

    Args:
        conv: The layer.
        isa: The instruction set.
        floats: Whether the epilogue is a program, not a comparison.
    """
    factors = _FACTORS[isa.name]
    pixels = conv.batch * conv.out_height * conv.out_width
    words = conv.kernel[0] * conv.kernel[1] * isa.words(conv.group_in_channels)
    vectors = conv.groups * -(-conv.group_out_channels // isa.word_lanes)
    epilogue = factors.word_float * pixels * conv.out_channels if floats else 0.0
    return factors.word * pixels * words * vectors + epilogue


def sparse_cost(conv: Conv2dShape, signs: np.ndarray, isa: Isa, floats: bool, domain: BinaryDomain = SIGN) -> float:
    """Cost of schedules.sparse_conv2d.sparse_conv2d, with conversions from words and back to them.

    Args:
        conv: The layer.
        signs: bool [OC, Cin / groups, kh, kw]; of every channel the rarer sign is counted.
        isa: The instruction set.
        floats: Whether the epilogue is a program, not a comparison.
        domain: What the weights are, domain.SIGN or domain.BIT.
    """
    factors = _FACTORS[isa.name]
    source, target = _layouts(conv, isa)
    narrow = target.vector_bits == 64 or 2 * target.vector_bits < isa.vector_bits
    plane = factors.plane * (factors.narrow if narrow else 1.0)
    pixels = [each.batch * each.height * each.width for each in (source, target)]
    counted = _counted(signs, domain)
    bytes_ = -(-(int(counted.max()) + 1).bit_length() // 8)
    epilogue = factors.plane_float * (1 + bytes_) / 2 * pixels[1] * conv.out_channels
    if not floats:
        epilogue = factors.transpose * pixels[1] * isa.words(conv.out_channels)
    return (
        target.vectors * (plane * int(counted.sum()) + factors.channel * conv.out_channels)
        + factors.transpose * pixels[0] * isa.words(conv.in_channels)
        + epilogue
    )


def _counted(signs: np.ndarray, domain: BinaryDomain) -> np.ndarray:
    """Weights that are counted, of every output channel."""
    ones = np.count_nonzero(signs, axis=(1, 2, 3))
    return ones if domain != SIGN else np.minimum(ones, signs[0].size - ones)


def _layouts(conv: Conv2dShape, isa: Isa) -> tuple[PlaneLayout, PlaneLayout]:
    return (
        plane_layout(conv.batch, conv.height, conv.width, conv.in_channels, isa),
        plane_layout(conv.batch, conv.out_height, conv.out_width, conv.out_channels, isa),
    )
