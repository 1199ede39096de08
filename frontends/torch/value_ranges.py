"""Ranges of values in a recorded trace: what a decision by a value is for every input."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import fx

aten = torch.ops.aten


class Range(NamedTuple):
    """All values that are not NaN are from low to high."""

    low: float
    high: float


_ALL = Range(-math.inf, math.inf)
_SAME = {
    "alias", "all", "amax", "amin", "any", "clone", "contiguous", "detach", "expand", "flatten", "max", "max_pool2d",
    "max_pool2d_with_indices", "min", "permute", "reshape", "select", "slice", "squeeze", "t", "transpose",
    "unsqueeze", "view", "_unsafe_view",
}  # fmt: skip
_FIXED = {
    "hardsigmoid": Range(0, 1), "sigmoid": Range(0, 1), "sign": Range(-1, 1), "softmax": Range(0, 1),
    "_softmax": Range(0, 1), "tanh": Range(-1, 1),
}  # fmt: skip


class ValueRanges:
    """The ranges of the nodes of a trace, which are added one by one."""

    def __init__(self) -> None:
        self._ranges: dict[fx.Node, Range] = {}

    def add(self, node: fx.Node) -> None:
        """Take in the next node."""
        self._ranges[node] = self._range(node)

    def forget(self, nodes: Iterable[fx.Node]) -> None:
        """These nodes are read again after something was written to their memory."""
        for node in nodes:
            self._ranges.pop(node, None)

    def always(self, node: fx.Node, value: Any) -> bool:
        """Whether a node has this value for every input without NaN."""
        return self._of(node) == (float(value), float(value))

    def _of(self, value: Any) -> Range:
        if isinstance(value, bool | int | float):
            return Range(float(value), float(value))
        return self._ranges.get(value, _ALL) if isinstance(value, fx.Node) else _ALL

    def _range(self, node: fx.Node) -> Range:
        name = getattr(node.target, "_opname", getattr(node.target, "__name__", "")).removesuffix("_")
        if name == "getitem":
            return self._of(node.args[0]) if node.args[1] == 0 else _ALL  # the second result holds indices
        return self._result(name, self._of(node.args[0]) if node.args else _ALL, node)

    def _result(self, name: str, operand: Range, node: fx.Node) -> Range:
        low, high = operand
        if name in _SAME:
            return operand
        if name in _FIXED:
            return _FIXED[name]
        if name == "relu":
            return Range(max(low, 0.0), max(high, 0.0))
        if name == "abs":
            return Range(max(low, -high, 0.0), max(-low, high))
        if name in ("clamp", "hardtanh", "clamp_min", "clamp_max"):
            least, most = _limits(name, node)
            return Range(min(max(low, least), most), min(max(high, least), most))
        if name in ("gt", "ge", "lt", "le") and len(node.args) == 2:
            return _compared(name, operand, self._of(node.args[1]))
        return _ALL


def _limits(name: str, node: fx.Node) -> tuple[float, float]:
    given: list[Any] = [*node.args[1:], None, None]
    low, high = (None, given[0]) if name == "clamp_max" else given[:2]
    low, high = node.kwargs.get("min", low), node.kwargs.get("max", high)
    if name == "hardtanh":
        low, high = -1 if low is None else low, 1 if high is None else high
    return (
        float(low) if isinstance(low, int | float) else -math.inf,
        float(high) if isinstance(high, int | float) else math.inf,
    )


def _compared(name: str, one: Range, other: Range) -> Range:
    if name in ("lt", "le"):
        one, other, name = other, one, {"lt": "gt", "le": "ge"}[name]
    strict = name == "gt"
    if one.low > other.high or (not strict and one.low >= other.high):
        return Range(1.0, 1.0)
    if one.high < other.low or (strict and one.high <= other.low):
        return Range(0.0, 0.0)
    return Range(0.0, 1.0)
