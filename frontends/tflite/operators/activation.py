"""The activation functions that TFLite fuses into the operator before them."""

from __future__ import annotations

import numpy as np
import tflite

from ..node import Node
from ..values import Value

_KIND = tflite.ActivationFunctionType


def activated(node: Node, value: Value) -> Value:
    """The output of a node after its fused activation.

    Raises:
        ModelError: If the activation is not known.
    """
    kind = node.option("FusedActivationFunction", _KIND.NONE)
    if kind == _KIND.NONE:
        return value
    if kind == _KIND.RELU:
        return node.graph.add("Relu", value, order=value.order)
    if kind == _KIND.RELU_N1_TO_1:
        return clipped(node, value, -1, 1)
    if kind == _KIND.RELU6:
        return clipped(node, value, 0, 6)
    if kind == _KIND.TANH:
        return node.graph.add("Tanh", value, order=value.order)
    raise node.error(f"has the fused activation number {kind}, which is not supported")


def clipped(node: Node, value: Value, low: float, high: float) -> Value:
    """A value limited to [low, high]."""
    bounds = (node.graph.constant(np.array(bound, np.float32)) for bound in (low, high))
    return node.graph.add("Clip", value, *bounds, order=value.order)
