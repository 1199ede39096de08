"""Operators that pick elements by index."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.tirx import FloatImm

from ..node import Converter, Node, as_expr, dtype_of, shape_of


def gather(node: Node) -> relax.Expr:
    """Picks elements along an axis.

    Computed indices that are out of range wrap around, so that they cannot read other memory.
    """
    x, picks = node.expr(0), node.value(1)
    axis = node.attributes.get("axis", 0)
    if not isinstance(picks, np.ndarray):
        return relax.op.take(x, node.expr(1), axis, mode="wrap")
    size = shape_of(x)[axis]
    if picks.size and not -size <= picks.min() <= picks.max() < size:
        raise node.error(f"picks elements {picks.min()} to {picks.max()} of axis {axis}, which has {size}")
    return relax.op.take(x, as_expr(picks % size), axis, mode="clip")


def one_hot(node: Node) -> relax.Expr | None:
    """One-hot encoding with constant depth and float32 values, which TVM's importer would make float64."""
    indices, depth, values = (node.required(index) for index in range(3))
    if not isinstance(depth, np.ndarray) or not isinstance(values, np.ndarray) or values.dtype != np.float32:
        return None
    index = as_expr(indices)
    zero, extent = (relax.const(value, dtype_of(index)) for value in (0, int(depth.item())))
    from_end = node.emit(relax.op.add(index, extent))
    index = node.emit(relax.op.where(node.emit(relax.op.less(index, zero)), from_end, index))
    off, on = (relax.prim_value(FloatImm("float32", float(value))) for value in values)
    return relax.op.one_hot(index, on, off, int(depth.item()), node.attributes.get("axis", -1))


CONVERTERS: dict[str, Converter] = {
    "Gather": gather,
    "OneHot": one_hot,
}
