"""Elementwise arithmetic, comparisons and choices."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
from onnx import helper
from tvm import relax

from ..node import Converter, Node, aligned, as_expr, dtype_of, rank_of, shape_of


def cast(node: Node) -> relax.Expr | None:
    """The input itself for its own type, 0 and 1 from truth values; TVM converts all others."""
    node.ignore("saturate", "round_mode")  # of float8 alone
    x, dtype = node.expr(0), helper.tensor_dtype_to_np_dtype(node.attribute("to")).name
    if dtype == dtype_of(x):
        return x
    if (dtype_of(x), dtype) == ("float64", "float16"):
        # no C library has the direct cast; onnxruntime goes the same way
        return relax.op.astype(node.emit(relax.op.astype(x, "float32")), dtype)
    return relax.op.astype(x, dtype) if dtype_of(x) == "bool" and dtype != "bool" else None


def where(node: Node) -> relax.Expr:
    """Elementwise choice."""
    rank = max(rank_of(node.required(index)) for index in range(3))
    return relax.op.where(*(node.aligned(index, rank) for index in range(3)))


def identity(node: Node) -> relax.Expr:
    """The input itself; no operator remains."""
    return node.expr(0)


def dropout(node: Node) -> relax.Expr:
    """The input itself, since inference drops nothing; the mask says so."""
    node.ignore("ratio", "seed", "is_test")
    training = node.value(2)
    if not (training is None or (isinstance(training, np.ndarray) and not training.any())):
        raise node.error("is in training mode; export the model in evaluation mode")
    x = node.expr(0)
    if not node.uses_output(1):
        return x
    kept = node.opset >= 12  # onnxruntime's mask of operator sets 10 and 11 is false
    return relax.Tuple([x, as_expr(np.full(shape_of(x), kept, dtype_of(x) if node.opset < 10 else "bool"))])


def _binary(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    def convert(node: Node) -> relax.Expr:
        rank = max(rank_of(node.required(0)), rank_of(node.required(1)))
        return operator(node.aligned(0, rank), node.aligned(1, rank))

    return convert


def _variadic(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Converter:
    def convert(node: Node) -> relax.Expr:
        rank = max(rank_of(node.required(index)) for index in range(len(node.inputs)))
        operands = [node.aligned(index, rank) for index in range(len(node.inputs))]
        return reduce(lambda left, right: operator(node.emit(left), right), operands[2:], operator(*operands[:2]))

    return lambda node: convert(node) if len(node.inputs) > 1 else node.expr(0)


def divide(node: Node) -> relax.Expr:
    """The quotient; that of integers is rounded towards 0."""
    divisor = node.required(1)
    if not dtype_of(divisor).startswith("float"):
        return _integer_quotient(node, relax.op.divide, True)
    rank = max(rank_of(node.required(0)), rank_of(divisor))
    if isinstance(divisor, np.ndarray) and not divisor.any():  # TVM does not compile a division by a constant zero
        infinite = np.asarray(np.copysign(np.array(np.inf, divisor.dtype), divisor))
        return relax.op.multiply(node.aligned(0, rank), aligned(infinite, rank))
    return relax.op.divide(node.aligned(0, rank), node.aligned(1, rank))


def _integer_quotient(
    node: Node, operator: Callable[[relax.Expr, relax.Expr], relax.Expr], negates: bool
) -> relax.Expr:
    """A quotient or remainder of integers; 0 where the divisor is 0.

    A processor ends the process at a division by 0, and of the least number by -1, so neither takes place.

    Args:
        node: The node.
        operator: What computes the quotient or remainder.
        negates: Whether the result for the divisor -1 is ``-x``; otherwise it is 0.
    """
    divisor, dtype = node.required(1), dtype_of(node.required(1))
    rank = max(rank_of(node.required(0)), rank_of(divisor))
    x, y = node.aligned(0, rank), node.aligned(1, rank)
    if isinstance(divisor, np.ndarray):
        if not divisor.all():
            raise node.error("divides integers by a constant 0; correct the model")
        if dtype.startswith("u") or not (divisor == -1).any():
            return operator(x, y)
    zero, one = (aligned(np.array(value, dtype), rank) for value in (0, 1))
    by_zero = node.emit(relax.op.equal(y, zero))
    safe = node.emit(relax.op.where(by_zero, one, y))
    if dtype.startswith("u"):
        return relax.op.where(by_zero, zero, node.emit(operator(x, safe)))
    by_minus_one = node.emit(relax.op.equal(y, aligned(np.array(-1, dtype), rank)))
    safe = node.emit(relax.op.where(by_minus_one, one, safe))
    negated = node.emit(relax.op.subtract(zero, x)) if negates else zero
    result = node.emit(relax.op.where(by_minus_one, negated, node.emit(operator(x, safe))))
    return relax.op.where(by_zero, zero, result)


def equal(node: Node) -> relax.Expr:
    """Whether elements are equal; truth values are compared as numbers, since LLVM has no comparison for these."""
    rank = max(rank_of(node.required(0)), rank_of(node.required(1)))
    operands = [node.aligned(index, rank) for index in (0, 1)]
    if dtype_of(node.required(0)) == "bool":
        operands = [node.emit(relax.op.astype(node.emit(operand), "uint8")) for operand in operands]
    return relax.op.equal(*operands)


def power(node: Node) -> relax.Expr:
    """``x ** y`` in the type of x, whatever the type of y."""
    x, dtype = node.required(0), dtype_of(node.required(0))
    rank = max(rank_of(x), rank_of(node.required(1)))
    working = dtype if dtype.startswith("float") else "float64"  # exact below 2^53
    base, exponent = (_as_type(node, node.aligned(index, rank), working) for index in (0, 1))
    result = relax.op.power(base, exponent)
    return result if working == dtype else relax.op.astype(node.emit(result), dtype)


def _as_type(node: Node, x: relax.Expr, dtype: str) -> relax.Expr:
    return x if dtype_of(node.emit(x)) == dtype else node.emit(relax.op.astype(x, dtype))


def modulo(node: Node) -> relax.Expr:
    """The remainder with the sign of the divisor, or with that of the dividend if ``fmod`` is 1."""
    rank = max(rank_of(node.required(0)), rank_of(node.required(1)))
    dtype = dtype_of(node.required(0))
    if dtype.startswith("float"):
        return _float_modulo(node, node.aligned(0, rank), node.aligned(1, rank), dtype, rank)
    return _integer_quotient(node, relax.op.mod if node.attributes.get("fmod", 0) else relax.op.floor_mod, False)


def _float_modulo(node: Node, x: relax.Expr, y: relax.Expr, dtype: str, rank: int) -> relax.Expr:
    """C's fmod; without ``fmod`` the divisor is added where the signs differ, as numpy does."""
    rest = node.emit(relax.op.mod(x, y))
    if node.attributes.get("fmod", 0):
        return rest
    zero = aligned(np.zeros((), dtype), rank)
    differ = node.emit(relax.op.logical_xor(node.emit(relax.op.less(rest, zero)), node.emit(relax.op.less(y, zero))))
    some = node.emit(relax.op.not_equal(rest, zero))
    moved = node.emit(relax.op.add(rest, y))
    return relax.op.where(node.emit(relax.op.logical_and(differ, some)), moved, rest)


def is_infinite(node: Node) -> relax.Expr:
    """Whether an element is infinite, of the signs that the attributes ask for."""
    x = node.expr(0)
    zero = aligned(np.zeros((), dtype_of(x)), rank_of(x))
    found = node.emit(relax.op.isinf(x))
    positive, negative = (node.attributes.get(f"detect_{sign}", 1) for sign in ("positive", "negative"))
    if positive and negative:
        return found
    if not positive and not negative:
        return relax.op.less(x, x)  # never
    side = relax.op.greater(x, zero) if positive else relax.op.less(x, zero)
    return relax.op.logical_and(found, node.emit(side))


def bit_shift(node: Node) -> relax.Expr:
    """Shifts of integers; a shift by the width or more gives 0 (or -1 to the right of a negative number)."""
    dtype = dtype_of(node.required(0))
    rank, bits = max(rank_of(node.required(0)), rank_of(node.required(1))), np.iinfo(dtype).bits
    x, amount = node.aligned(0, rank), node.aligned(1, rank)
    last = aligned(np.array(bits - 1, dtype), rank)
    inside = node.emit(relax.op.less_equal(amount, last))
    if not dtype.startswith("u"):
        zero = aligned(np.array(0, dtype), rank)
        inside = node.emit(relax.op.logical_and(inside, node.emit(relax.op.greater_equal(amount, zero))))
    bounded = node.emit(relax.op.where(inside, amount, last))
    if node.attribute("direction") == "RIGHT":
        shifted = node.emit(relax.op.right_shift(x, bounded))
        if not dtype.startswith("u"):
            return shifted
    else:
        shifted = node.emit(relax.op.left_shift(x, bounded))
    return relax.op.where(inside, shifted, aligned(np.array(0, dtype), rank))


CONVERTERS: dict[str, Converter] = {
    "Add": _binary(relax.op.add),
    "BitShift": bit_shift,
    "Cast": cast,
    "Div": divide,
    "Dropout": dropout,
    "Equal": equal,
    "Greater": _binary(relax.op.greater),
    "GreaterOrEqual": _binary(relax.op.greater_equal),
    "Identity": identity,
    "IsInf": is_infinite,
    "Less": _binary(relax.op.less),
    "LessOrEqual": _binary(relax.op.less_equal),
    "Max": _variadic(relax.op.maximum),
    "Min": _variadic(relax.op.minimum),
    "Mod": modulo,
    "Mul": _binary(relax.op.multiply),
    "Pow": power,
    "Sub": _binary(relax.op.subtract),
    "Sum": _variadic(relax.op.add),
    "Where": where,
}
