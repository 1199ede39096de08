"""Choose the candidate of a task to measure next, and decide when to stop.

The search models the logarithm of a candidate's time as the logarithm of its cost, plus an offset per family, plus a
normally distributed error per candidate. The offset and the standard deviation of the error are estimated from the
measurements. The next candidate is the one with the largest expected improvement over the best so far (Jones, Schonlau,
Welch, Efficient Global Optimization, 1998, eq. 15). The search ends when the largest expected improvement is too small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import erf, exp, log, pi, sqrt

from sbnn_tvm.passes.families.choose import Candidate
from sbnn_tvm.passes.families.family import Family

from ..tuning_database.tasks import Task

ENOUGH = 0.003
"""A candidate with a smaller expected improvement (of the logarithm of the time) is not measured."""

FEWEST = 6
"""Minimum number of measured candidates, even if no gain is expected: the cost model may be wrong."""

HOPELESS = 3.0
"""A family is not tried if it is expected to be this many times slower than the untuned candidate."""

_ERROR, _COUNT = 0.12, 3
"""Prior of a candidate's error: its standard deviation, and its weight as a number of measurements."""

_FAMILY_ERROR = 0.35
"""Prior standard deviation of the error between families."""


@dataclass(eq=False)
class Search:
    """The search of one task.

    Attributes:
        space: The candidates by name, the untuned one first. Candidates of hopeless families are left out.
        expected: The logarithm of each candidate's cost, relative to the untuned one.
        measured: The logarithm of each measured time, relative to the untuned one.
        failed: Candidates that could not be measured.
        pending: Candidates that are being measured.
    """

    space: dict[str, Candidate]
    expected: dict[str, float]
    measured: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    pending: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, task: Task) -> Search:
        """Start the search of a task."""
        costs = expectations(task)
        hopeful = {candidate.family for candidate, cost in costs.items() if cost < HOPELESS}
        space = [candidate for candidate in task.space if candidate.family in hopeful]
        search = cls({each.name: each for each in space}, {each.name: log(costs[each]) for each in space})
        search.measured[task.space[0].name] = 0.0
        return search

    @property
    def best(self) -> tuple[str, float]:
        """The fastest candidate so far, and its speedup over the untuned one."""
        name = min(self.measured, key=lambda each: self.measured[each])
        return name, exp(-self.measured[name])

    def tell(self, name: str, gain: float | None) -> None:
        """Record a measurement.

        Args:
            name: Name of the candidate; ignored if it is not in ``space``.
            gain: Time of the untuned candidate over time of this one; None if it failed.
        """
        self.pending.discard(name)
        if name not in self.space:
            return
        if gain is None:
            self.failed.add(name)
        else:
            self.measured[name] = -log(gain)

    def next(self) -> tuple[str, float] | None:
        """The candidate with the largest expected improvement, and that improvement; None to stop."""
        left = [each for each in self.space if each not in self.measured and each not in self.failed | self.pending]
        promises = {name: self._improvement(name) for name in left}
        name = max(promises, key=lambda each: promises[each], default=None)
        if name is None or (promises[name] < ENOUGH and len(self.measured) + len(self.pending) >= FEWEST):
            return None
        return name, promises[name]

    def worth_measuring(self) -> int:
        """Estimated number of candidates still to measure, from the measurements so far."""
        left = [each for each in self.space if each not in self.measured and each not in self.failed]
        fewest = min(len(left), FEWEST - len(self.measured))
        return max(fewest, sum(self._improvement(name) >= ENOUGH for name in left))

    def _improvement(self, name: str) -> float:
        alike = [each for each in self.measured if _kind(self.space[each]) == _kind(self.space[name])]
        errors = [self.measured[each] - self.expected[each] for each in alike]
        if errors:
            offset = sum(errors) / len(errors)
            spread = sum((error - offset) ** 2 for error in errors)
            deviation = sqrt((_COUNT * _ERROR**2 + spread) / (_COUNT + len(errors)))
        else:
            offset, deviation = 0.0, _FAMILY_ERROR
        gap = (min(self.measured.values()) - self.expected[name] - offset) / deviation
        return deviation * (gap * (1 + erf(gap / sqrt(2))) / 2 + exp(-gap * gap / 2) / sqrt(2 * pi))


def _kind(candidate: Candidate) -> tuple[Family, bool]:
    """The group of candidates that share an offset of the cost model."""
    return candidate.family, candidate.serial


def expectations(task: Task) -> dict[Candidate, float]:
    """The expected time of each candidate, relative to the untuned one."""
    untuned = task.space[0].cost(task.layer, task.isa)
    return {candidate: candidate.cost(task.layer, task.isa) / untuned for candidate in task.space}
