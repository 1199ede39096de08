"""Evaluates nodes with constant inputs at import: weights computed from weights, shapes from static shapes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import AttributeProto, NodeProto, helper
from onnx.reference import ReferenceEvaluator

from .size_limits import ConstantBudget

_RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike"}
)

_AS_STANDARD = frozenset({("com.microsoft", "DequantizeLinear"), ("com.microsoft", "QuantizeLinear")})
"""Operators that are the same as the standard ones of an operator set, for models of older ones."""
_AS_STANDARD_SINCE = 21


def fold(
    node: NodeProto, inputs: Sequence[np.ndarray | None], opsets: Mapping[str, int], budget: ConstantBudget
) -> tuple[np.ndarray, ...] | None:
    """Evaluates one standard node with ONNX's reference implementation.

    Args:
        node: The node, or one of the quantisers of ``com.microsoft``.
        inputs: The values of its inputs in order; None for an omitted optional input.
        opsets: The operator set versions of the model, by domain.
        budget: What computing constants may cost.

    Returns:
        Its outputs in order, or None if it is random, has subgraphs, or the reference cannot evaluate it, or not in
        seconds, or without knowing their size.

    Raises:
        ModelError: If its outputs are too large.
    """
    if (node.domain, node.op_type) in _AS_STANDARD:
        standard = NodeProto()
        standard.CopyFrom(node)
        standard.domain, node = "", standard
        opsets = {**opsets, "": _AS_STANDARD_SINCE}
    has_subgraph = any(a.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for a in node.attribute)
    if node.domain not in ("", "ai.onnx") or node.op_type in _RANDOM or has_subgraph:
        return None
    if not budget.admits(node, inputs, opsets):
        return None
    names = [name for name in node.input if name]
    function = helper.make_function(
        "sbnn.folding",
        "Fold",
        list(dict.fromkeys(names)),
        [name for name in node.output if name],
        [node],
        [helper.make_opsetid(domain, version) for domain, version in opsets.items()],
    )
    feeds = {name: value for name, value in zip(node.input, inputs, strict=True) if name}
    try:
        if node.op_type == "OneHot":
            return (_one_hot(node, *(np.asarray(value) for value in inputs)),)
        with np.errstate(all="ignore"):
            results = iter(ReferenceEvaluator(function).run(None, feeds, attributes={}))
    except Exception:  # the reference has gaps and raises any type; TVM's importer may still manage
        return None
    outputs = tuple(np.asarray(next(results)) if name else np.empty(0) for name in node.output)
    return outputs if all(value.dtype != object for value in outputs) else None


def _one_hot(node: NodeProto, indices: np.ndarray, depth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Picks one of two values; ONNX's reference multiplies and adds instead, which rounds, and makes infinity NaN."""
    count = int(depth.item())
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), -1)
    hot = np.where(indices < 0, indices + count, indices)[..., np.newaxis] == np.arange(count)
    return np.moveaxis(np.where(hot, values[1], values[0]), -1, axis)


def shape_like(shape: Sequence[int], dtype: str) -> np.ndarray:
    """An array with this shape that occupies no memory; ``Shape`` and ``Size`` need no more."""
    return np.broadcast_to(np.zeros((), dtype), tuple(shape))
