"""Compare the values that kernels computed with the reference's values for the same inputs, layer by layer.

Where a value differs, rounding may be the reason. Bits near their threshold are excused; a layer that computes the same
integers and roundings as the reference gets no excuse. For all other differences the layer's nodes are evaluated in
float64 on the same inputs. The kernel is right if it is at least as close to that as onnxruntime.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np

from sbnn_tvm.passes.layers.forms import Form
from sbnn_tvm.passes.layers.kinds import BinaryLinearLayer, IntegerLinearLayer
from sbnn_tvm.passes.lowering.lower import Physical

from ..algebra.domain import codes
from ..execution.run_kernels import ComputedValue
from ..execution.runnable_model import RunnableModel
from ..execution.value_layout import decode, holds_rows
from .differences import differing, largest_difference, largest_value, mismatch, tolerance_of
from .reference import Float64Error, Reference
from .result import LayerComparison
from .thresholds import Compared, compared, rounding_unit

_SMALL_FACTOR = 2
"""A kernel's rounding error may be this many times that of onnxruntime."""
_MEDIANS = 8
"""And this many times the median of onnxruntime's errors that are not 0: single errors may be small by luck, and those
of clipped values are 0."""

_EXACT_ULPS = 4
"""The largest difference of floats from a layer that computes the same integers and roundings as the reference, in
units in the last place of the largest. It is far below one step of an integer."""

_MOVES = ("Flatten", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")

Values = Mapping[str, np.ndarray]


class StoredValues:
    """The values of a compiled model that kernels store and that have a counterpart in the ONNX model."""

    def __init__(self, module: RunnableModel, reference: Reference) -> None:
        self.module = module
        self.reference = reference
        self._trace = module.imported.trace

    def name(self, step: ComputedValue) -> str | None:
        """The name of a step's value in the ONNX model, if it has one."""
        return self._trace.get(step.physical.value) if step.physical is not None else None

    def decoded(self, step: ComputedValue) -> np.ndarray:
        """The value of a step as in ONNX: bits and codes become the floats that they stand for."""
        assert step.physical is not None
        array = decode(step.array, step.physical, self.module.target.isa)
        return step.physical.bits_domain.values[array] if _packed(step.physical) else array

    def known(self, values: Values) -> dict[str, np.ndarray]:
        """Those of the values of a run that kernels read: the model's inputs, stored values and constants."""
        stored = {self._trace.get(physical.value, "") for physical in self.module.lowered.physical.values()}
        names = stored | self.reference.graph.fixed | {spec.name for spec in self.module.imported.inputs}
        return {name: values[name] for name in names if name in values}

    @cached_property
    def exact(self) -> frozenset[str]:
        """Variables of layers that compute the same integers and roundings as the reference."""
        return frozenset(
            name
            for low in self.module.lowered.layers
            if isinstance(low.layer, BinaryLinearLayer | IntegerLinearLayer) and low.layer.exact
            for name in low.outputs
        )

    @cached_property
    def siblings(self) -> dict[str, tuple[str, ...]]:
        """By variable, the ONNX names of all values that its kernel computes."""
        return {
            name: tuple(self._trace[other] for other in low.outputs if other in self._trace)
            for low in self.module.lowered.layers
            for name in low.outputs
        }


def compare_layers(
    stored: StoredValues, steps: Iterable[ComputedValue], values: Values, known: Values, tolerance: float | None
) -> Iterator[LayerComparison]:
    """Compare the steps of a run with the reference.

    Args:
        stored: The model.
        steps: The kernels' values.
        values: onnxruntime's values, computed from the same inputs of each layer.
        known: These inputs.
        tolerance: Largest difference of floats, relative to the largest value; None for the default of their type.
    """
    seen: set[str] = set()
    for step in steps:
        name = stored.name(step)
        if name is None or step.physical is None or step.physical.value in seen:
            continue
        if name not in stored.reference.graph.producers or name not in values:
            continue
        seen.add(step.physical.value)
        yield _compare(stored, step.physical, step.array, name, values, known, tolerance)


def _compare(
    stored: StoredValues,
    physical: Physical,
    array: np.ndarray,
    name: str,
    values: Values,
    known: Values,
    tolerance: float | None,
) -> LayerComparison:
    module, graph = stored.module, stored.reference.graph
    node, value, bits = module.imported.nodes.get(physical.value, name), values[name], _packed(physical)
    got = decode(array, physical, module.target.isa)
    if not bits and value.dtype == np.float16 and got.dtype == np.float32:
        got = got.astype(np.float16)  # kernels keep float16 values in float32
    if not bits and holds_rows(got.shape, value.shape):
        got = got.reshape(value.shape)
    if wrong := mismatch(got, np.empty(value.shape, got.dtype) if bits else value):
        return LayerComparison(name, node, bits, np.inf, 0, max(got.size, 1), max(got.size, 1), note=wrong)
    integers = np.issubdtype(value.dtype, np.integer)
    if bits:
        expected, bound, relative = codes(physical.bits_domain, value), 0.0, 0.0
    else:
        expected, relative = value, largest_difference(got, value)[1]
        bound = tolerance_of(value.dtype, tolerance) * largest_value(value)
        bound = max(bound, _bound_of_mean(stored.reference, name, values))
        if physical.value in stored.exact and tolerance is None and not integers:
            bound = _EXACT_ULPS * float(np.finfo(value.dtype).eps) * largest_value(value)
    differ = differing(got, expected, bound)
    if not differ.any():
        return LayerComparison(name, node, bits, relative, 0, 0, got.size)
    nothing = np.zeros_like(differ)
    flipped = less_exact = as_inexact = nothing
    note = ""
    if not ((bits or integers) and physical.value in stored.exact):
        decision = compared(graph, name, {**values, **known})
        one_step = np.abs(got.astype(np.int64) - expected) <= 1 if bits or integers else ~nothing
        if decision is not None:
            flipped = differ & one_step & decision.near(differ.shape)
        rest = differ & ~flipped
        if rest.any():
            boundary = {n: v for n, v in known.items() if n not in stored.siblings.get(physical.value, (name,))}
            try:
                if bits or integers:
                    settled = _settle_codes(stored.reference, physical, name, got, decision, values, boundary)
                    less_exact, more = (rest & one_step & mask for mask in settled)
                    flipped = flipped | more & ~less_exact
                else:
                    allowed = bound + error_alone(stored.reference, name, values)
                    less_exact, as_inexact = (
                        rest & mask for mask in settle_floats(stored.reference, name, got, value, allowed, boundary)
                    )
                    as_inexact = as_inexact & ~less_exact
            except Float64Error as error:
                note = str(error)
    wrong_mask = differ & ~flipped & ~less_exact & ~as_inexact
    counts = (int(mask.sum()) for mask in (flipped, wrong_mask, less_exact, as_inexact))
    flips, wrongs, less, as_much = counts
    return LayerComparison(name, node, bits, relative, flips, wrongs, got.size, less, as_much, note if wrongs else "")


def settle_floats(
    reference: Reference, name: str, got: np.ndarray, value: np.ndarray, bound: float, known: Values
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the floats where onnxruntime is the less exact side, and where it is about as inexact.

    Args:
        reference: The model.
        name: The value.
        got: The library's value.
        value: onnxruntime's value.
        bound: The largest difference that is accepted.
        known: The values that both were computed from.

    Raises:
        Float64Error: If the value cannot be computed in float64.
    """
    exact = reference.in_float64(known, [name])[name]
    if exact.shape != value.shape or exact.dtype != np.float64:
        raise Float64Error(f"onnx's reference implementation gives '{name}' another shape or type")
    with np.errstate(invalid="ignore"):
        error = np.abs(value.astype(np.float64) - exact)
    error = np.where(np.isfinite(error), error, 0.0)
    typical = float(np.median(error[error > 0])) if error.any() else 0.0
    less_exact = ~differing(got.astype(np.float64), exact, np.maximum(bound, error))
    return less_exact, ~differing(got.astype(np.float64), exact, np.maximum(_SMALL_FACTOR * error, _MEDIANS * typical))


def error_alone(reference: Reference, name: str, values: Values) -> float:
    """The largest error that onnxruntime makes in the one operator that computes a value from what it read itself.

    The operators that only move values (``Reshape``, ``Transpose``, ...) are passed on the way to it.

    Raises:
        Float64Error: If the operator cannot be computed in float64.
    """
    node = reference.graph.producers.get(name)
    while node is not None and node.op_type in _MOVES:
        name, node = node.input[0], reference.graph.producers.get(node.input[0])
    if node is None or name not in values:
        return 0.0
    exact = reference.in_float64({read: values[read] for read in node.input if read in values}, [name])[name]
    return largest_value(values[name] - exact) if exact.shape == values[name].shape else 0.0


def _settle_codes(
    reference: Reference,
    physical: Physical,
    name: str,
    got: np.ndarray,
    decision: Compared | None,
    values: Values,
    known: Values,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of the codes that are right in float64, and of those that onnxruntime's own error could flip."""
    sources = [source for source in (decision.sources if decision else ()) if source not in known]
    exact = reference.in_float64(known, [name, *sources])
    right = got == (codes(physical.bits_domain, exact[name]) if _packed(physical) else exact[name])
    ideal = compared(reference.graph, name, {**values, **known, **exact})
    if decision is None or ideal is None or rounding_unit(decision.dtype) == 0:
        return right, np.zeros_like(right)
    with np.errstate(invalid="ignore", divide="ignore"):
        moved = (decision.value - decision.threshold) - (ideal.value - ideal.threshold)
        units = np.abs(moved) / decision.scale
    largest = largest_value(units)
    return right, ideal.within(_SMALL_FACTOR * largest * decision.scale, right.shape)


def _bound_of_mean(reference: Reference, name: str, values: Values) -> float:
    """The rounding bound of a mean, from the largest of its terms; 0 for other values. The mean may be far smaller."""
    node = reference.graph.producers[name]
    means = ("ReduceMean", "GlobalAveragePool", "AveragePool")
    terms = values.get(node.input[0]) if node.op_type in means else None
    return 0.0 if terms is None else rounding_unit(terms.dtype) * largest_value(terms)


def _packed(physical: Physical) -> bool:
    return physical.form in (Form.BITS, Form.PLANES)
