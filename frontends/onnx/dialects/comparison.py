"""A choice between two values by a comparison, in operators that every operator set has."""

from __future__ import annotations

from .dialect_node import DialectNode, Operand


def chosen(node: DialectNode, x: str, threshold: Operand, hi: Operand, lo: Operand, part: str) -> str:
    """``hi`` where ``x >= threshold``, otherwise ``lo``.

    Operator set 12 brought ``GreaterOrEqual``. Before it, ``lo`` is taken where x is less; a NaN then gives ``hi``.
    """
    if node.opset >= 12:
        return node.emit("Where", node.emit("GreaterOrEqual", x, threshold, part=f"{part}_reached"), hi, lo, part=part)
    return node.emit("Where", node.emit("Less", x, threshold, part=f"{part}_below"), lo, hi, part=part)
