"""Batch normalization, as a multiplication and an addition."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, dtype_of, per_channel, rank_of


def batch_normalization(node: Node) -> relax.Expr | None:
    """``x * k + t`` with onnxruntime's float32 k and t: the reciprocal is rounded before the scale multiplies it.

    The order matters: any other order differs in the last bit, which changes signs in later layers.
    """
    if node.attributes.get("training_mode", 0) or any(node.uses_output(index) for index in range(1, 5)):
        raise node.error("is in training mode; export the model in evaluation mode")
    if not all(isinstance(node.value(index), np.ndarray) for index in range(1, 5)):
        return None
    x = node.expr(0)
    scale, bias, mean, variance = (node.constant(index) for index in range(1, 5))
    epsilon = np.array(node.attributes.get("epsilon", 1e-5), variance.dtype)
    if not np.all(variance > -epsilon):
        raise node.error(f"has a variance of {np.min(variance):g}; with epsilon {epsilon:g} it must be positive")
    k = scale * (np.array(1, variance.dtype) / np.sqrt(variance + epsilon))
    t = bias - mean * k
    dtype, rank = dtype_of(x), rank_of(x)
    scaled = node.emit(relax.op.multiply(x, per_channel(k.astype(dtype), rank)))
    return relax.op.add(scaled, per_channel(t.astype(dtype), rank))


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": batch_normalization,
}
