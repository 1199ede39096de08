"""Fit the epilogue of a binary layer to the integer that its kernels compute.

Popcount kernels compute D, the sum of sign products. Counters compute D, or E, the sum over the set weights. But the
network's epilogue starts from ``sum(S * x)``, where x has arbitrary levels ``x = tau * X + phi``.

1. Put the steps that compute ``sum(S * x)`` from D or E before the epilogue.
2. Fold all of it into integer thresholds where that is exact (thresholds.py).

Example: activations {0, 1} have tau = phi = 0.5. Then ``sum(S * x) = 0.5 * D + 0.5 * sum(S)``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain, Domain, code_of
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Border,
    Channel,
    Epilogue,
    IntegerThreshold,
    Operand,
    Output,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
    WindowThreshold,
)
from sbnn_tvm.schedules.shapes import Conv2dShape

from .facts import WindowTest
from .thresholds import fold_threshold


@dataclass(frozen=True, eq=False)
class FittedEpilogue:
    """An epilogue that starts from D.

    Attributes:
        epilogue: A program whose Ref(0) is D, or a comparison of D.
        padding: The value of X outside the image: 0, or a sign, -1 or +1; with activations of n bits an odd number.
        folded: Whether the whole epilogue became integer thresholds.
    """

    epilogue: Epilogue
    padding: int
    folded: bool

    @property
    def thresholds(self) -> int:
        """Integer thresholds per channel; 0 if the epilogue is not folded."""
        return (1 << self.epilogue.bits) - 1 if isinstance(self.epilogue, IntegerThreshold) else 0


@dataclass(frozen=True, eq=False)
class FittedCounters:
    """The weights that counters count, and an epilogue that starts from the count.

    Attributes:
        epilogue: Same as in FittedEpilogue, or the comparison of two sums.
        padding, folded: Same as in FittedEpilogue.
        counted: bool in the shape of the weights, True for bit 1.
        domain: The values of the weights that the bits stand for: domain.SIGN, -1 and +1, or domain.BIT, 0 and 1.
    """

    epilogue: Epilogue | WindowThreshold
    padding: int
    folded: bool
    counted: np.ndarray
    domain: BinaryDomain


def fit_epilogue(
    program: Program, weight: np.ndarray, domain: Domain, windows: Conv2dShape | None, pad_value: float
) -> FittedEpilogue:
    """Fit an epilogue of ``sum(S * x)`` to a kernel that computes the integer D.

    Args:
        program: The epilogue.
        weight: The signs S, or 0 and 1; float32, output channels first.
        domain: The values of the activations x.
        windows: The convolution, whose windows may extend beyond the image; None for a dense layer.
        pad_value: The value of x outside the image.
    """
    axes, padding, highest = tuple(range(1, weight.ndim)), 0, (1 << domain.bits) - 1
    sums: Operand = Channel(weight.sum(axis=axes))
    if windows is not None and (code := code_of(domain, pad_value)) is not None:
        # The padding is a value of the domain, so pixels at the border need no correction.
        padding = 2 * code - highest
    elif windows is not None:
        valid = windows.border_classes().valid
        sums = Border(np.einsum("oihw,chw->co", weight, valid.astype(np.float32)).astype(np.float32))
    signed = _from_signs(program, domain, sums)
    threshold = fold_threshold(signed, highest * weight[0].size, len(weight))
    return FittedEpilogue(signed if threshold is None else threshold, padding, threshold is not None)


def fit_counters(
    fitted: FittedEpilogue,
    weight: np.ndarray,
    weight_domain: BinaryDomain,
    window_sum: int | None,
    window_test: WindowTest | None,
) -> FittedCounters:
    """Fit an epilogue to a kernel that counts set weights.

    1. If a comparison of E and T gives the layer's bits, the counters compute both sums and no floats.
    2. If the layer reads the sum T over its window anyway, weights of -1 and +1 are counted as 0 and 1. That is
       cheaper, and ``D = 2 * E - T`` is exact. If more than half of the weights are +1, E is the sum over the others,
       and ``D = T - 2 * E``.
    3. Otherwise the weights are counted as they are.

    Args:
        fitted: The epilogue that starts from D.
        weight: The signs, or 0 and 1; float32, output channels first.
        weight_domain: domain.SIGN or domain.BIT.
        window_sum: Index of the operand that is T; None if there is none.
        window_test: The comparison of E and T; None if there is none.
    """
    positive, epilogue = weight > 0, fitted.epilogue
    if weight_domain == SIGN and window_test is not None:
        counted = positive if window_test.of_set else ~positive
        return FittedCounters(window_test.threshold, fitted.padding, True, counted, BIT)
    if weight_domain == SIGN and window_sum is not None and isinstance(epilogue, Program):
        window = next(each for each in _tensors(epilogue) if each.index == window_sum)
        double = Step("multiply", Ref(0), Scalar(2.0))
        if 2 * np.count_nonzero(positive) <= positive.size:
            counted, steps = positive, (double, Step("subtract", Ref(1), window))
        else:  # E is the sum over the -1 weights
            counted, steps = ~positive, (double, Step("subtract", window, Ref(1)))
        return FittedCounters(after(steps, epilogue), fitted.padding, fitted.folded, counted, BIT)
    return FittedCounters(epilogue, fitted.padding, fitted.folded, positive, weight_domain)


def _tensors(program: Program) -> list[Tensor | Pixel]:
    operands = [operand for step in program.steps for operand in (step.a, step.b)]
    operands += [output.value for output in program.outputs]
    return [each for each in operands if isinstance(each, Tensor | Pixel)]


def _from_signs(program: Program, domain: Domain, sums: Operand) -> Program:
    """Prepend steps that compute ``sum(S * x) = tau * D + phi * sum(S)``, where ``x = tau * X + phi``.

    Args:
        program: The epilogue of ``sum(S * x)``.
        domain: The values of x.
        sums: ``sum(S)`` over the weights that are inside the image, per channel or per channel and border class.
    """
    if domain.phi == 0:
        return program if domain.tau == 1 else after((Step("multiply", Ref(0), Scalar(domain.tau)),), program)
    steps = (Step("multiply", Ref(0), Scalar(domain.tau)), Step("multiply", sums, Scalar(domain.phi)))
    return after((*steps, Step("add", Ref(1), Ref(2))), program)


def after(steps: tuple[Step, ...], program: Program) -> Program:
    """A program with other steps before its own; the result of the last of these replaces its Ref(0)."""

    def moved(operand: Operand) -> Operand:
        return Ref(operand.index + len(steps)) if isinstance(operand, Ref) else operand

    def moved_output(output: Output) -> Output:
        if isinstance(output, BitsOutput):
            return replace(output, value=moved(output.value), threshold=moved(output.threshold))
        return replace(output, value=moved(output.value))

    rest = tuple(Step(step.op, moved(step.a), moved(step.b)) for step in program.steps)
    return Program((*steps, *rest), tuple(map(moved_output, program.outputs)))
