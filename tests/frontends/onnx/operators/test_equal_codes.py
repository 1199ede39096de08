"""Plain operations that give the same codes as other arithmetic."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from sbnn_tvm.frontends.onnx.operators.equal_codes import equal_mean, equal_sum

SCALES = st.floats(2**-8, 2**-3, width=32).map(np.float32)


@settings(max_examples=20, deadline=None)
@given(SCALES, SCALES, SCALES, st.integers(-128, 127))
def test_sums(a_scale: np.float32, b_scale: np.float32, scale: np.float32, zero: int) -> None:
    ratios = np.array(a_scale / scale), np.array(b_scale / scale)
    shift = np.array(np.float32(zero) + np.float32(0.1))
    found = equal_sum("int8", *ratios, shift)
    codes = np.arange(-128, 128)
    inner = (codes.astype(np.float64) * ratios[1] + shift).astype(np.float32)
    fused = (codes[:, None].astype(np.float64) * ratios[0] + inner).astype(np.float32)
    if found is None:
        return  # rare: no number near gives all codes
    a, b = codes.astype(np.float32)[:, None], codes.astype(np.float32)
    plain = a * ratios[0] + (b * ratios[1] + found)
    np.testing.assert_array_equal(*(np.clip(np.rint(value), -128, 127) for value in (plain, fused)))


@settings(max_examples=20, deadline=None)
@given(SCALES, SCALES, st.integers(1, 64), st.integers(0, 255), st.integers(0, 255))
def test_means(x_scale: np.float32, y_scale: np.float32, pixels: int, x_zero: int, y_zero: int) -> None:
    factor = np.array(x_scale / (y_scale * np.float32(pixels)))
    found = equal_mean("uint8", np.array(x_zero, np.uint8), pixels, factor, np.array(y_zero, np.uint8))
    if found is None:
        return
    total = np.arange(-pixels * x_zero, pixels * (255 - x_zero) + 1).astype(np.float32)
    codes = [np.clip(np.rint(value) + y_zero, 0, 255) for value in (total / np.float32(pixels) * found, total * factor)]
    np.testing.assert_array_equal(*codes)


def test_what_is_found_at_run_time_or_is_too_large_is_left() -> None:
    one, zero = np.ones((), np.float32), np.zeros((), np.int8)
    assert equal_mean("int8", zero, 2**20, one, zero) is None
    assert equal_mean("int8", zero, 0, one, zero) is None
