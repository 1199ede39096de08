"""All converters of standard operators, by operator.

The passes rely on the form in which these write the operators of binary networks: NCHW with explicit paddings of 4
numbers. Every constant operand of an elementwise operator has as many dimensions as the result, [1, C, 1, 1] if it
differs by channel.
"""

from __future__ import annotations

from ..node import Converter
from . import (
    activations,
    convolutions,
    elementwise,
    indexing,
    normalization,
    pooling,
    recurrent,
    reductions,
    shapes,
    spectral,
)

CONVERTERS: dict[str, Converter] = {
    **activations.CONVERTERS,
    **convolutions.CONVERTERS,
    **elementwise.CONVERTERS,
    **indexing.CONVERTERS,
    **normalization.CONVERTERS,
    **pooling.CONVERTERS,
    **recurrent.CONVERTERS,
    **reductions.CONVERTERS,
    **shapes.CONVERTERS,
    **spectral.CONVERTERS,
}
"""Converters by operator name, for the standard domain."""
