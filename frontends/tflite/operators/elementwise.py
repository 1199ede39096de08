"""Elementwise operators: arithmetic, comparisons, selections, activation functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from ..node import Converter, Node
from ..tensor_types import dtype_of
from ..values import CHANNELS_FIRST, Value, plain
from .activation import activated, clipped

_UNARY = {
    "ABS": "Abs",
    "CEIL": "Ceil",
    "COS": "Cos",
    "EXP": "Exp",
    "FLOOR": "Floor",
    "HARD_SWISH": "HardSwish",
    "LOG": "Log",
    "LOGICAL_NOT": "Not",
    "LOGISTIC": "Sigmoid",
    "NEG": "Neg",
    "RELU": "Relu",
    "ROUND": "Round",
    "SIGN": "Sign",
    "SIN": "Sin",
    "SQRT": "Sqrt",
    "TANH": "Tanh",
}
_BINARY = {
    "ADD": "Add",
    "DIV": "Div",
    "EQUAL": "Equal",
    "GREATER": "Greater",
    "GREATER_EQUAL": "GreaterOrEqual",
    "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual",
    "LOGICAL_AND": "And",
    "LOGICAL_OR": "Or",
    "MAXIMUM": "Max",
    "MINIMUM": "Min",
    "MUL": "Mul",
    "POW": "Pow",
    "PRELU": "PRelu",
    "SUB": "Sub",
}


def aligned(node: Node, values: Sequence[Value]) -> tuple[list[Value], tuple[int, ...]]:
    """Operands that broadcast against each other, stored alike.

    Returns:
        The operands, all with the same number of axes, and the order of their axes.
    """
    rank = max(value.rank for value in values)
    computed = [value.order for value in values if value.array is None and value.rank == rank]
    order = next((order for order in computed if order != plain(rank)), None)
    if order is None:
        order = computed[0] if computed else plain(rank)
    operands = []
    for value in values:
        if value.rank < rank:
            value = node.graph.reshaped(value, (1,) * (rank - value.rank) + value.shape)
        operands.append(node.graph.reordered(value, order))
    return operands, order


def _unary(op_type: str) -> Converter:
    def convert(node: Node) -> Value:
        x = node.required(0) if op_type == "Not" else node.floats(0)
        return node.graph.add(op_type, x, order=x.order)

    return convert


def _binary(op_type: str) -> Converter:
    def convert(node: Node) -> Value:
        operands, order = aligned(node, [node.required(0), node.required(1)])
        return activated(node, node.graph.add(op_type, *operands, order=order))

    return convert


def _not_equal(node: Node) -> Value:
    operands, order = aligned(node, [node.required(0), node.required(1)])
    return node.graph.add("Not", node.graph.add("Equal", *operands, order=order), order=order)


def _clip(low: float, high: float) -> Converter:
    return lambda node: clipped(node, node.floats(0), low, high)


def _with_alpha(op_type: str) -> Converter:
    def convert(node: Node) -> Value:
        x = node.floats(0)
        alpha = {} if op_type == "Elu" else {"alpha": float(node.option("Alpha"))}
        return node.graph.add(op_type, x, order=x.order, **alpha)

    return convert


def _gelu(node: Node) -> Value:
    x = node.floats(0)
    return node.graph.add("Gelu", x, order=x.order, approximate="tanh" if node.option("Approximate", 0) else "none")


def _rsqrt(node: Node) -> Value:
    x = node.floats(0)
    return node.graph.add("Reciprocal", node.graph.add("Sqrt", x, order=x.order), order=x.order)


def _square(node: Node) -> Value:
    x = node.floats(0)
    return node.graph.add("Mul", x, x, order=x.order)


def _squared_difference(node: Node) -> Value:
    operands, order = aligned(node, [node.floats(0), node.floats(1)])
    difference = node.graph.add("Sub", *operands, order=order)
    return node.graph.add("Mul", difference, difference, order=order)


def _add_n(node: Node) -> Value:
    operands, order = aligned(node, [node.floats(index) for index in range(len(node.inputs))])
    total = operands[0]
    for operand in operands[1:]:
        total = node.graph.add("Add", total, operand, order=order)
    return total


def _select(node: Node) -> Value:
    """``condition ? x : y``; in its old form, a condition of one axis goes by rows."""
    condition, x, y = (node.required(index) for index in range(3))
    if node.operator.name == "SELECT" and condition.rank == 1 and x.rank > 1:
        condition = node.graph.reshaped(condition, (*condition.shape, *(1,) * (x.rank - 1)))
    operands, order = aligned(node, [condition, x, y])
    return node.graph.add("Where", *operands, order=order)


def _cast(node: Node) -> Value:
    x = node.required(0)
    target = helper.np_dtype_to_tensor_dtype(np.dtype(dtype_of(node.computed[0], node.graph.where)))
    return node.graph.add("Cast", x, order=x.order, to=target)


def _softmax(op_type: str) -> Converter:
    def convert(node: Node) -> Value:
        x = node.floats(0)
        if not x.rank:
            raise node.error("needs at least one axis")
        beta: Any = node.option("Beta", 1.0) if op_type == "Softmax" else 1.0
        if beta != 1:
            x = node.graph.add("Mul", x, node.graph.constant(np.array(beta, np.float32)), order=x.order)
        return node.graph.add(op_type, x, order=x.order, axis=x.stored_axis(x.rank - 1))

    return convert


def _l2_normalization(node: Node) -> Value:
    """``x / max(norm(x), 1e-6)`` along the last axis."""
    x = node.floats(0)
    axes = node.graph.constant(np.array([x.stored_axis(x.rank - 1)], np.int64))
    norm = node.graph.add("ReduceL2", x, axes, order=x.order, keepdims=1)
    norm = node.graph.add("Max", norm, node.graph.constant(np.array(1e-6, np.float32)), order=x.order)
    return activated(node, node.graph.add("Div", x, norm, order=x.order))


def _local_response_normalization(node: Node) -> Value:
    x = node.image(0)
    radius = node.option("Radius")
    size = 2 * radius + 1
    return node.graph.add(
        "LRN",
        x,
        order=CHANNELS_FIRST,
        size=size,
        alpha=float(node.option("Alpha")) * size,
        beta=float(node.option("Beta")),
        bias=float(node.option("Bias")),
    )


CONVERTERS: dict[str, Converter] = {
    **{name: _unary(op_type) for name, op_type in _UNARY.items()},
    **{name: _binary(op_type) for name, op_type in _BINARY.items()},
    "ADD_N": _add_n,
    "CAST": _cast,
    "ELU": _with_alpha("Elu"),
    "GELU": _gelu,
    "L2_NORMALIZATION": _l2_normalization,
    "LEAKY_RELU": _with_alpha("LeakyRelu"),
    "LOCAL_RESPONSE_NORMALIZATION": _local_response_normalization,
    "LOG_SOFTMAX": _softmax("LogSoftmax"),
    "NOT_EQUAL": _not_equal,
    "RELU6": _clip(0, 6),
    "RELU_0_TO_1": _clip(0, 1),
    "RELU_N1_TO_1": _clip(-1, 1),
    "RSQRT": _rsqrt,
    "SELECT": _select,
    "SELECT_V2": _select,
    "SOFTMAX": _softmax("Softmax"),
    "SQUARE": _square,
    "SQUARED_DIFFERENCE": _squared_difference,
}
"""Converters by operator name."""
