"""Operators that change the shape alone, and padding."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, as_expr, dtype_of, rank_of, shape_of


def pad(node: Node) -> relax.Expr:
    """Padding of any mode; negative amounts crop."""
    x, attributes = node.expr(0), node.attributes
    rank, mode = rank_of(x), attributes.get("mode", "constant")
    if node.opset < 11:
        amounts, fill = list(attributes["pads"]), float(attributes.get("value", 0.0))
    else:
        given = node.value(2)
        amounts = node.constant(1).tolist()
        fill = 0.0 if given is None or mode != "constant" else node.constant(2).item()
    axes = list(range(rank)) if node.value(3) is None else [axis % rank for axis in node.constant(3).tolist()]
    if len(amounts) != 2 * len(axes):
        raise node.error(f"has {len(amounts)} pads for {len(axes)} axes; expected two for each")
    before, after = [0] * rank, [0] * rank
    for index, axis in enumerate(axes):
        before[axis], after[axis] = amounts[index], amounts[index + len(axes)]
    if mode == "constant":
        return _padded(node, x, before, after, fill)
    for axis in range(rank):
        if before[axis] or after[axis]:
            picks = _mirrored(node, shape_of(x)[axis], before[axis], after[axis], mode)
            x = node.emit(relax.op.take(x, as_expr(picks), axis, mode="clip"))
    return x


def _padded(node: Node, x: relax.Expr, before: list[int], after: list[int], fill: float) -> relax.Expr:
    if min(*before, *after) < 0:
        shape = shape_of(x)
        cropped = [axis for axis in range(len(shape)) if min(before[axis], after[axis]) < 0]
        starts = [max(-before[axis], 0) for axis in cropped]
        ends = [shape[axis] - max(-after[axis], 0) for axis in cropped]
        if any(end <= start for start, end in zip(starts, ends, strict=True)):
            raise node.error(
                f"crops an input of shape {list(shape)} by the pads {before} and {after}, which leaves none"
            )
        x = node.emit(relax.op.strided_slice(x, cropped, starts, ends, assume_inbound=True))
    widths = [max(amount, 0) for pair in zip(before, after, strict=True) for amount in pair]
    if dtype_of(x) == "bool":
        numbers = node.emit(relax.op.astype(x, "uint8"))
        padded = node.emit(relax.op.nn.pad(numbers, widths, pad_mode="constant", pad_value=int(fill)))
        return relax.op.astype(padded, "bool")
    return relax.op.nn.pad(x, widths, pad_mode="constant", pad_value=fill)


def _mirrored(node: Node, size: int, before: int, after: int, mode: str) -> np.ndarray:
    """The elements along an axis of ``size`` that a padded axis shows."""
    places = np.arange(-before, size + after)
    if mode == "edge":
        return np.clip(places, 0, size - 1)
    if mode == "wrap":
        return places % size
    if mode != "reflect":
        raise node.error(f"has mode={mode!r}; expected constant, edge, reflect or wrap")
    period = max(2 * (size - 1), 1)
    folded = places % period
    return np.minimum(folded, period - folded) if size > 1 else np.zeros_like(places)


def reshape(node: Node) -> relax.Expr:
    """A reshape to a static shape."""
    x = node.expr(0)
    old = shape_of(x)
    new = [int(dim) for dim in (node.attributes["shape"] if node.opset < 5 else node.constant(1))]
    if not node.attributes.get("allowzero", 0):
        new = [old[axis] if dim == 0 and axis < len(old) else dim for axis, dim in enumerate(new)]
    if -1 in new:
        rest = prod(dim for dim in new if dim != -1)
        new[new.index(-1)] = prod(old) // rest if rest else 0
    return _reshaped(node, x, new)


def _reshaped(node: Node, x: relax.Expr, shape: list[int]) -> relax.Expr:
    if prod(shape) != prod(shape_of(x)):
        raise node.error(f"cannot make shape {shape} of {list(shape_of(x))}: the numbers of elements differ")
    return relax.op.reshape(x, shape)


def flatten(node: Node) -> relax.Expr:
    """Two dimensions: the product of those before an axis, and the product of the rest."""
    x = node.expr(0)
    shape, axis = shape_of(x), node.attributes.get("axis", 1)
    axis = axis + len(shape) if axis < 0 else axis
    return _reshaped(node, x, [prod(shape[:axis]), prod(shape[axis:])])


def _axes(node: Node) -> list[int] | None:
    if node.opset < 13:
        return node.attributes.get("axes")
    return None if node.value(1) is None else node.constant(1).reshape(-1).tolist()


def squeeze(node: Node) -> relax.Expr:
    """Removes axes of size 1."""
    x, axes = node.expr(0), _axes(node)
    shape = shape_of(x)
    gone = {axis for axis, dim in enumerate(shape) if dim == 1} if axes is None else {a % len(shape) for a in axes}
    return _reshaped(node, x, [dim for axis, dim in enumerate(shape) if axis not in gone])


def unsqueeze(node: Node) -> relax.Expr:
    """Adds axes of size 1."""
    x, axes = node.expr(0), _axes(node) or []
    rank = rank_of(x) + len(axes)
    new, rest = {axis % rank for axis in axes}, iter(shape_of(x))
    return _reshaped(node, x, [1 if axis in new else next(rest) for axis in range(rank)])


def concat(node: Node) -> relax.Expr:
    """Inputs one after the other along an axis; those without elements add nothing."""
    rank, axis = rank_of(node.required(0)), node.attributes.get("axis", 1)
    if not -rank <= axis < rank:
        raise node.error(f"joins inputs of {rank} dimensions along axis {axis}; expected {-rank} to {rank - 1}")
    parts = [node.expr(index) for index in range(len(node.inputs)) if 0 not in shape_of(node.required(index))]
    return relax.op.concat(parts, axis % rank) if len(parts) > 1 else parts[0]


def tile(node: Node) -> relax.Expr:
    """Repetitions, as a broadcast over a new axis before each axis that is repeated."""
    x, repeats = node.expr(0), node.constant(1).reshape(-1).tolist()
    shape = shape_of(x)
    if len(repeats) != len(shape) or min(repeats, default=1) < 1:
        raise node.error(f"repeats {len(shape)} dimensions by {repeats}; expected a positive number for each")
    pairs = list(zip(repeats, shape, strict=True))
    spread = [part for count, dim in pairs for part in ((count, dim) if count > 1 else (dim,))]
    apart = node.emit(
        relax.op.reshape(x, [part for count, dim in pairs for part in ((1, dim) if count > 1 else (dim,))])
    )
    whole = node.emit(relax.op.broadcast_to(apart, spread))
    return relax.op.reshape(whole, [count * dim for count, dim in pairs])


CONVERTERS: dict[str, Converter] = {
    "Concat": concat,
    "Flatten": flatten,
    "Pad": pad,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Tile": tile,
    "Unsqueeze": unsqueeze,
}
