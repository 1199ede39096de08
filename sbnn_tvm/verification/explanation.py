"""Explain outputs that differ although every layer agrees: find the bits that rounding flipped on the way to them.

The kernels run one after the other, on their own values, and each is compared with onnxruntime *on these values*. If
all agree, the library is right for what it got. What remains is how rounding spread: from the first decision (a
comparison, a rounding, an index of a maximum) that came out differently, or without any, by sums alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..execution.run_kernels import outputs_of, run_kernels
from ..execution.value_layout import holds_rows
from .differences import differing, largest_value, tolerance_of
from .layers import StoredValues, Values, compare_layers, error_alone, settle_floats
from .reference import Float64Error
from .result import LayerComparison
from .thresholds import compared, is_decided

_ERRORS = 2
"""An output may differ by this many times the error that onnxruntime makes in the operator of the output alone."""


@dataclass(frozen=True)
class Explanation:
    """Why outputs differ.

    Attributes:
        wrong: Comparisons of the layers that are wrong on the values that the library computed.
        first_flip: The first value that rounding made different where the model decides, if that explains the outputs.
        less_exact: By output, the number of values where onnxruntime is the less exact side.
        reason: What is wrong; empty if rounding explains the difference.
    """

    wrong: tuple[LayerComparison, ...] = ()
    first_flip: str = ""
    less_exact: dict[str, int] = field(default_factory=dict)
    reason: str = ""


def explain(
    stored: StoredValues,
    values: Values,
    arrays: Sequence[np.ndarray],
    outputs: dict[str, np.ndarray],
    tolerance: float | None,
) -> Explanation:
    """Explain the outputs for one input.

    Args:
        stored: The model.
        values: The reference's values.
        arrays: The inputs.
        outputs: The library's outputs.
        tolerance: Largest difference of floats, relative to the largest value; None for the default of their type.
    """
    module, reference = stored.module, stored.reference
    steps = list(run_kernels(module.lowered, module.kernel_runner, (*arrays, *module.constants)))
    for alone, (name, output) in zip(outputs_of(iter(steps)), outputs.items(), strict=True):
        if not np.array_equal(alone, output, equal_nan=np.issubdtype(output.dtype, np.floating)):
            return Explanation(reason=f"the library gives another '{name}' than its kernels run one after the other")
    computed: dict[str, np.ndarray] = {}
    for step in steps:
        value_name = stored.name(step)
        if value_name is None or value_name not in values:
            continue
        value = stored.decoded(step)
        if holds_rows(value.shape, values[value_name].shape):
            value = value.reshape(values[value_name].shape)
        if value.shape == values[value_name].shape:
            computed[value_name] = value
    known = {**stored.known(values), **computed}
    wanted = [name for name in reference.graph.producers if name not in reference.graph.fixed]
    local = reference.from_values(known, wanted)
    wrong = tuple(layer for layer in compare_layers(stored, steps, local, known, tolerance) if layer.wrong)
    if wrong:
        return Explanation(wrong, reason="a layer differs on the values that the library computed for it")
    flipped = _first_flipped(stored, values, {**local, **computed}, tolerance)
    if flipped is not None:
        name, excused = flipped
        far = f"the first bits that differ, of '{name}', are farther from their thresholds than rounding explains"
        return Explanation(first_flip=name) if excused else Explanation(reason=far)
    return _summed(stored, values, outputs, tolerance)


def _first_flipped(
    stored: StoredValues, values: Values, mine: Values, tolerance: float | None
) -> tuple[str, bool] | None:
    """The first value that decisions made differently, and whether rounding of what was decided on explains that."""
    graph = stored.reference.graph
    for node in graph.model.graph.node:
        for name in node.output:
            if name not in values or name not in mine or name in graph.fixed or not is_decided(graph, name, values):
                continue
            differ = _differs(mine[name], values[name], tolerance)
            if not differ.any():
                continue
            decision = compared(graph, name, values)
            if decision is not None and not (differ & ~decision.near(differ.shape)).any():
                return name, True
            # Functions such as a sigmoid may enlarge rounding further: then what was decided on differs as little.
            read = decision.sources if decision is not None else graph.variables(node)
            sources = [source for source in read if source in mine and source in values]
            return name, not any(_differs(mine[source], values[source], tolerance).any() for source in sources)
    return None


def _differs(got: np.ndarray, expected: np.ndarray, tolerance: float | None) -> np.ndarray:
    if got.shape != expected.shape:
        return np.ones((), bool)
    return differing(got, expected, tolerance_of(expected.dtype, tolerance) * largest_value(expected))


def _summed(
    stored: StoredValues,
    values: Values,
    outputs: dict[str, np.ndarray],
    tolerance: float | None,
) -> Explanation:
    """No decision differs: compare both sides with float64 sums from the last decisions on."""
    graph = stored.reference.graph
    decided = {name for name in graph.producers if name in values and is_decided(graph, name, values)}
    inputs = {spec.name for spec in stored.module.imported.inputs}
    known = {name: values[name] for name in decided | graph.fixed | inputs if name in values}
    less_exact = {}
    adds_up = "every layer alone agrees, so rounding adds up over the layers: allow a larger tolerance"
    for name, output in outputs.items():
        value = values[name]
        bound = tolerance_of(value.dtype, tolerance) * largest_value(value)
        differ = differing(output, value, bound)
        if not differ.any():
            continue
        try:
            # onnxruntime's sigmoid, for example, computes with numbers near 1. Its error is then a few units in the
            # last place of 1, far above the bound where all results are small.
            bound += _ERRORS * error_alone(stored.reference, name, values)
            differ = differing(output, value, bound)
            less, as_inexact = settle_floats(stored.reference, name, output, value, bound, known)
        except Float64Error as error:
            return Explanation(reason=f"{adds_up} ({error})")
        if (differ & ~less & ~as_inexact).any():
            return Explanation(reason=adds_up)
        less_exact[name] = int((differ & less).sum())
    return Explanation(less_exact=less_exact)
