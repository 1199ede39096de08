"""Operators that read or write elements at computed places: all go through places in the flattened tensor.

Computed indices that are out of range wrap around, so that they cannot touch other memory; constant ones are refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, as_expr, dtype_of, shape_of

_REDUCTIONS = {"none": "update", "add": "add", "mul": "mul", "max": "max", "min": "min"}


def gather_elements(node: Node) -> relax.Expr:
    """The element at the same place as each index, but at the index along one axis."""
    x = node.expr(0)
    return relax.op.take(_flat(node, x), as_expr(_element_places(node, shape_of(x))), 0, mode="clip")


def gather_nd(node: Node) -> relax.Expr:
    """The slices whose first coordinates are the last axis of the indices."""
    x, batch = node.expr(0), node.attributes.get("batch_dims", 0)
    return relax.op.take(_flat(node, x), as_expr(_slice_places(node, shape_of(x), batch)), 0, mode="clip")


def scatter_elements(node: Node) -> relax.Expr:
    """The input, with each update at its own place, but at the index along one axis."""
    return _scattered(node, _element_places(node, shape_of(node.required(0))))


def scatter_nd(node: Node) -> relax.Expr:
    """The input, with slices replaced whose first coordinates are the last axis of the indices."""
    return _scattered(node, _slice_places(node, shape_of(node.required(0)), 0))


def _scattered(node: Node, places: Value) -> relax.Expr:
    x, updates = node.expr(0), node.expr(2)
    shape, dtype = shape_of(x), dtype_of(x)
    reduction = node.attributes.get("reduction", "none")
    if reduction not in _REDUCTIONS or (dtype == "bool" and reduction != "none"):
        raise node.error(f"has reduction={reduction!r} of {dtype}, which is not supported")
    if shape_of(updates) != shape_of(places):
        raise node.error(f"has updates of shape {list(shape_of(updates))}; expected {list(shape_of(places))}")
    if dtype == "bool":
        x, updates = (node.emit(relax.op.astype(value, "uint8")) for value in (x, updates))
    flat, index, values = (_flat(node, value) for value in (x, as_expr(places), updates))
    written = relax.op.scatter_elements(flat, index, values, axis=0, reduction=_REDUCTIONS[reduction])
    y = relax.op.reshape(node.emit(written), shape)
    return y if dtype != "bool" else relax.op.astype(node.emit(y), "bool")


def _flat(node: Node, x: relax.Expr) -> relax.Expr:
    return node.emit(relax.op.reshape(x, (prod(shape_of(x)),)))


def _element_places(node: Node, shape: Sequence[int]) -> Value:
    """For each index, the place in the flattened tensor of ``shape`` that it means; int64 in the indices' shape."""
    indices, rank = node.required(1), len(shape)
    axis, counts = node.attributes.get("axis", 0), shape_of(indices)
    if not -rank <= axis < rank or len(counts) != rank:
        raise node.error(f"has axis={axis} and indices of shape {list(counts)} for a tensor of shape {list(shape)}")
    axis %= rank
    if any(counts[other] > shape[other] for other in range(rank) if other != axis):
        raise node.error(f"has indices of shape {list(counts)}, which exceed the tensor's shape {list(shape)}")
    strides = _strides(shape)
    own = sum(
        (np.arange(counts[other], dtype=np.int64) * strides[other]).reshape((-1,) + (1,) * (rank - 1 - other))
        for other in range(rank)
        if other != axis
    )
    return _sum_of_products(node, [(_inside(node, indices, shape[axis]), strides[axis])], np.asarray(own, np.int64))


def _slice_places(node: Node, shape: Sequence[int], batch: int) -> Value:
    """For each coordinate vector, the places of its slice in the flattened tensor; int64 [..., *slice]."""
    indices = node.required(1)
    depth, lead = shape_of(indices)[-1], shape_of(indices)[:-1]
    if not 0 < depth <= len(shape) - batch or lead[:batch] != tuple(shape[:batch]):
        raise node.error(
            f"has indices of shape {list(shape_of(indices))} for a tensor of shape {list(shape)} and batch_dims={batch}"
        )
    inner = tuple(shape[batch + depth :])
    strides, rank = _strides(shape), len(lead) + len(inner)
    own: np.ndarray = np.arange(prod(inner), dtype=np.int64).reshape(inner)
    for axis in range(batch):
        own = own + (np.arange(shape[axis], dtype=np.int64) * strides[axis]).reshape((-1,) + (1,) * (rank - 1 - axis))
    terms = []
    for column in range(depth):
        if isinstance(indices, np.ndarray):
            part: Value = indices[..., column].reshape(lead + (1,) * len(inner))
        else:
            picked = node.emit(relax.op.take(indices, relax.const(column, "int64"), len(lead), mode="clip"))
            part = node.emit(relax.op.reshape(picked, lead + (1,) * len(inner)))
        terms.append((_inside(node, part, shape[batch + column]), strides[batch + column]))
    return _broadcast(node, _sum_of_products(node, terms, own), lead + inner)


def _strides(shape: Sequence[int]) -> list[int]:
    return [prod(shape[axis + 1 :]) for axis in range(len(shape))]


def _inside(node: Node, indices: Value, size: int) -> Value:
    """Indices from 0 to ``size - 1``; int64."""
    if isinstance(indices, np.ndarray):
        if indices.size and not -size <= indices.min() <= indices.max() < size:
            raise node.error(f"has indices from {indices.min()} to {indices.max()} along an axis of {size} elements")
        return indices.astype(np.int64) % size
    wide = indices if dtype_of(indices) == "int64" else node.emit(relax.op.astype(indices, "int64"))
    return node.emit(relax.op.floor_mod(wide, relax.const(size, "int64")))


def _sum_of_products(node: Node, terms: Sequence[tuple[Value, int]], start: np.ndarray) -> Value:
    total: Value = start
    for value, factor in terms:
        if isinstance(value, np.ndarray) and isinstance(total, np.ndarray):
            total = total + value * factor
        else:
            product = node.emit(relax.op.multiply(as_expr(value), relax.const(factor, "int64")))
            total = node.emit(relax.op.add(as_expr(total), product))
    return total


def _broadcast(node: Node, value: Value, shape: tuple[int, ...]) -> Value:
    if shape_of(value) == shape:
        return value
    if isinstance(value, np.ndarray):
        return np.broadcast_to(value, shape)
    return node.emit(relax.op.broadcast_to(value, shape))


CONVERTERS: dict[str, Converter] = {
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "Scatter": scatter_elements,
    "ScatterElements": scatter_elements,
    "ScatterND": scatter_nd,
}
"""Gathers and scatters by operator name."""
