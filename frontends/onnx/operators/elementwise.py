"""Elementwise arithmetic, comparisons and choices."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
from onnx import helper
from tvm import relax

from ..node import Converter, Node, dtype_of, rank_of


def cast(node: Node) -> relax.Expr | None:
    """The input itself for its own type, 0 and 1 from truth values; TVM converts all others."""
    x, dtype = node.expr(0), helper.tensor_dtype_to_np_dtype(node.attribute("to")).name
    if dtype == dtype_of(x):
        return x
    return relax.op.astype(x, dtype) if dtype_of(x) == "bool" and dtype != "bool" else None


def where(node: Node) -> relax.Expr:
    """Elementwise choice."""
    rank = max(rank_of(node.required(index)) for index in range(3))
    return relax.op.where(*(node.aligned(index, rank) for index in range(3)))


def identity(node: Node) -> relax.Expr:
    """The input itself; no operator remains."""
    return node.expr(0)


def dropout(node: Node) -> relax.Expr:
    """The input itself, since inference drops nothing."""
    training = node.value(2)
    if node.uses_output(1) or not (training is None or (isinstance(training, np.ndarray) and not training.any())):
        raise node.error("is in training mode or returns its mask; export the model in evaluation mode")
    return node.expr(0)


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


def divide(node: Node) -> relax.Expr | None:
    """Division of floats; TVM converts integer division."""
    return _binary(relax.op.divide)(node) if dtype_of(node.required(0)).startswith("float") else None


CONVERTERS: dict[str, Converter] = {
    "Add": _binary(relax.op.add),
    "Cast": cast,
    "Div": divide,
    "Dropout": dropout,
    "Greater": _binary(relax.op.greater),
    "GreaterOrEqual": _binary(relax.op.greater_equal),
    "Identity": identity,
    "Less": _binary(relax.op.less),
    "LessOrEqual": _binary(relax.op.less_equal),
    "Max": _variadic(relax.op.maximum),
    "Min": _variadic(relax.op.minimum),
    "Mul": _binary(relax.op.multiply),
    "Sub": _binary(relax.op.subtract),
    "Sum": _variadic(relax.op.add),
    "Where": where,
}
