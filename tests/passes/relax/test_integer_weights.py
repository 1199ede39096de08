"""The integers behind float weights are found from their values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sbnn_tvm.passes.relax.integer_weights import LARGEST, IntegerWeight


@given(st.integers(0, 2**32 - 1), st.integers(1, LARGEST), st.booleans())
def test_weights_are_their_integers_times_their_scales(seed: int, largest: int, per_channel: bool) -> None:
    rng = np.random.default_rng(seed)
    integers = rng.integers(-largest, largest + 1, (3, int(rng.integers(1, 40))))
    scale = rng.uniform(1e-6, 10, (3 if per_channel else 1, 1)).astype(np.float32)
    weight = integers.astype(np.float32) * scale
    found = IntegerWeight.of(weight)
    assert found is not None
    assert abs(found.integers).max(initial=0) <= LARGEST
    np.testing.assert_array_equal(found.integers.astype(np.float32) * found.scale.reshape(-1, 1), weight)


def test_other_weights_have_none() -> None:
    rng = np.random.default_rng(0)
    assert IntegerWeight.of(rng.standard_normal((4, 50)).astype(np.float32)) is None
    assert IntegerWeight.of(np.array([[1.0, np.inf]], np.float32)) is None


def test_zeros_have_any_scale() -> None:
    found = IntegerWeight.of(np.zeros((2, 3), np.float32))
    assert found is not None
    assert not found.integers.any()
