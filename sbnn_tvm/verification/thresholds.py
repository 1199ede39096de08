"""The thresholds of a model: which value was compared with what, and which bits rounding may have flipped.

A bit is a comparison of a value with a threshold. Rounding flips it only if the value is near the threshold. How near
depends on the largest number that was rounded on the way to the value, times the factors that followed: a batch norm
after a convolution multiplies the convolution's rounding error. A clip between them hides how large the values were,
and how far from the threshold: both are measured as if there were no clip.
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
_ROUNDINGS = ("Round", "Floor", "Ceil", "QuantizeLinear")
_CLIPS = ("Clip", "Relu", "Max", "Min")
_STEPS = ("Cast", "Identity", "Neg", "Add", "Sub", "Mul", "Div", "BatchNormalization", *_CLIPS)
"""Elementwise operators with constants that may be before or after a comparison or a rounding."""


@dataclass(frozen=True, eq=False)
class Compared:
    """The operands of the comparison that made a value of a few bits, or of a rounding.

    Attributes:
        sources: Names of all values that ``value`` and ``threshold`` come from.
        dtype: The type of the compared value.
        value: What was compared, float64, and as if it had not been clipped; if there are several thresholds, with an
            additional last axis.
        threshold: The threshold of every element, or the nearest of several, float64.
        scale: The largest of the numbers whose rounding can flip bits, in the unit of ``value``.
    """

    sources: tuple[str, ...]
    dtype: np.dtype
    value: np.ndarray
    threshold: np.ndarray
    scale: np.ndarray

    @property
    def bound(self) -> np.ndarray:
        """The rounding bound of each element."""
        finite = np.where(np.isfinite(self.threshold), np.abs(self.threshold), 0)
        return rounding_unit(self.dtype) * np.maximum(self.scale, finite)

    def near(self, shape: tuple[int, ...]) -> np.ndarray:
        """Mask of the elements within the rounding bound of their threshold, or of one of several."""
        return self.within(self.bound, shape)

    def within(self, bound: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """Mask of the elements whose distance from a threshold is at most ``bound``."""
        with np.errstate(invalid="ignore"):
            near = np.abs(self.value - self.threshold) <= bound
        return np.broadcast_to(near.any(axis=-1) if near.ndim > len(shape) else near, shape)


def rounding_unit(dtype: np.dtype) -> float:
    """The rounding bound of values of a type, relative to the largest number that was rounded; 0 for integers."""
    if dtype.name not in ROUNDING_ULPS:
        return 0.0
    return ROUNDING_ULPS[dtype.name] * float(np.finfo(dtype).eps)


def compared(graph: ModelGraph, name: str, values: Mapping[str, np.ndarray]) -> Compared | None:
    """The operands of the comparison or rounding that made a value, if the value comes straight from one.

    Args:
        graph: The model.
        name: The value.
        values: All values of a run.
    """
    node = _decider(graph, name, values)
    if node is None:
        return None
    operand = _operand(graph, node.input[0], values)
    if operand is None:
        return None
    if _is_rounding(node, values):
        step = _quantisation_step(graph, node, values)
        rounded = np.asarray(values[node.input[0]], np.float64) / step
        with np.errstate(invalid="ignore"):
            ties = np.floor(rounded) + 0.5 if node.op_type in ("Round", "QuantizeLinear") else np.rint(rounded)
        return Compared(operand.sources, operand.dtype, operand.value, ties * step, operand.scale)
    if node.op_type == "Sign":
        return Compared(operand.sources, operand.dtype, operand.value, np.zeros(()), operand.scale)
    constant = graph.value(node.input[1], values)
    if constant is None:
        return None
    other = _operand(graph, node.input[1], values) if node.input[1] not in graph.fixed else None
    threshold = constant.astype(np.float64)
    if node.op_type == "Quantize":
        scale = operand.scale[..., None] if operand.scale.ndim else operand.scale
        return Compared(operand.sources, operand.dtype, operand.value[..., None], threshold, scale)
    if other is None:
        return Compared(operand.sources, operand.dtype, operand.value, threshold, operand.scale)
    sources, scale = operand.sources + other.sources, np.maximum(operand.scale, other.scale)
    return Compared(sources, operand.dtype, operand.value, other.value, scale)


def _quantisation_step(graph: ModelGraph, node: onnx.NodeProto, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """What a rounding rounds to multiples of: the scale of QuantizeLinear, as it broadcasts to the value; or 1."""
    scale = graph.value(node.input[1], values) if node.op_type == "QuantizeLinear" else None
    if scale is None:
        return np.ones(())
    axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
    rank = values[node.input[0]].ndim
    if scale.ndim == 1 and rank > 1:
        scale = scale.reshape(-1, *[1] * (rank - 1 - axis % rank))
    return np.asarray(scale, np.float64)


def is_decided(graph: ModelGraph, name: str, values: Mapping[str, np.ndarray]) -> bool:
    """Whether a value comes straight from a comparison or rounding, or is no float at all."""
    return not np.issubdtype(values[name].dtype, np.floating) or _decider(graph, name, values) is not None


def _decider(graph: ModelGraph, name: str, values: Mapping[str, np.ndarray]) -> onnx.NodeProto | None:
    """The comparison or rounding that a value comes straight from."""
    node = graph.producers.get(name)
    while (
        node is not None and node.op_type in ("Where", "DequantizeLinear", *_STEPS) and not _is_rounding(node, values)
    ):
        chosen = node.input[0] if node.op_type == "Where" else _only_variable(graph, node)
        node = graph.producers.get(chosen) if chosen is not None else None
    if node is None or not (node.op_type in _COMPARISONS or _is_rounding(node, values)):
        return None
    return node


@dataclass(frozen=True, eq=False)
class _Operand:
    """A value and how it came about; the fields are those of ``Compared``."""

    sources: tuple[str, ...]
    dtype: np.dtype
    value: np.ndarray
    scale: np.ndarray


def _operand(graph: ModelGraph, name: str, values: Mapping[str, np.ndarray]) -> _Operand | None:
    """Walk back from a value through steps with constants: ``value = factor * source + shift``, were there no clips."""
    value = graph.value(name, values)
    if value is None or value.dtype == bool:
        return None
    sources, clipped = [name], False
    factor, shift, scale = np.ones(()), np.zeros(()), np.asarray(largest_value(value))
    node = graph.producers.get(name)
    while node is not None and node.op_type in _STEPS and not _is_rounding(node, values):
        source = _only_variable(graph, node)
        if source is None or source not in values or values[source].shape != value.shape:
            break
        step = _step(graph, node, source, values)
        if step is None or values[source].dtype == bool:
            break
        shift, factor = factor * step[1] + shift, factor * step[0]
        scale = np.maximum(scale, np.abs(factor) * np.maximum(largest_value(values[source]), step[2]))
        clipped = clipped or node.op_type in _CLIPS
        sources.append(source)
        node = graph.producers.get(source)
    found = value.astype(np.float64)
    if clipped:
        with np.errstate(invalid="ignore"):
            free = factor * values[sources[-1]].astype(np.float64) + shift
            same = np.abs(free - found) <= rounding_unit(value.dtype) * scale
        found = np.where(same, found, free)
    return _Operand(tuple(sources), value.dtype, found, scale)


_Step = tuple[np.ndarray, np.ndarray, np.ndarray]


def _step(graph: ModelGraph, node: onnx.NodeProto, source: str, values: Mapping[str, np.ndarray]) -> _Step | None:
    """Factor and shift of a step, and the largest other number that it rounds, in the unit of its source."""
    one, zero = np.ones(()), np.zeros(())
    if node.op_type in ("Cast", "Identity", *_CLIPS):
        return one, zero, zero
    if node.op_type == "Neg":
        return -one, zero, zero
    known = [graph.value(name, values) for name in node.input if name and name != source]
    numbers = [np.asarray(constant, np.float64) for constant in known if constant is not None]
    if len(numbers) != len(known):
        return None
    if node.op_type == "BatchNormalization":
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        shape = (-1, *[1] * (values[source].ndim - 2))
        scale, bias, mean, variance = (number.reshape(shape) for number in numbers)
        factor = scale / np.sqrt(variance + epsilon)
        return factor, bias - mean * factor, np.abs(mean)
    if len(numbers) != 1:
        return None
    first, (number,) = node.input[0] == source, numbers
    if node.op_type == "Add":
        return one, number, zero
    if node.op_type == "Sub":
        return (one, -number, zero) if first else (-one, number, zero)
    if node.op_type == "Mul":
        return number, zero, zero
    if not first or not np.all(number):
        return None
    return 1 / number, zero, zero


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
