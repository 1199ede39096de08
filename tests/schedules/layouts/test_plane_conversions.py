"""The kernels between packed words and bit planes against the encodings in numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.layouts.bit_planes import plane_layout
from sbnn_tvm.schedules.layouts.plane_conversions import planes_to_words, words_to_planes
from sbnn_tvm.schedules.layouts.words import pack_channels
from tests.support.kernel_execution import run, target_for
from tests.support.plane_layouts import layouts_of


@pytest.mark.parametrize("target", ["x86-64-v4", "x86-64-v3", "arm"])
@pytest.mark.parametrize("size", [(1, 9, 9, 64), (3, 7, 7, 100), (1, 20, 70, 17), (2, 5, 3, 130)], ids=str)
def test_conversions(size: tuple[int, int, int, int], target: str, rng: np.random.Generator) -> None:
    cpu, bits = target_for(target), rng.integers(0, 2, size).astype(bool)
    for layout in (plane_layout(*size, cpu.isa), layouts_of(*size)[5]):
        planes, words = layout.encode(bits), pack_channels(bits, cpu.isa)
        np.testing.assert_array_equal(run(words_to_planes(layout, cpu.isa), cpu, words)[0], planes)
        np.testing.assert_array_equal(run(planes_to_words(layout, cpu.isa), cpu, planes)[0], words)
