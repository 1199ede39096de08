"""Normalizations by means and variances."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, aligned, dtype_of, per_channel, rank_of


def batch_normalization(node: Node) -> relax.Expr | None:
    """``x * k + t`` with onnxruntime's float32 k and t: the reciprocal is rounded before the scale multiplies it.

    The order matters: any other order differs in the last bit, which changes signs in later layers.
    """
    node.ignore("momentum")
    if node.attributes.get("spatial", 1) != 1:
        raise node.error("has spatial=0, which is not supported; export the model with statistics per channel")
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


def layer_normalization(node: Node) -> relax.Expr:
    """``(x - mean) / sqrt(variance + epsilon) * scale + bias`` over the last axes, with mean and 1 / sqrt(...)."""
    x, dtype, rank, axes = _normalized(node)
    one = node.emit(_as_stash(node, x, dtype))
    mean = node.emit(relax.op.mean(one, axes, keepdims=True))
    centred = node.emit(relax.op.subtract(one, mean))
    variance = node.emit(relax.op.mean(node.emit(relax.op.multiply(centred, centred)), axes, keepdims=True))
    inverse = _inverse_root(node, variance)
    scaled = _scaled(node, node.emit(relax.op.multiply(centred, inverse)), dtype, rank)
    bias = node.value(2)
    if bias is not None:
        scaled = relax.op.add(node.emit(scaled), node.aligned(2, rank))
    last = max(index for index in range(3) if index == 0 or node.uses_output(index))
    return relax.Tuple([node.emit(scaled), mean, inverse][: last + 1]) if last else scaled


def rms_normalization(node: Node) -> relax.Expr:
    """``x / sqrt(mean(x * x) + epsilon) * scale`` over the last axes."""
    x, dtype, rank, axes = _normalized(node)
    one = node.emit(_as_stash(node, x, dtype))
    square = node.emit(relax.op.mean(node.emit(relax.op.multiply(one, one)), axes, keepdims=True))
    return _scaled(node, node.emit(relax.op.multiply(one, _inverse_root(node, square))), dtype, rank)


def _normalized(node: Node) -> tuple[relax.Expr, str, int, list[int]]:
    """The input, its dtype and rank, and the axes that are normalized: those from ``axis`` on."""
    x = node.expr(0)
    rank, axis = rank_of(x), node.attributes.get("axis", -1)
    if not -rank <= axis < rank:
        raise node.error(f"has axis={axis} for an input with {rank} dimensions; expected {-rank} to {rank - 1}")
    return x, dtype_of(x), rank, list(range(axis % rank, rank))


def _as_stash(node: Node, x: relax.Expr, dtype: str) -> relax.Expr:
    """The input in the type that the sums have: float32 by default, also for float16."""
    stash = node.attributes.get("stash_type", 1)
    if stash != 1:
        raise node.error(f"has stash_type={stash}; only 1 (float32) is supported")
    return relax.op.astype(x, "float32") if dtype == "float16" else x


def _inverse_root(node: Node, variance: relax.Expr) -> relax.Expr:
    dtype, rank = dtype_of(variance), rank_of(variance)
    epsilon = aligned(np.array(node.attributes.get("epsilon", 1e-5), dtype), rank)
    root = node.emit(relax.op.sqrt(node.emit(relax.op.add(variance, epsilon))))
    return node.emit(relax.op.divide(aligned(np.ones((), dtype), rank), root))


def _scaled(node: Node, x: relax.Expr, dtype: str, rank: int) -> relax.Expr:
    x = x if dtype_of(x) == dtype else node.emit(relax.op.astype(x, dtype))
    return node.emit(relax.op.multiply(x, node.aligned(1, rank)))


CONVERTERS: dict[str, Converter] = {
    "BatchNormalization": batch_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
}
