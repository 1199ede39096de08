"""All converters, by operator."""

from __future__ import annotations

from dataclasses import replace

from ..node import Converter, Node
from ..values import Value
from . import codes, convolutions, elementwise, larq, pooling, quantization, resize, shapes

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


def convert(node: Node) -> tuple[Value, ...]:
    """Adds the ONNX nodes of an operator, and returns its outputs.

    An operator on quantised numbers computes with their codes if it can do so exactly; otherwise with floats, whose
    results are quantised again.
    """
    name = node.operator.name
    if not quantization.is_quantised(node) or name in quantization.CONVERTERS:
        found = CONVERTERS[name](node)
        return (found,) if isinstance(found, Value) else tuple(found)
    exact = codes.CONVERTERS[name](node) if name in codes.CONVERTERS else None
    if exact is not None:
        return (exact,) if isinstance(exact, Value) else tuple(exact)
    inputs = tuple(
        None if value is None else quantization.dequantised(node, index) for index, value in enumerate(node.inputs)
    )
    found = CONVERTERS[name](replace(node, inputs=inputs))
    results = (found,) if isinstance(found, Value) else found
    return tuple(quantization.quantised(node, value, index) for index, value in enumerate(results))
