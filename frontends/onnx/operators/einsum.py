"""Einsum of two operands, as one product of matrices between transpositions and reshapes."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, as_expr, dtype_of, shape_of


def einsum(node: Node) -> relax.Expr | None:
    """Sums of products over the letters that both operands have and the result has not.

    The letters of both operands and the result number the matrices. Those of one operand and the result are rows, or
    columns. Anything else is left to TVM: one operand, three, an ellipsis, a diagonal, a sum over one operand alone, a
    result without rows and columns.
    """
    terms, arrow, out = node.attribute("equation").replace(" ", "").partition("->")
    letters = terms.split(",")
    if len(letters) != 2 or "." in terms or not dtype_of(node.required(0)).startswith("float"):
        return None
    if not arrow:  # the letters that occur once, in the order of the alphabet
        out = "".join(sorted(letter for letter in set(terms) - {","} if terms.count(letter) == 1))
    if any(len(set(each)) != len(each) for each in (*letters, out)):
        return None
    operands = [node.required(0), node.required(1)]
    if isinstance(operands[0], np.ndarray):  # constants are weights, on the right
        letters, operands = letters[::-1], operands[::-1]
    (left, right), (a, b) = letters, operands
    sizes = dict(zip(left, shape_of(a), strict=True))
    other = dict(zip(right, shape_of(b), strict=True))
    once = {letter for letter in {*left, *right} if (letter in left) != (letter in right)}
    if not once or not once <= set(out) or any(other.get(letter, size) != size for letter, size in sizes.items()):
        return None
    sizes |= other
    batch = "".join(letter for letter in out if letter in left and letter in right)
    rows, columns = ("".join(c for c in out if c in one and c not in two) for one, two in (letters, letters[::-1]))
    summed = "".join(letter for letter in left if letter in right and letter not in out)

    def size(group: str) -> int:
        return prod(sizes[letter] for letter in group)

    matrices = [sizes[letter] for letter in batch]
    a = _reshaped(node, _ordered(node, a, left, batch + rows + summed), (*matrices, size(rows), size(summed)))
    b = _reshaped(node, _ordered(node, b, right, batch + columns + summed), (*matrices, size(columns), size(summed)))
    axes = len(matrices)
    b = _permuted(node, b, [*range(axes), axes + 1, axes])
    product = node.emit(relax.op.matmul(as_expr(a), as_expr(b)))
    found = batch + rows + columns
    whole = _reshaped(node, product, tuple(sizes[letter] for letter in found))
    return as_expr(_ordered(node, whole, found, out))


def _ordered(node: Node, value: Value, letters: str, order: str) -> Value:
    """A value whose axes are put into another order."""
    return value if letters == order else _permuted(node, value, [letters.index(letter) for letter in order])


def _permuted(node: Node, value: Value, axes: list[int]) -> Value:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value.transpose(axes))
    return node.emit(relax.op.permute_dims(value, axes))


def _reshaped(node: Node, value: Value, to: tuple[int, ...]) -> Value:
    if shape_of(value) == to:
        return value
    return value.reshape(to) if isinstance(value, np.ndarray) else node.emit(relax.op.reshape(value, to))


CONVERTERS: dict[str, Converter] = {
    "Einsum": einsum,
}
