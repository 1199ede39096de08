"""Reductions over axes."""

from __future__ import annotations

import numpy as np
from tvm import relax

from ..node import Converter, Node, dtype_of, rank_of, shape_of


def reduce_mean(node: Node) -> relax.Expr | None:
    """The mean over both image axes as global pooling; TVM converts other means."""
    x, axes = node.expr(0), node.attributes.get("axes")
    if axes is None:
        given = node.value(1)
        axes = given.tolist() if isinstance(given, np.ndarray) else ()
    if rank_of(x) != 4 or sorted(axis % 4 for axis in axes) != [2, 3] or not dtype_of(x).startswith("float"):
        return None
    mean = relax.op.nn.adaptive_avg_pool2d(x, (1, 1))
    if node.attributes.get("keepdims", 1):
        return mean
    return relax.op.reshape(node.emit(mean), shape_of(x)[:2])


CONVERTERS: dict[str, Converter] = {
    "ReduceMean": reduce_mean,
}
