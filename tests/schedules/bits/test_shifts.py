"""Circular shifts of packed bits against numpy, on every instruction set."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.bits.shifts import shift_bits
from sbnn_tvm.schedules.layouts.words import pack_channels
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.reference.bits import shift_pixels


@pytest.mark.parametrize("target_name", X86 + ARM)
@pytest.mark.parametrize("shape", [(1, 5, 7, 8), (2, 4, 3, 131), (1, 1, 6, 64), (2, 20, 40, 192)], ids=str)
def test_shift_bits(shape: tuple[int, int, int, int], target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    bits = rng.integers(0, 2, shape).astype(bool)
    by_word = np.repeat(rng.integers(-9, 10, (-(-shape[3] // 64), 2)), 64, axis=0)[: shape[3]]
    by_channel = rng.integers(-2, 3, (shape[3], 2))
    for shifts in (by_word, by_channel):
        (words,) = run(shift_bits(shape, shifts, target.isa), target, pack_channels(bits, target.isa))
        np.testing.assert_array_equal(words, pack_channels(shift_pixels(bits, shifts), target.isa))
