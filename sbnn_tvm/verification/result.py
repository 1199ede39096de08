"""The result of a verification, and its text."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..errors import VerificationError
from ..printable import printable


@dataclass(frozen=True)
class OutputComparison:
    """The comparison of one output over all inputs.

    Attributes:
        name: Name of the output.
        max_abs: Largest absolute difference.
        max_rel: Largest difference, relative to the largest value of that output for that input.
        within: Whether shape and type are right and ``max_rel`` is within the tolerance of the output's type.
        mismatch: How shape or type differ; empty if they are right.
        less_exact: Number of values outside the tolerance where onnxruntime is the less exact side, by float64 sums.
    """

    name: str
    max_abs: float
    max_rel: float
    within: bool
    mismatch: str = ""
    less_exact: int = 0

    def and_also(self, other: OutputComparison) -> OutputComparison:
        """Combine the comparisons of the same output over different inputs."""
        return replace(
            self,
            max_abs=max(self.max_abs, other.max_abs),
            max_rel=max(self.max_rel, other.max_rel),
            within=self.within and other.within,
            mismatch=self.mismatch or other.mismatch,
            less_exact=self.less_exact + other.less_exact,
        )


@dataclass(frozen=True)
class LayerComparison:
    """The comparison of one value inside the model, computed from values that are known.

    Attributes:
        name: The ONNX value.
        node: The ONNX node that computes it.
        bits: Whether it is two-valued.
        max_rel: Largest difference of floats, relative to the largest value.
        flipped: Number of bits that differ where rounding can flip them: the reference's value is within the rounding
            bound of its threshold, or within its own rounding error, which float64 sums show. Always 0 for layers that
            compute the same integers and roundings as the reference.
        wrong: Number of other bits that differ, or of floats outside the tolerance.
        elements: Number of compared elements.
        less_exact: Number of bits that differ, or of floats outside the tolerance, where onnxruntime is the less exact
            side, by float64 sums.
        as_inexact: Number of floats outside the tolerance where onnxruntime's own error is about as large.
        note: How shape or type differ, or why float64 sums could not decide; often empty.
    """

    name: str
    node: str
    bits: bool
    max_rel: float
    flipped: int
    wrong: int
    elements: int
    less_exact: int = 0
    as_inexact: int = 0
    note: str = ""

    def and_also(self, other: LayerComparison) -> LayerComparison:
        """Combine the comparisons of the same value over different inputs."""
        return replace(
            self,
            max_rel=max(self.max_rel, other.max_rel),
            flipped=self.flipped + other.flipped,
            wrong=self.wrong + other.wrong,
            elements=self.elements + other.elements,
            less_exact=self.less_exact + other.less_exact,
            as_inexact=self.as_inexact + other.as_inexact,
            note=self.note or other.note,
        )


@dataclass(frozen=True)
class Verification:
    """The result of ``verify``.

    Attributes:
        model: Name of the model.
        target: Name of the target.
        method: How the model ran.
        samples: Number of inputs.
        tolerance: Tolerance of float outputs, relative to the largest value; None for the default of each type.
        outputs: Comparisons of the outputs, end to end.
        layers: Comparisons of the layers on the reference's inputs, in order. They cover the first input, and inputs
            whose outputs differ; for these also layers that are wrong on the values that the library computed.
        after_flips: Number of inputs whose outputs differ only after bits flipped by rounding.
        first_flip: The ONNX value in which the first of these bits are, for the first such input; often empty.
        unexplained: Number of inputs whose outputs differ for another reason.
        reason: What was found about the first of these; empty if there are none.
        drawn: What is to be known about the inputs that ``verify`` drew; often empty.
        approximated: How the reference differs from the model, as the user allowed it; often empty.
        builds: The results of the other builds of a target with several.
        not_run: The names of those that can neither run here nor be emulated.
    """

    model: str
    target: str
    method: str
    samples: int
    tolerance: float | None
    outputs: tuple[OutputComparison, ...]
    layers: tuple[LayerComparison, ...]
    after_flips: int = 0
    first_flip: str = ""
    unexplained: int = 0
    reason: str = ""
    drawn: str = ""
    approximated: str = ""
    builds: tuple[Verification, ...] = ()
    not_run: tuple[str, ...] = ()

    @property
    def flipped(self) -> int:
        """Number of bits that differ where rounding can flip them."""
        return sum(layer.flipped for layer in self.layers)

    @property
    def less_exact(self) -> int:
        """Number of values where onnxruntime is the less exact side: in layers, else in outputs end to end."""
        in_layers = sum(layer.less_exact for layer in self.layers)
        return in_layers or sum(output.less_exact for output in self.outputs)

    @property
    def as_inexact(self) -> int:
        """Number of floats outside the tolerance where onnxruntime's own error is about as large."""
        return sum(layer.as_inexact for layer in self.layers)

    @property
    def first_difference(self) -> LayerComparison | None:
        """The first layer that is wrong on inputs that are known."""
        return next((layer for layer in self.layers if layer.wrong), None)

    @property
    def passed(self) -> bool:
        """Whether in all builds every layer agrees, and outputs agree or differ only where rounding explains it."""
        return self._agrees and all(build.passed for build in self.builds)

    @property
    def _agrees(self) -> bool:
        return self.first_difference is None and not self.unexplained

    def check(self) -> None:
        """Raise VerificationError unless ``passed``."""
        if not self.passed:
            raise VerificationError(str(self))

    @property
    def about_builds(self) -> str:
        """A sentence about the other builds; empty without."""
        parts = []
        agree = [build.target for build in self.builds if build.passed]
        if agree:
            parts.append(f"the other builds agree too: {', '.join(agree)}")
        parts += [f"the build {build}" for build in self.builds if not build.passed]
        if self.not_run:
            parts.append(f"builds that this machine cannot run are not compared: {', '.join(self.not_run)}")
        return printable("; ".join(parts))

    def __str__(self) -> str:
        head = f"{self.model} for {self.target}, {self.method}, {self.samples} input{'s' * (self.samples != 1)}"
        found = "; ".join(self._rounding())
        if self._agrees:
            which = "all outputs"
            if self.after_flips:
                which += f" (for {self.after_flips} of the inputs except values after bits flipped by rounding, "
                which += f"first in '{self.first_flip}')"
            text = f"{head}: agrees with onnxruntime in {len(self.layers)} layers and {which}; {found}"
        else:
            text = f"{head}: differs from onnxruntime: {found}; {self._where()}"
        return printable("; ".join(each for each in (text, self.about_builds, self.approximated, self.drawn) if each))

    def _rounding(self) -> list[str]:
        """What differs, and how much of it rounding explains."""
        parts = []
        if self.outputs:
            worst = max(self.outputs, key=lambda out: (bool(out.mismatch), out.max_rel))
            differs = f"{worst.max_abs:.3g} absolute, {worst.max_rel:.3g} relative"
            parts.append(f"largest difference of '{worst.name}' {worst.mismatch or differs}")
        parts.append(f"{self.flipped} bits flipped within the rounding bound of a threshold")
        if self.less_exact:
            parts.append(f"onnxruntime is the less exact side in {self.less_exact} values, by float64 sums")
        if self.as_inexact:
            parts.append(f"{self.as_inexact} values differ by no more than twice onnxruntime's own rounding error")
        return parts

    def _where(self) -> str:
        first = self.first_difference
        if first is None:
            return self.reason
        what = "bits" if first.bits else f"values (relative difference {first.max_rel:.3g})"
        where = f"the first layer that differs is '{first.node}' (value '{first.name}'): "
        where += f"{first.wrong} of {first.elements} {what}"
        return f"{where} ({first.note})" if first.note else where
