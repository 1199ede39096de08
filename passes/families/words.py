"""The family of kernels on packed words without weights: max pooling, window sums, channel selections, shifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from sbnn_tvm.algebra.domain import code_of
from sbnn_tvm.schedules.bits.channel_selection import select_channels_bits
from sbnn_tvm.schedules.bits.max_pooling import max_pool2d_bits
from sbnn_tvm.schedules.bits.packing import window_sum
from sbnn_tvm.schedules.bits.shifts import shift_bits
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.interleaving import interleave

from ..layers.forms import Form
from ..layers.kinds import BitInterleaving, BitMaxPool2d, BitSelection, BitShift, Layer, WindowSum
from ..relax.graph import channels_last
from .costs import Steps, cost_of
from .family import BuiltKernel, Family, Member

_LAYERS = (WindowSum, BitMaxPool2d, BitSelection, BitShift, BitInterleaving)


@dataclass(frozen=True)
class WordsFamily(Family):
    """Layers without weights that move or combine packed words. No other family computes them."""

    name: ClassVar[str] = "words"

    def members(self, layer: Layer, isa: Isa) -> Sequence[Member]:
        """A single member, for each layer on packed words that has no weights."""
        return (None,) if isinstance(layer, _LAYERS) else ()

    def cost(self, layer: Layer, isa: Isa, member: Member) -> float:
        """Cost of the words of the result. It is never compared, since no other family computes these layers."""
        return cost_of(isa, Steps(element=int(np.prod(layer.extent)) / isa.word_bits))

    def build(self, layer: Layer, isa: Isa, member: Member) -> BuiltKernel:
        """Build a kernel of schedules.bits."""
        groups = layer.interleaving.phases // len(layer.parts) if isinstance(layer, BitInterleaving) else 1
        return BuiltKernel(_kernel(layer, isa), Form.BITS, groups)


WORDS = WordsFamily()


def _kernel(layer: Layer, isa: Isa) -> Kernel:
    match layer:
        case BitSelection():
            batch, *pixel = channels_last(layer.extent)[:-1]  # each binary digit of a code is a map of its own
            maps = (batch * layer.input_domain.bits, *pixel)
            code = code_of(layer.input_domain, layer.fill) or 0  # the phases fill with values of the domain alone
            fill = [bool(code >> digit & 1) for digit in range(layer.input_domain.bits)]
            return select_channels_bits(maps, layer.selection, isa, layer.pixels, fill)
        case BitInterleaving():
            return _interleaved_words(layer, isa)
        case BitShift():
            batch, channels, height, width = layer.extent
            return shift_bits((batch * layer.input_domain.bits, height, width, channels), layer.shifts, isa)
        case BitMaxPool2d():
            return max_pool2d_bits(layer.shape, isa, layer.minima, layer.input_domain.bits)
        case WindowSum():
            return window_sum(layer.shape, int(layer.pad_value), isa)
    raise TypeError(f"no {WORDS} layer: {layer}")


def _interleaved_words(layer: BitInterleaving, isa: Isa) -> Kernel:
    """Interleave the words of phases, each of which begins at a word."""
    rows, columns, channels = layer.interleaving.channels.shape
    words = isa.words(channels)
    of_words = np.arange(rows * columns * words).reshape(rows, columns, words)
    batch, *pixels = layer.small
    parts = [part // channels * words for part in layer.parts]
    small = (batch * layer.input_domain.bits, pixels[0], pixels[1])
    return interleave(small, parts, replace(layer.interleaving, channels=of_words), isa.word, isa)
