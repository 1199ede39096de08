"""Operators that change the shape alone, and padding."""

from __future__ import annotations

from math import prod

from tvm import relax

from ..node import Converter, Node, rank_of, shape_of


def pad(node: Node) -> relax.Expr | None:
    """Padding with a constant; TVM converts other modes."""
    x, attributes = node.expr(0), node.attributes
    rank = rank_of(x)
    if attributes.get("mode", "constant") != "constant":
        return None
    if node.opset < 11:
        amounts, fill = list(attributes["pads"]), float(attributes.get("value", 0.0))
    else:
        given = node.value(2)
        amounts, fill = node.constant(1).tolist(), 0.0 if given is None else node.constant(2).item()
    axes = range(rank) if node.value(3) is None else [axis % rank for axis in node.constant(3).tolist()]
    if any(amount < 0 for amount in amounts):
        raise node.error(f"has negative pads {amounts}, which is not supported; use Slice to crop")
    widths = [0] * (2 * rank)
    for index, axis in enumerate(axes):
        widths[2 * axis], widths[2 * axis + 1] = amounts[index], amounts[index + len(axes)]
    return relax.op.nn.pad(x, widths, pad_mode="constant", pad_value=fill)


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


CONVERTERS: dict[str, Converter] = {
    "Flatten": flatten,
    "Pad": pad,
    "Reshape": reshape,
    "Squeeze": squeeze,
    "Unsqueeze": unsqueeze,
}
