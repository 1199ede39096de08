"""Damaged and malicious files: each is compiled or refused with a sentence; none crashes, hangs or fills the memory."""

from __future__ import annotations

import pytest

from tests.support.hostile.run_files import answers, depth_of


def test_300_files() -> None:
    verdicts = list(answers(range(300), depth_of))
    assert not [answer for answer in verdicts if answer.failed]
    accepted = [answer for answer in verdicts if answer.verdict != "refused"]
    assert 20 < len(accepted) < 150  # mutations neither break everything nor nothing


@pytest.mark.fuzz
@pytest.mark.parametrize("thousand", range(10))
def test_10_000_files(thousand: int) -> None:
    seeds = range(1000 * thousand, 1000 * (thousand + 1))
    assert not [answer for answer in answers(seeds, depth_of) if answer.failed]
