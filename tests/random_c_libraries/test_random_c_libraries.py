"""A few random networks as C libraries; ``make fuzz-c`` checks 1,000."""

from __future__ import annotations

from pathlib import Path

import pytest

from .batches import check_batch


def test_random_c_libraries(tmp_path: Path) -> None:
    done = check_batch(0, tmp_path, number=3)
    assert done.models > 0


@pytest.mark.slow
def test_more_random_c_libraries(tmp_path: Path) -> None:
    assert check_batch(1, tmp_path).models > 0
