"""The rounding modes of QONNX, in standard operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .dialect_node import DialectNode

_HALF = 0.5


def rounded(node: DialectNode, x: str, mode: str, dtype: np.dtype) -> str:
    """Rounds to whole numbers.

    Args:
        node: The node that rounds.
        x: The name of a tensor.
        mode: The rounding mode by its name in QONNX or Brevitas, in any case.
        dtype: The element type of ``x``.

    Returns:
        The name of the rounded tensor.

    Raises:
        ModelError: If the mode is not known.
    """
    write = _MODES.get(mode.upper())
    if write is None:
        known = ", ".join(_MODES)
        raise node.error(f"has the rounding mode {mode!r}, which is not known; known are {known}: export it with one")
    return write(node, x, dtype)


def _half_even(node: DialectNode, x: str, dtype: np.dtype) -> str:
    """``Round``; before operator set 11, which brought it, a floor that rises where the rest is large or a half."""
    if node.opset >= 11:
        return node.emit("Round", x, part="rounded")
    half, one, zero = (np.array(value, dtype) for value in (_HALF, 1, 0))
    floor = node.emit("Floor", x, part="floor")
    rest = node.emit("Sub", x, floor, part="rest")
    halved = node.emit("Mul", floor, half, part="halved")
    odd = node.emit("Sub", halved, node.emit("Floor", halved, part="halved_floor"), part="odd")  # 0 or a half
    above = node.emit("Greater", rest, half, part="above_half")
    is_half = node.emit("Not", node.emit("Less", rest, half, part="below_half"), part="not_below_half")
    to_even = node.emit("And", is_half, node.emit("Greater", odd, zero, part="is_odd"), part="rises_to_even")
    rise = node.emit("Where", node.emit("Or", above, to_even, part="rises"), one, zero, part="rise")
    return node.emit("Add", floor, rise, part="rounded")


def _floor(node: DialectNode, x: str, dtype: np.dtype) -> str:
    return node.emit("Floor", x, part="rounded")


def _ceil(node: DialectNode, x: str, dtype: np.dtype) -> str:
    return node.emit("Ceil", x, part="rounded")


def _on_magnitude(write: Callable[[DialectNode, str, np.dtype], str]) -> Callable[[DialectNode, str, np.dtype], str]:
    """A mode that rounds the magnitude, and keeps the sign."""

    def on_magnitude(node: DialectNode, x: str, dtype: np.dtype) -> str:
        magnitude = write(node, node.emit("Abs", x, part="magnitude"), dtype)
        return node.emit("Mul", node.emit("Sign", x, part="sign"), magnitude, part="signed")

    return on_magnitude


def _half_up(node: DialectNode, x: str, dtype: np.dtype) -> str:
    return _floor(node, node.emit("Add", x, np.array(_HALF, dtype), part="shifted"), dtype)


def _half_down(node: DialectNode, x: str, dtype: np.dtype) -> str:
    return _ceil(node, node.emit("Sub", x, np.array(_HALF, dtype), part="shifted"), dtype)


_MODES: dict[str, Callable[[DialectNode, str, np.dtype], str]] = {
    "ROUND": _half_even,
    "HALF_EVEN": _half_even,
    "CEIL": _ceil,
    "FLOOR": _floor,
    "UP": _on_magnitude(_ceil),
    "DOWN": _on_magnitude(_floor),
    "ROUND_TO_ZERO": _on_magnitude(_floor),
    "HALF_UP": _on_magnitude(_half_up),
    "HALF_DOWN": _on_magnitude(_half_down),
}
"""UP rounds away from zero, DOWN towards it; HALF_UP and HALF_DOWN do that with halves alone."""
