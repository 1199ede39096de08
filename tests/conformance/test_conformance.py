"""ONNX's conformance cases: right or refused with a sentence, never wrong, never an exception of another kind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.support.paths import ROOT

from .cases import cases
from .documentation import imported_by, operators
from .outcome import Verdict, outcome

SAMPLE = 60
LEAST_RIGHT = 1450


def _sample() -> list[int]:
    """Cases of as many operators; the same in every run."""
    first: dict[str, int] = {}
    for index in np.random.default_rng(0).permutation(len(cases())).tolist():
        first.setdefault(cases()[index].operator, index)
    return sorted(first.values())[:: max(1, len(first) // SAMPLE)]


@pytest.mark.parametrize("part", range(10))
def test_sample(part: int) -> None:
    found = [outcome(cases()[index]) for index in _sample()[part::10]]
    assert not [each for each in found if each.verdict in (Verdict.WRONG, Verdict.EXCEPTION)]
    assert all(len(each.reason.splitlines()) == 1 for each in found if each.verdict is Verdict.REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_a_sixth(part: int) -> None:
    """``make conformance`` runs all."""
    found = [outcome(case) for case in cases()[6 * part :: 24]]
    assert not [each for each in found if each.verdict in (Verdict.WRONG, Verdict.EXCEPTION)]
    right = Counter(each.verdict for each in found)[Verdict.RIGHT]
    assert right >= LEAST_RIGHT / len(cases()) * len(found) - 10  # the parts differ a little


def test_the_page_of_operators_lists_all() -> None:
    text = (ROOT / "docs/operators.md").read_text()
    for operator in operators():
        assert f"| {operator} | {imported_by(operator)} |" in text, f"make conformance writes the row of {operator}"
