"""What a layer costs in each kernel family: the model behind the choice of kernels.

Costs are nanoseconds on one core, linear in what the inner loops do. Only their ratios matter, which differ less
between machines of one instruction set than the costs themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sbnn_tvm.schedules.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.shapes import Conv2dShape


@dataclass(frozen=True)
class Factors:
    """Nanoseconds of the inner loops of one instruction set.

    Attributes:
        word: A vector of packed words: xor, popcount, add.
        plane: Adding one vector of a plane to the counters.
        channel: Whatever a channel costs for each vector of pixels beside its planes: start, comparison, store.
        window: Making one vector of the shifted planes.
        transpose: Converting a word between words and planes.
    """

    word: float
    plane: float
    channel: float
    window: float
    transpose: float


FACTORS = {
    "avx512-vpopcntdq": Factors(word=0.45, plane=0.55, channel=9.0, window=1.5, transpose=1.5),
    "avx512": Factors(word=0.9, plane=0.55, channel=9.0, window=1.5, transpose=1.5),
    "avx2": Factors(word=0.45, plane=0.9, channel=9.0, window=1.5, transpose=2.0),
    "sse": Factors(word=1.2, plane=0.9, channel=9.0, window=1.5, transpose=2.0),
    "neon": Factors(word=2.0, plane=3.0, channel=20.0, window=3.0, transpose=4.0),
    "armv7-neon": Factors(word=3.0, plane=4.0, channel=30.0, window=4.0, transpose=6.0),
}


def popcount_cost(conv: Conv2dShape, isa: Isa) -> float:
    """Nanoseconds of schedules.conv2d.popcount_conv2d: one step for each vector of packed words."""
    pixels = conv.batch * conv.out_height * conv.out_width
    words = conv.kernel[0] * conv.kernel[1] * isa.words(conv.group_in_channels)
    vectors = conv.groups * -(-conv.group_out_channels // isa.word_lanes)
    return FACTORS[isa.name].word * pixels * words * vectors


def sparse_cost(conv: Conv2dShape, signs: np.ndarray, isa: Isa) -> float:
    """Nanoseconds of schedules.sparse_conv2d.sparse_conv2d with words before and behind it.

    Args:
        conv: The layer.
        signs: bool [OC, Cin / groups, kh, kw]; of every channel the rarer sign is counted.
        isa: The instruction set.
    """
    factors = FACTORS[isa.name]
    source, target = _layouts(conv, isa)
    ones = np.count_nonzero(signs, axis=(1, 2, 3))
    counted = int(np.minimum(ones, signs[0].size - ones).sum())
    words = sum(each.batch * each.height * each.width * isa.words(each.channels) for each in (source, target))
    return (
        target.vectors * (factors.plane * counted + factors.channel * conv.out_channels)
        + factors.window * source.vectors * conv.in_channels * conv.kernel[1]
        + factors.transpose * words
    )


def _layouts(conv: Conv2dShape, isa: Isa) -> tuple[PlaneLayout, PlaneLayout]:
    """The layouts of a convolution's input and output in bit planes."""
    return (
        plane_layout(conv.batch, conv.height, conv.width, conv.in_channels, isa),
        plane_layout(conv.batch, conv.out_height, conv.out_width, conv.out_channels, isa),
    )
