"""Operators that find the largest or smallest elements: ArgMax, ArgMin, Hardmax and TopK."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, aligned, dtype_of, rank_of, shape_of

_SORTED = frozenset({"float32", "float64", "int32", "int64"})
"""The element types that TVM sorts."""


def arg_extremum(node: Node) -> relax.Expr:
    """The first or last index of the largest or smallest element along an axis; int64."""
    x, rank = node.expr(0), rank_of(node.required(0))
    axis = _axis(node, node.attributes.get("axis", 0), rank)
    last = bool(node.attributes.get("select_last_index", 0))
    places = _places(node, x, axis, node.proto.op_type == "ArgMax", last)
    return places if node.attributes.get("keepdims", 1) else relax.op.squeeze(node.emit(places), [axis])


def _places(node: Node, x: relax.Expr, axis: int, largest: bool, last: bool) -> relax.Expr:
    """The places of extrema, with axis ``axis`` of size 1; of NaN, the first.

    Integers are compared with their extremum: TVM's argmax returns -1 where all are the lowest number of their type.
    """
    rank, size = rank_of(x), shape_of(x)[axis]
    if dtype_of(x).startswith("float"):
        x = node.emit(relax.op.flip(x, axis)) if last else x
        place = (relax.op.argmax if largest else relax.op.argmin)(x, axis, True)
        return relax.op.subtract(relax.const(np.int64(size - 1), "int64"), node.emit(place)) if last else place
    if dtype_of(x) == "bool":
        x = node.emit(relax.op.astype(x, "uint8"))
    extremum = node.emit((relax.op.max if largest else relax.op.min)(x, [axis], keepdims=True))
    hit = node.emit(relax.op.equal(x, extremum))
    positions = aligned(np.arange(size, dtype=np.int64).reshape((-1,) + (1,) * (rank - 1 - axis)), rank)
    none = aligned(np.array(0 if last else size - 1, np.int64), rank)
    candidates = node.emit(relax.op.where(hit, positions, none))
    return (relax.op.max if last else relax.op.min)(candidates, [axis], keepdims=True)


def hardmax(node: Node) -> relax.Expr:
    """1 at the first largest element along an axis, 0 elsewhere; before operator set 13, along all axes from one on."""
    x = node.expr(0)
    shape, dtype = shape_of(x), dtype_of(x)
    axis = _axis(node, node.attributes.get("axis", -1 if node.opset >= 13 else 1), len(shape))
    if node.opset < 13:
        x = node.emit(relax.op.reshape(x, (prod(shape[:axis]), prod(shape[axis:]))))
        axis = 1
    rank = rank_of(x)
    place = node.emit(_places(node, x, axis, True, False))
    count = shape_of(x)[axis]
    positions = aligned(np.arange(count, dtype=np.int64).reshape((-1,) + (1,) * (rank - 1 - axis)), rank)
    y = relax.op.astype(node.emit(relax.op.equal(place, positions)), dtype)
    return y if node.opset >= 13 else relax.op.reshape(node.emit(y), shape)


def top_k(node: Node) -> relax.Expr:
    """The k largest or smallest elements along an axis in order, and their indices; of equal ones the first."""
    x = node.expr(0)
    shape, dtype = shape_of(x), dtype_of(x)
    axis = _axis(node, node.attributes.get("axis", -1), len(shape))
    count = node.attribute("k") if node.opset < 10 else int(node.constant(1).item())
    if not 0 < count <= shape[axis]:
        raise node.error(f"picks {count} of {shape[axis]} elements; expected 1 to {shape[axis]}")
    if not node.attributes.get("sorted", 1):
        raise node.error("has sorted=0, which leaves the order open; export the model with sorted=1")
    if dtype in ("uint64", "bool"):
        raise node.error(f"reads {dtype}, which is not supported; cast it to float32 or int64 before")
    wide = x if dtype in _SORTED else node.emit(relax.op.astype(x, "int64"))
    largest = bool(node.attributes.get("largest", 1))
    both = node.emit(relax.op.topk(wide, count, axis, ret_type="both", largest=largest, dtype="int64"))
    values = relax.TupleGetItem(both, 0)
    if dtype not in _SORTED:
        values = relax.op.astype(node.emit(values), dtype)
    return relax.Tuple([values, relax.TupleGetItem(both, 1)])


def _axis(node: Node, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise node.error(f"has axis={axis} for an input with {rank} dimensions; expected {-rank} to {rank - 1}")
    return axis % rank


CONVERTERS: dict[str, Converter] = {
    "ArgMax": arg_extremum,
    "ArgMin": arg_extremum,
    "Hardmax": hardmax,
    "TopK": top_k,
}
"""Selections by operator name."""
