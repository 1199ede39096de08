"""All converters, by operator."""

from __future__ import annotations

from ..node import Converter
from . import convolutions, elementwise, larq, pooling, quantization, resize, shapes

CONVERTERS: dict[str, Converter] = {
    **convolutions.CONVERTERS,
    **elementwise.CONVERTERS,
    **larq.CONVERTERS,
    **pooling.CONVERTERS,
    **quantization.CONVERTERS,
    **resize.CONVERTERS,
    **shapes.CONVERTERS,
}
"""Converters by operator name, or by the code of a custom operator."""
TAKING_BITS = frozenset(larq.CONVERTERS)
"""The operators that may read packed bits."""
TAKING_QUANTISED = frozenset(quantization.CONVERTERS)
"""The operators that may read or compute quantised numbers."""
