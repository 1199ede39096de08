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
    deformable_convolution,
    einsum,
    elementwise,
    gather_scatter,
    images,
    indexing,
    integer_products,
    max_positions,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    regions,
    resize,
    selections,
    shapes,
    spectral,
    transposed_convolution,
)

CONVERTERS: dict[str, Converter] = {
    **activations.CONVERTERS,
    **convolutions.CONVERTERS,
    **deformable_convolution.CONVERTERS,
    **einsum.CONVERTERS,
    **elementwise.CONVERTERS,
    **gather_scatter.CONVERTERS,
    **images.CONVERTERS,
    **indexing.CONVERTERS,
    **integer_products.CONVERTERS,
    **max_positions.CONVERTERS,
    **normalization.CONVERTERS,
    **pooling.CONVERTERS,
    **quantization.CONVERTERS,
    **recurrent.CONVERTERS,
    **reductions.CONVERTERS,
    **regions.CONVERTERS,
    **resize.CONVERTERS,
    **selections.CONVERTERS,
    **shapes.CONVERTERS,
    **spectral.CONVERTERS,
    **transposed_convolution.CONVERTERS,
}
"""Converters by operator name, for the standard domain."""
