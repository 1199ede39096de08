"""The thresholds of a model: which value was compared with what, and which bits rounding may have flipped.

A bit is a comparison of a value with a threshold. Rounding flips it only if the value is near the threshold. How near
depends on the largest number that was rounded on the way to the value, times the factors that followed: a batch norm
after a convolution multiplies the convolution's rounding error, and a clip after it hides how large the values were.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from .differences import largest_value
from .model_graph import ModelGraph

ROUNDING_ULPS = {"float16": 4, "float32": 256, "float64": 256}
"""The rounding bound: a value may differ by this many units in the last place of the largest number that was rounded
on the way to it. float16 is summed in float32, so that only single operations round to float16."""

_COMPARISONS = ("Quantize", "Binarize", "Sign", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_ROUNDINGS = ("Round", "Floor", "Ceil")
_STEPWISE = (
    *("Cast", "Identity", "Neg", "Abs", "Add", "Sub", "Mul", "Div", "Clip", "Relu", "LeakyRelu", "Max", "Min"),
    "BatchNormalization",
)
"""Elementwise operators with constants that may be before or after a comparison or a rounding."""


@dataclass(frozen=True, eq=False)
class Compared:
    """The operands of the comparison that made a value of a few bits, or of a rounding.

    Attributes:
        sides: Names of the compared value, and of the threshold if it has one.
        value: The elements of the compared value; if there are several thresholds, with an additional last axis.
        threshold: The threshold of every element, or the nearest of several.
        scale: The largest of the numbers whose rounding can flip bits, in the unit of ``value``.
    """

    sides: tuple[str, ...]
    value: np.ndarray
    threshold: np.ndarray
    scale: np.ndarray

    @property
    def bound(self) -> np.ndarray:
        """The rounding bound of each element."""
        dtype = self.value.dtype
        if dtype.name not in ROUNDING_ULPS:
            return np.zeros(())
        finite = np.where(np.isfinite(self.threshold), np.abs(self.threshold), 0)
        return rounding_unit(dtype) * np.maximum(self.scale, finite)

    def near(self, shape: tuple[int, ...]) -> np.ndarray:
        """Mask of the elements within the rounding bound of their threshold, or of one of several."""
        return self.within(self.bound, shape)

    def within(self, bound: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Mask of the elements whose distance from a threshold is at most ``bound``."""
        with np.errstate(invalid="ignore"):
            near = np.abs(self.value.astype(np.float64) - self.threshold) <= bound
        return np.broadcast_to(near.any(axis=-1) if near.ndim > len(shape) else near, shape)


def rounding_unit(dtype: np.dtype) -> float:
    """The rounding bound of values of a float type, relative to the largest number that was rounded."""
    return ROUNDING_ULPS[dtype.name] * float(np.finfo(dtype).eps)


def compared(graph: ModelGraph, name: str, values: Mapping[str, np.ndarray]) -> Compared | None:
    """The operands of the comparison or rounding that made a value, if the value comes straight from one.

    Args:
        graph: The model.
        name: The value.
        values: All values of a run.
    """
    node = graph.producers.get(name)
    while node is not None and not _is_rounding(node, values) and node.op_type in ("Where", *_STEPWISE):
        chosen = node.input[0] if node.op_type == "Where" else _only_variable(graph, node)
        node = graph.producers.get(chosen) if chosen is not None else None
    if node is None:
        return None
    if _is_rounding(node, values):
        value = graph.value(node.input[0], values)
        if value is None:
            return None
        with np.errstate(invalid="ignore"):
            ties = np.floor(value) + value.dtype.type(0.5) if node.op_type == "Round" else np.rint(value)
        return Compared((node.input[0],), value, ties, rounding_scale(graph, node.input[0], values))
    if node.op_type not in _COMPARISONS:
        return None
    sides = [graph.value(side, values) for side in node.input]
    if len(sides) == 1:
        sides.append(np.zeros((), sides[0].dtype if sides[0] is not None else np.float32))
    first, second = sides
    if first is None or second is None or first.dtype == bool:
        return None
    scale = rounding_scale(graph, node.input[0], values)
    if len(node.input) > 1 and node.input[1] not in graph.fixed:
        scale = np.maximum(scale, rounding_scale(graph, node.input[1], values))
    if node.op_type == "Quantize":
        first, scale = first[..., None], scale[..., None] if scale.ndim else scale
    return Compared(tuple(node.input), first, second, scale)


def rounding_scale(graph: ModelGraph, name: str, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """The largest number whose rounding a value may contain, in the unit of the value: a scalar, or one per channel.

    It is the largest of the value itself and of the values that it was computed from step by step, each times the
    factors of the steps after it.
    """
    scale = np.asarray(largest_value(values[name]))
    gain, node = np.ones(()), graph.producers.get(name)
    while node is not None and node.op_type in _STEPWISE:
        source = _only_variable(graph, node)
        if source is None or source not in values:
            break
        factor, shift = _gain(graph, node, source, values)
        scale = np.maximum(scale, gain * shift)
        gain = gain * factor
        scale = np.maximum(scale, gain * largest_value(values[source]))
        node = graph.producers.get(source)
    return scale


def _gain(
    graph: ModelGraph, node: onnx.NodeProto, source: str, values: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """The factor by which a step multiplies errors, and the largest of the other numbers that it rounds."""
    constants = [graph.value(name, values) for name in node.input if name and name != source]
    if node.op_type == "BatchNormalization" and all(constant is not None for constant in constants):
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        scale, _, mean, variance = (np.asarray(constant, np.float64) for constant in constants)
        factor = np.abs(scale / np.sqrt(variance + epsilon))
        shape = (-1, *[1] * (values[source].ndim - 2))
        return factor.reshape(shape), (factor * np.abs(mean)).reshape(shape)
    if node.op_type in ("Mul", "Div") and constants and constants[0] is not None:
        constant = np.abs(constants[0].astype(np.float64))
        if constant.ndim > values[source].ndim or (node.input[0] != source and node.op_type == "Div"):
            return np.ones(()), np.zeros(())
        with np.errstate(divide="ignore"):
            factor = constant if node.op_type == "Mul" else 1 / constant
        return np.where(np.isfinite(factor), factor, 1.0), np.zeros(())
    return np.ones(()), np.zeros(())


def _is_rounding(node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> bool:
    """Whether a node rounds floats to whole numbers."""
    if node.op_type in _ROUNDINGS:
        return True
    if node.op_type != "Cast" or not np.issubdtype(values.get(node.input[0], np.zeros(0, bool)).dtype, np.floating):
        return False
    kind = next(attribute.i for attribute in node.attribute if attribute.name == "to")
    return kind != TensorProto.BFLOAT16 and np.issubdtype(helper.tensor_dtype_to_np_dtype(kind), np.integer)


def _only_variable(graph: ModelGraph, node: onnx.NodeProto) -> str | None:
    """The only input that is not a constant, or None if there are several."""
    variables = graph.variables(node)
    return variables[0] if len(variables) == 1 else None
