"""The values of a model's inputs where one of its decisions changes: thresholds of comparisons, ties of roundings.

Only decisions right after an input count: between them are steps that can be undone, such as a scale or a batch norm.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx

from ..runtime.metadata import TensorSpec
from .model_graph import ModelGraph

_COMPARISONS = ("Binarize", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal")
_KEEP = ("Identity", "Cast", "Relu", "LeakyRelu", "Clip", "Max", "Min")
"""Steps that leave the values near most thresholds as they are."""


def decision_points(graph: ModelGraph, specs: Sequence[TensorSpec]) -> dict[str, list[np.ndarray]]:
    """By input, arrays of float64 values at which a decision changes.

    Each array broadcasts to the input's shape and one more axis, which has alternatives.
    """
    shapes = {spec.name: spec.shape for spec in specs if spec.dtype != "bool"}
    found: dict[str, list[np.ndarray]] = {}
    for node in graph.model.graph.node:
        for side, points in _decisions(graph, node):
            name, points = _undo(graph, side, points)
            if name in shapes and np.isfinite(points).all() and _fits(points, shapes[name]):
                found.setdefault(name, []).append(points)
    return found


def _decisions(graph: ModelGraph, node: onnx.NodeProto) -> list[tuple[str, np.ndarray]]:
    """The values that a node decides on, and where it decides."""
    operands = list(node.input)
    if node.op_type in _COMPARISONS and len(operands) == 2:
        pairs = [(operands[0], operands[1]), (operands[1], operands[0])]
        known = ((side, graph.value(other, {})) for side, other in pairs)
        return [(side, constant.astype(np.float64)[..., None]) for side, constant in known if constant is not None]
    if node.op_type == "Quantize" and (thresholds := graph.value(operands[1], {})) is not None:
        return [(operands[0], thresholds.astype(np.float64))]
    if node.op_type == "Sign":
        return [(operands[0], np.zeros(1))]
    if node.op_type == "Round":
        return [(operands[0], np.arange(-4, 4) + 0.5)]
    if node.op_type in ("Floor", "Ceil"):
        return [(operands[0], np.arange(-4.0, 5.0))]
    return []


def _undo(graph: ModelGraph, name: str, points: np.ndarray) -> tuple[str, np.ndarray]:
    """Follow a value back to the input that it comes from, and undo on ``points`` what was done to it."""
    while (node := graph.producers.get(name)) is not None:
        variables = graph.variables(node)
        if len(variables) != 1:
            break
        constants = [graph.value(other, {}) for other in node.input if other and other != variables[0]]
        if any(constant is None for constant in constants):
            break
        numbers = [np.asarray(constant, np.float64) for constant in constants]
        undone = _undo_step(node, node.input[0] == variables[0], numbers, points)
        if undone is None:
            break
        name, points = variables[0], undone
    return name, points


def _undo_step(
    node: onnx.NodeProto, first: bool, constants: Sequence[np.ndarray], points: np.ndarray
) -> np.ndarray | None:
    if node.op_type in _KEEP:
        return points
    if node.op_type == "Neg":
        return -points
    if node.op_type == "BatchNormalization":
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        scale, bias, mean, variance = (constant[:, None, None, None] for constant in constants)
        with np.errstate(all="ignore"):
            return (points - bias) * np.sqrt(variance + epsilon) / scale + mean
    if len(constants) != 1:
        return None
    constant = constants[0][..., None]
    with np.errstate(all="ignore"):
        if node.op_type == "Add":
            return points - constant
        if node.op_type == "Sub":
            return points + constant if first else constant - points
        if node.op_type == "Mul":
            return points / constant
        if node.op_type == "Div":
            return points * constant if first else constant / points
    return None


def _fits(points: np.ndarray, shape: tuple[int, ...]) -> bool:
    try:
        return np.broadcast_shapes(points.shape[:-1], shape) == shape
    except ValueError:
        return False
