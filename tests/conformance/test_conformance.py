"""ONNX's conformance cases: right or refused with a sentence, never wrong, never an exception of another kind."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.support.paths import ROOT

from .cases import cases
from .documentation import imported_by, operators
from .outcome import Verdict, outcome

SAMPLE = 200
LEAST_RIGHT = 1450


def _sample() -> list[int]:
    """A case of each operator, and others up to ``SAMPLE``; the same in every run."""
    order = np.random.default_rng(0).permutation(len(cases())).tolist()
    first: dict[str, int] = {}
    for index in order:
        first.setdefault(cases()[index].operator, index)
    chosen = list(first.values())
    return sorted((chosen + [index for index in order if index not in set(chosen)])[:SAMPLE])


@pytest.mark.parametrize("part", range(10))
def test_sample(part: int) -> None:
    found = [outcome(cases()[index]) for index in _sample()[part::10]]
    assert not [each for each in found if each.verdict in (Verdict.WRONG, Verdict.EXCEPTION)]
    assert all(len(each.reason.splitlines()) == 1 for each in found if each.verdict is Verdict.REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_all(part: int) -> None:
    found = [outcome(case) for case in cases()[part::4]]
    assert not [each for each in found if each.verdict in (Verdict.WRONG, Verdict.EXCEPTION)]
    right = Counter(each.verdict for each in found)[Verdict.RIGHT]
    assert right >= LEAST_RIGHT / len(cases()) * len(found) - 15  # the parts differ a little


def test_the_page_of_operators_lists_all() -> None:
    text = (ROOT / "docs/operators.md").read_text()
    for operator in operators():
        assert f"| {operator} | {imported_by(operator)} |" in text, f"make conformance writes the row of {operator}"
