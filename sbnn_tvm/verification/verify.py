"""Compare a compiled model with onnxruntime, output by output and layer by layer.

A threshold amplifies rounding: one rounding before a binariser can flip a bit, and then all later values differ. So
each layer also runs on the reference's inputs, where a flip in one layer cannot affect another. A bit that differs
is accepted only if the reference's value is within the rounding bound of its threshold. Such flips are counted. Outputs
may differ only if, when the kernels run one after the other, the first bits that differ are such flips.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx
from onnx import numpy_helper

from sbnn_tvm.passes.layers.forms import Form
from sbnn_tvm.passes.layers.kinds import BinaryLinearLayer
from sbnn_tvm.passes.lowering.lower import Physical

from ..algebra.domain import codes
from ..errors import InputError, ModelError, VerificationError
from ..execution.run_kernels import ComputedValue, outputs_of, run_kernels
from ..execution.runnable_model import RunnableModel
from ..execution.value_layout import decode, encode
from ..extras import needed_by
from ..printable import printable

ROUNDING_ULPS = 256
"""The rounding bound: a float32 sum may differ by this many units in the last place of its largest value."""

_COMPARISONS = ("Quantize", "Binarize", "Sign", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
_STEPWISE = ("Cast", "Neg", "Add", "Sub", "Mul", "Div", "Clip", "Relu", "Max", "Min")
"""Elementwise operators with constants that may be before or after a comparison or a rounding."""


@dataclass(frozen=True)
class OutputComparison:
    """The comparison of one output over all inputs.

    Attributes:
        name: Name of the output.
        max_abs: Largest absolute difference.
        max_rel: Largest difference, relative to the largest value of that output for that input.
        within: Whether ``max_rel`` is within the tolerance.
    """

    name: str
    max_abs: float
    max_rel: float
    within: bool


@dataclass(frozen=True)
class LayerComparison:
    """The comparison of one value inside the model, computed from the reference's inputs.

    Attributes:
        name: The ONNX value.
        node: The ONNX node that computes it.
        bits: Whether it is two-valued.
        max_rel: Largest difference of floats, relative to the largest value.
        flipped: Number of bits that differ where the reference's value is within the rounding bound of its threshold.
            Always 0 for layers that compute the same integers and roundings as the reference.
        wrong: Number of other bits that differ, or of floats outside the tolerance.
        elements: Number of compared elements.
    """

    name: str
    node: str
    bits: bool
    max_rel: float
    flipped: int
    wrong: int
    elements: int

    def and_also(self, other: LayerComparison) -> LayerComparison:
        """Combine the comparisons of the same value over different inputs."""
        return replace(
            self,
            max_rel=max(self.max_rel, other.max_rel),
            flipped=self.flipped + other.flipped,
            wrong=self.wrong + other.wrong,
            elements=self.elements + other.elements,
        )


@dataclass(frozen=True)
class Verification:
    """The result of ``verify``.

    Attributes:
        model: Name of the model.
        target: Name of the target.
        method: How the model ran.
        samples: Number of inputs.
        tolerance: Tolerance of float outputs.
        outputs: Comparisons of the outputs, end to end.
        layers: Comparisons of the layers on the reference's inputs, in order. They cover the first input, and inputs
            whose outputs differ.
        after_flips: Number of inputs whose outputs differ only after bits flipped by rounding.
        unexplained: Number of inputs whose outputs differ for another reason.
    """

    model: str
    target: str
    method: str
    samples: int
    tolerance: float
    outputs: tuple[OutputComparison, ...]
    layers: tuple[LayerComparison, ...]
    after_flips: int = 0
    unexplained: int = 0

    @property
    def flipped(self) -> int:
        """Number of bits that differ within the rounding bound."""
        return sum(layer.flipped for layer in self.layers)

    @property
    def first_difference(self) -> LayerComparison | None:
        """The first layer that is wrong when it runs on the reference's inputs."""
        return next((layer for layer in self.layers if layer.wrong), None)

    @property
    def passed(self) -> bool:
        """Whether every layer agrees, and the outputs agree or differ only after bits flipped by rounding."""
        return self.first_difference is None and not self.unexplained

    def check(self) -> None:
        """Raise VerificationError unless ``passed``."""
        if not self.passed:
            raise VerificationError(str(self))

    def __str__(self) -> str:
        worst = max(self.outputs, key=lambda out: out.max_rel)
        head = f"{self.model} for {self.target}, {self.method}, {self.samples} input{'s' * (self.samples != 1)}"
        outputs = f"largest difference of '{worst.name}' {worst.max_abs:.3g} absolute, {worst.max_rel:.3g} relative"
        flips = f"{self.flipped} bits flipped within the rounding bound of a threshold"
        if self.passed:
            which = "all outputs"
            if self.after_flips:
                which += f" (for {self.after_flips} of the inputs except values after bits flipped by rounding)"
            text = f"{head}: agrees with onnxruntime in {len(self.layers)} layers and {which}; {outputs}; {flips}"
            return printable(text)
        first = self.first_difference
        if first is None:
            where = "every layer alone agrees, so rounding adds up over the layers: allow a larger tolerance"
        else:
            what = "bits" if first.bits else f"values (relative difference {first.max_rel:.3g})"
            where = f"the first layer that differs is '{first.node}' (value '{first.name}'): "
            where += f"{first.wrong} of {first.elements} {what}"
        return printable(f"{head}: differs from onnxruntime: {outputs}; {flips}; {where}")


def verify(module: RunnableModel, batches: Iterable[tuple[np.ndarray, ...]], tolerance: float = 1e-4) -> Verification:
    """Run a compiled model and onnxruntime on the same inputs.

    Args:
        module: The compiled model.
        batches: Inputs, one tuple per run.
        tolerance: Largest difference of floats, relative to the largest value.
    """
    reference = _Reference(module.imported.model)
    names = [spec.name for spec in module.imported.outputs]
    native = module.target.native
    max_abs, max_rel = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0.0)
    layers: dict[str, LayerComparison] = {}
    samples = after_flips = unexplained = 0
    for arrays in batches:
        feeds = dict(zip((spec.name for spec in module.imported.inputs), arrays, strict=True))
        expected = reference.run(feeds, names)
        agrees = True
        if native:
            result = module.library.run(*arrays)
            outputs = result if isinstance(result, tuple) else (result,)
        else:
            outputs = module.emulate(*arrays)
        for name, output in zip(names, outputs, strict=True):
            difference, relative = _difference(output, expected[name])
            max_abs[name], max_rel[name] = max(max_abs[name], difference), max(max_rel[name], relative)
            agrees = agrees and relative <= tolerance
        if not samples or not agrees:
            values = reference.run(feeds)
            for layer in _compare_layers(module, reference, values, arrays, tolerance):
                layers[layer.name] = layers[layer.name].and_also(layer) if layer.name in layers else layer
            if not agrees:
                explained = _only_after_flips(module, reference, values, arrays, outputs)
                after_flips, unexplained = after_flips + explained, unexplained + (not explained)
        samples += 1
    compared = tuple(OutputComparison(n, max_abs[n], max_rel[n], max_rel[n] <= tolerance) for n in names)
    method = "run on this machine" if native else "kernels run in an emulator (unicorn)"
    found = tuple(layers.values())
    return Verification(
        module.report.model, module.target.name, method, samples, tolerance, compared, found, after_flips, unexplained
    )


def _difference(got: np.ndarray, expected: np.ndarray) -> tuple[float, float]:
    """Largest absolute difference, and relative to the largest value; a NaN on only one side counts as infinite."""
    if got.size == 0:
        return 0.0, 0.0
    a, b = got.astype(np.float64), expected.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(a - b))
    gap = np.where(np.isnan(gap), np.inf, gap)
    largest = float(gap.max())
    finite = np.abs(b[np.isfinite(b)])
    scale = float(finite.max()) if finite.size else 0.0
    return largest, largest / scale if scale else (0.0 if largest == 0 else np.inf)


@dataclass(frozen=True, eq=False)
class _Compared:
    """The operands of the comparison that made a value of a few bits.

    Attributes:
        value: The compared value; if there are several thresholds, with an additional last axis.
        threshold: The threshold of every value, or the nearest of several.
        largest: The largest of the numbers whose rounding can flip bits, in the unit of ``value``.
    """

    value: np.ndarray
    threshold: np.ndarray
    largest: float


class _Reference:
    """The model in onnxruntime, without graph optimisations, and with every value as an output."""

    def __init__(self, model: onnx.ModelProto) -> None:
        with needed_by("verify"):
            import onnxruntime

        self.model = onnx.ModelProto()
        self.model.CopyFrom(model)
        graph = self.model.graph
        self.producers = {output: node for node in graph.node for output in node.output}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = node.attribute[0].t
        listed = {output.name for output in graph.output}
        values = [name for node in graph.node for name in node.output if name and name not in listed]
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(
                self.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's errors have no common base but Exception
            raise ModelError(f"onnxruntime, the reference, cannot load this model: {_first_line(error)}") from None

    def run(self, inputs: dict[str, np.ndarray], names: list[str] | None = None) -> dict[str, np.ndarray]:
        """Compute the named values, or all of them."""
        names = names or [output.name for output in self.session.get_outputs()]
        try:
            values = self.session.run(names, inputs)
        except Exception as error:
            raise InputError(f"onnxruntime, the reference, fails on these inputs: {_first_line(error)}") from None
        return {**inputs, **dict(zip(names, values, strict=True))}

    def compared(self, name: str, values: dict[str, np.ndarray]) -> _Compared | None:
        """The operands of the comparison that made a value, if it comes straight from a binariser or quantiser."""
        node = self.producers.get(name)
        while node is not None and node.op_type in ("Where", *_STEPWISE):
            chosen = node.input[0] if node.op_type == "Where" else self._only_variable(node)
            node = self.producers.get(chosen) if chosen is not None else None
        if node is not None and node.op_type == "Round":
            return self._rounded(node.input[0], values)
        if node is None or node.op_type not in _COMPARISONS:
            return None
        sides = [self._value(side, values) for side in node.input]
        if len(sides) == 1:
            sides.append(np.zeros((), np.float32))
        first, second = sides
        if first is None or second is None:
            return None
        return _Compared(first[..., None] if node.op_type == "Quantize" else first, second, _largest(first))

    def _rounded(self, name: str, values: dict[str, np.ndarray]) -> _Compared | None:
        """The operand of a rounding, and its nearest tie. ``largest`` covers the values before clips, which hide it."""
        value = values.get(name)
        if value is None:
            return None
        largest, unit, node = _largest(value), 1.0, self.producers.get(name)
        while node is not None and node.op_type in _STEPWISE:
            source = self._only_variable(node)
            if source not in values:
                break
            if node.op_type in ("Mul", "Div"):
                factor = max(_largest(numpy_helper.to_array(self.constants[n])) for n in node.input if n != source)
                if not factor:
                    break
                unit = unit * factor if node.op_type == "Mul" else unit / factor
            largest, node = max(largest, unit * _largest(values[source])), self.producers.get(source)
        return _Compared(value, np.floor(value) + np.float32(0.5), largest)

    def _only_variable(self, node: onnx.NodeProto) -> str | None:
        """The only input that is not a constant, or None if there are several."""
        variables = [name for name in node.input if name and name not in self.constants]
        return variables[0] if len(variables) == 1 else None

    def _value(self, name: str, values: dict[str, np.ndarray]) -> np.ndarray | None:
        if name in values:
            return values[name]
        return numpy_helper.to_array(self.constants[name]) if name in self.constants else None


def _compare_layers(
    module: RunnableModel,
    reference: _Reference,
    values: dict[str, np.ndarray],
    arrays: tuple[np.ndarray, ...],
    tolerance: float,
) -> Iterable[LayerComparison]:
    trace, isa = module.imported.trace, module.target.isa

    def expected(step: ComputedValue) -> np.ndarray | None:
        return _expected(step, values, trace)

    def of_reference(step: ComputedValue) -> np.ndarray | None:
        value = expected(step)
        return None if value is None or step.physical is None else encode(value, step.physical, isa)

    runner = module.kernel_runner
    exact = {
        name
        for low in module.lowered.layers
        if isinstance(low.layer, BinaryLinearLayer) and low.layer.exact
        for name in low.outputs
    }
    seen: set[str] = set()
    for step in run_kernels(module.lowered, runner, (*arrays, *module.constants), of_reference):
        value = expected(step)
        if value is None or step.physical is None or step.physical.value in seen:
            continue
        name = trace[step.physical.value]
        if name not in reference.producers:
            continue
        seen.add(step.physical.value)
        node = module.imported.nodes.get(step.physical.value, name)
        got = decode(step.array, step.physical, isa)
        if step.physical.form in (Form.BITS, Form.PLANES):
            differ = got != _bits(value, step.physical)
            excused = np.zeros_like(differ)
            if step.physical.value not in exact:
                excused = differ & _near_threshold(reference.compared(name, values), differ.shape)
            wrong = int((differ & ~excused).sum())
            yield LayerComparison(name, node, True, 0.0, int(excused.sum()), wrong, got.size)
        else:
            _, relative = _difference(got, value)
            bound = tolerance * np.abs(value[np.isfinite(value)]).max(initial=0.0)
            bound = max(bound, _bound_of_mean(reference, name, values))
            wrong = int((~np.isclose(got, value, rtol=0, atol=bound, equal_nan=True)).sum())
            yield LayerComparison(name, node, False, relative, 0, wrong, got.size)


def _only_after_flips(
    module: RunnableModel,
    reference: _Reference,
    values: dict[str, np.ndarray],
    arrays: tuple[np.ndarray, ...],
    outputs: Sequence[np.ndarray],
) -> bool:
    """Whether the kernels alone give the same outputs, and the first bits that differ are flipped by rounding."""
    steps = list(run_kernels(module.lowered, module.kernel_runner, (*arrays, *module.constants)))
    if not all(map(partial(np.array_equal, equal_nan=True), outputs_of(iter(steps)), outputs)):
        return False
    for step in steps:
        value = _expected(step, values, module.imported.trace)
        if value is None or step.physical is None:
            continue
        compared = reference.compared(module.imported.trace[step.physical.value], values)
        got = decode(step.array, step.physical, module.target.isa)
        if step.physical.form in (Form.BITS, Form.PLANES):
            value = _bits(value, step.physical)
        elif compared is None:
            continue
        differ = got != value
        if differ.any():
            return not (differ & ~_near_threshold(compared, differ.shape)).any()
    return False


def _expected(step: ComputedValue, values: Mapping[str, np.ndarray], trace: Mapping[str, str]) -> np.ndarray | None:
    """The reference's value for a step, if it has the same shape."""
    value = values.get(trace.get(step.physical.value, "")) if step.physical is not None else None
    return value if value is not None and step.physical and value.shape == step.physical.extent else None


def _bits(value: np.ndarray, physical: Physical) -> np.ndarray:
    return codes(physical.bits_domain, value)


def _bound_of_mean(reference: _Reference, name: str, values: Mapping[str, np.ndarray]) -> float:
    """The rounding bound of a mean, from the largest of its terms; 0 for other values. The mean may be far smaller."""
    node = reference.producers[name]
    terms = values.get(node.input[0]) if node.op_type == "ReduceMean" else None
    if terms is None:
        return 0.0
    return float(np.finfo(np.float32).eps * ROUNDING_ULPS * np.abs(terms[np.isfinite(terms)]).max(initial=0.0))


def _near_threshold(compared: _Compared | None, shape: tuple[int, ...]) -> np.ndarray:
    """Mask of the values within the rounding bound of their threshold, or of one of several along the last axis."""
    if compared is None:
        return np.zeros(shape, bool)
    value, threshold = compared.value, compared.threshold
    unit = np.finfo(np.float32).eps * ROUNDING_ULPS
    bound = unit * np.maximum(compared.largest, np.where(np.isfinite(threshold), np.abs(threshold), 0))
    near = np.abs(value - threshold) <= bound
    return np.broadcast_to(near.any(axis=-1) if near.ndim > len(shape) else near, shape)


def _largest(values: np.ndarray) -> float:
    return float(np.abs(values[np.isfinite(values)]).max(initial=0.0))


def _first_line(error: Exception) -> str:
    """The first line of onnxruntime's message, without its error code and source location."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.cc:\d+ ", "", line)
