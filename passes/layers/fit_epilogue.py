"""Fit the epilogue of a binary layer to what its kernels compute.

That is the integer D, the sum of sign products, or E, the sum over the set weights.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain, Domain, code_of
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Border,
    Channel,
    Epilogue,
    FloatOutput,
    IntegerThreshold,
    LevelsOutput,
    Operand,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
    WindowThreshold,
)
from sbnn_tvm.schedules.isa import Isa

from .fold_thresholds import fold_threshold
from .layer import Layer


@dataclass(frozen=True, eq=False)
class FittedEpilogue:
    """An epilogue that starts from D.

    Attributes:
        epilogue: Its Ref(0), or what it compares, is D.
        padding: What lies beyond the border: 0, or the sign of an activation, -1 or +1 (of n bits, an odd number).
        folded: Whether the whole epilogue became integer thresholds.
    """

    epilogue: Epilogue
    padding: int
    folded: bool

    @property
    def thresholds(self) -> int:
        """How many integer thresholds a channel it became; 0 if it did not."""
        return (1 << self.epilogue.bits) - 1 if isinstance(self.epilogue, IntegerThreshold) else 0


@dataclass(frozen=True, eq=False)
class FittedCounters:
    """What counters count, and an epilogue that starts from it.

    Attributes:
        epilogue, padding, folded: As of FittedEpilogue, or two sums that are compared.
        counted: bool in the shape of the weights: those with bit 1.
        domain: What they are: domain.SIGN, of -1 and +1, or domain.BIT, of 0 and 1.
    """

    epilogue: Epilogue | WindowThreshold
    padding: int
    folded: bool
    counted: np.ndarray
    domain: BinaryDomain


@lru_cache(maxsize=1)  # the families of a layer are asked about one after the other, and share this
def fit_epilogue(layer: Layer, isa: Isa) -> FittedEpilogue:
    """The epilogue of a binary layer for a kernel that computes D."""
    weight, domain = layer.weight, layer.input_domain
    assert weight is not None and domain is not None
    axes, padding, highest = tuple(range(1, weight.ndim)), 0, (1 << domain.bits) - 1
    sums: Operand = Channel(weight.sum(axis=axes))
    if layer.shape is not None and (code := code_of(domain, layer.pad_value)) is not None:
        # What lies beyond the border is a value like any other: no pixel is special.
        padding = 2 * code - highest
    elif layer.shape is not None:
        valid = layer.shape.border_classes().valid
        sums = Border(np.einsum("oihw,chw->co", weight, valid.astype(np.float32)).astype(np.float32))
    program = _from_signs(layer.program, domain, sums)
    threshold = fold_threshold(program, highest * weight[0].size, len(weight), isa)
    return FittedEpilogue(program if threshold is None else threshold, padding, threshold is not None)


@lru_cache(maxsize=1)
def fit_counters(layer: Layer, isa: Isa) -> FittedCounters:
    """The epilogue of a binary layer for a kernel that counts set weights.

    Where two integer sums say the layer's bits, the counters have both. Where the layer reads the sum T over its window
    anyway, weights of -1 and +1 are counted as 0 and 1: that is cheaper, and ``D = 2 * E - T``, exactly.
    """
    fitted = fit_epilogue(layer, isa)
    assert layer.weight is not None
    weight, domain, epilogue = layer.weight > 0, layer.weight_domain, fitted.epilogue
    if domain == SIGN and (test := layer.window_test) is not None:
        return FittedCounters(test.threshold, fitted.padding, True, weight if test.of_set else ~weight, BIT)
    if domain == SIGN and layer.window_sum is not None and isinstance(epilogue, Program):
        window = next(each for each in _tensors(epilogue) if each.index == layer.window_sum)
        if 2 * np.count_nonzero(weight) <= weight.size:
            steps = (Step("multiply", Ref(0), Scalar(2.0)), Step("subtract", Ref(1), window))
        else:  # E is the sum over the others
            weight = ~weight
            steps = (Step("multiply", Ref(0), Scalar(2.0)), Step("subtract", window, Ref(1)))
        domain, epilogue = BIT, behind(steps, epilogue)
    return FittedCounters(epilogue, fitted.padding, fitted.folded, weight, domain)


def _tensors(program: Program) -> list[Tensor | Pixel]:
    operands = [operand for step in program.steps for operand in (step.a, step.b)]
    operands += [output.value for output in program.outputs]
    return [each for each in operands if isinstance(each, Tensor | Pixel)]


def _from_signs(program: Program, domain: Domain, sums: Operand) -> Program:
    """Let a program that expects ``sum(S * x)`` start from ``D = sum(S * X)``, where ``x = tau * X + phi``.

    Args:
        program: The epilogue.
        domain: The values of x.
        sums: The sum of the signs of the weights that see the image.
    """
    if domain.phi == 0:
        return program if domain.tau == 1 else behind((Step("multiply", Ref(0), Scalar(domain.tau)),), program)
    steps = (Step("multiply", Ref(0), Scalar(domain.tau)), Step("multiply", sums, Scalar(domain.phi)))
    return behind((*steps, Step("add", Ref(1), Ref(2))), program)


def behind(steps: tuple[Step, ...], program: Program) -> Program:
    """A program with its anchor replaced by the result of the last of some steps."""

    def moved(operand: Operand) -> Operand:
        return Ref(operand.index + len(steps)) if isinstance(operand, Ref) else operand

    def moved_output(output: FloatOutput | BitsOutput | LevelsOutput) -> FloatOutput | BitsOutput | LevelsOutput:
        if isinstance(output, BitsOutput):
            return replace(output, value=moved(output.value), threshold=moved(output.threshold))
        return replace(output, value=moved(output.value))

    rest = tuple(Step(step.op, moved(step.a), moved(step.b)) for step in program.steps)
    return Program((*steps, *rest), tuple(map(moved_output, program.outputs)))
