"""Bits and codes packed into words along the channels."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.layouts.words import pack_channels, pack_codes, unpack_channels, unpack_codes
from tests.support.kernel_execution import target_for


def test_words_hold_the_same_bytes_on_every_isa(rng: np.random.Generator) -> None:
    bits = rng.random((2, 3, 128)) < 0.5
    assert pack_channels(bits, isas.AVX2).tobytes() == pack_channels(bits, isas.NEON).tobytes()
    for isa in (isas.AVX2, isas.NEON):
        for channels in (1, 3, 16, 17, 63, 65, 100):
            words = pack_channels(bits[..., :channels], isa)
            assert words.shape == (2, 3, isa.words(channels))
            np.testing.assert_array_equal(unpack_channels(words, channels), bits[..., :channels])


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codes_round_trip(bits: int, rng: np.random.Generator) -> None:
    isa = target_for("native").isa
    codes = rng.integers(0, 1 << bits, (2, 3, 2, 67))
    packed = pack_codes(codes, bits, isa)
    assert packed.shape == ((2, 3, 2, 2) if bits == 1 else (2, bits, 3, 2, 2))
    np.testing.assert_array_equal(unpack_codes(packed, 67, bits), codes)
