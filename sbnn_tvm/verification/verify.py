"""Compare a compiled model with onnxruntime, output by output and layer by layer.

A threshold amplifies rounding: one rounding before a binariser can flip a bit, and then all later values differ. So
each layer also runs on the reference's inputs, where a flip in one layer cannot affect another (``layers.py``). Outputs
may differ only if rounding explains it (``explanation.py``): after bits that it flipped, or where float64 sums show
that onnxruntime is the less exact side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from ..execution.programs import how, why_not
from ..execution.run_kernels import ComputedValue, run_kernels
from ..execution.runnable_model import RunnableModel
from ..execution.value_layout import encode, holds_rows, shape_in_onnx
from .differences import largest_difference, mismatch, tolerance_of
from .explanation import explain
from .inputs import DrawnInputs, RandomInputs
from .layers import StoredValues, compare_layers
from .reference import Reference
from .result import LayerComparison, OutputComparison, Verification
from .signed_zeros import with_signed_zeros


def verify(
    module: RunnableModel, batches: Iterable[tuple[np.ndarray, ...]] | RandomInputs, tolerance: float | None = None
) -> Verification:
    """Run a compiled model and onnxruntime on the same inputs.

    Args:
        module: The compiled model.
        batches: Inputs, one tuple per run, or how to draw them.
        tolerance: Largest difference of floats, relative to the largest value; None for the default of their type.
    """
    allowed, approximated = with_signed_zeros(module)
    reference = Reference(allowed)
    stored = StoredValues(module, reference)
    names = [spec.name for spec in module.imported.outputs]
    outputs: dict[str, OutputComparison] = {}
    layers: dict[str, LayerComparison] = {}
    samples = after_flips = unexplained = 0
    reason = first_flip = ""

    def add(found: Sequence[LayerComparison]) -> None:
        for layer in found:
            layers[layer.name] = layers[layer.name].and_also(layer) if layer.name in layers else layer

    if isinstance(batches, RandomInputs):
        batches = replace(batches, denormals=module.target.machine != "arm")
        batches = batches.draw(reference, module.imported.inputs)
    for arrays in batches:
        feeds = dict(zip((spec.name for spec in module.imported.inputs), arrays, strict=True))
        expected = reference.run(feeds, names)
        got = dict(zip(names, _run(module, arrays), strict=True))
        compared = {name: _compare(name, got[name], expected[name], tolerance) for name in names}
        agrees = all(output.within for output in compared.values())
        if not samples or not agrees:
            values = reference.run(feeds)
            alone = tuple(_layers_alone(stored, values, arrays, tolerance))
            add(alone)
        if mismatches := [f"output '{name}' has {out.mismatch}" for name, out in compared.items() if out.mismatch]:
            unexplained += 1
            reason = reason or mismatches[0]
        elif not agrees and any(layer.wrong for layer in alone):
            unexplained += 1
        elif not agrees:
            found = explain(stored, values, arrays, got, tolerance)
            add(found.wrong)
            after_flips += bool(found.first_flip)
            first_flip = first_flip or found.first_flip
            unexplained += bool(found.reason)
            reason = reason or found.reason
            for name, count in found.less_exact.items():
                compared[name] = replace(compared[name], less_exact=count)
        for name, output in compared.items():
            outputs[name] = outputs[name].and_also(output) if name in outputs else output
        samples += 1
    return Verification(
        module.report.model,
        module.target.name,
        _method(module),
        samples,
        tolerance,
        tuple(outputs.values()),
        tuple(layers.values()),
        after_flips,
        first_flip,
        unexplained,
        reason,
        batches.note if isinstance(batches, DrawnInputs) else "",
        approximated,
    )


def _run(module: RunnableModel, arrays: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
    if module.target.native:
        result = module.library.run(*arrays)
        return result if isinstance(result, tuple) else (result,)
    return module.emulate(*arrays) if module.program is None else module.program.run(*arrays)


def _method(module: RunnableModel) -> str:
    """What ran."""
    if module.target.native:
        return "run on this machine"
    if module.program is not None:
        return f"the library run in {how(module.target)}"
    reason = why_not(module.target) or "it needs TVM's runtime"
    return f"kernels run in an emulator (unicorn), the library not run since {reason}"


def _compare(name: str, got: np.ndarray, expected: np.ndarray, tolerance: float | None) -> OutputComparison:
    if wrong := mismatch(got, expected):
        return OutputComparison(name, np.inf, np.inf, False, wrong)
    largest, relative = largest_difference(got, expected)
    return OutputComparison(name, largest, relative, relative <= tolerance_of(expected.dtype, tolerance))


def _layers_alone(
    stored: StoredValues, values: Mapping[str, np.ndarray], arrays: tuple[np.ndarray, ...], tolerance: float | None
) -> Iterator[LayerComparison]:
    """Run each kernel on the reference's values, and compare what it computes."""
    module = stored.module

    def of_reference(step: ComputedValue) -> np.ndarray | None:
        name = stored.name(step)
        value = values.get(name) if name is not None else None
        if value is None or step.physical is None:
            return None
        extent = shape_in_onnx(step.physical)
        if holds_rows(extent, value.shape):
            value = value.reshape(extent)
        if value.shape != extent:
            return None
        if value.dtype == np.float16 and step.array.dtype != np.float16:
            value = value.astype(np.float32)  # kernels keep float16 values in float32
        return encode(value, step.physical, module.target.isa)

    steps = run_kernels(module.lowered, module.kernel_runner, (*arrays, *module.constants), of_reference)
    return compare_layers(stored, steps, values, stored.known(values), tolerance)
