"""Shapes and types come before values; NaN and infinities compare sensibly; the tolerance follows the type."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.verification.differences import differing, largest_difference, mismatch, tolerance_of

NAN, INF = np.nan, np.inf


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_nan_and_infinity(dtype: str) -> None:
    expected = np.array([NAN, NAN, INF, INF, INF, 1, 1], dtype)
    got = np.array([NAN, 1, INF, -INF, 1, INF, 1 + 1e-3], dtype)
    differ = differing(got, expected, 0.01)
    assert differ.tolist() == [False, True, False, True, True, True, False]
    assert largest_difference(got, expected) == (INF, INF)
    assert largest_difference(expected, expected) == (0, 0)


def test_the_difference_is_relative_to_the_largest_finite_value() -> None:
    assert largest_difference(np.float32([1, 4.5, INF]), np.float32([1, 4, INF])) == (0.5, 0.125)
    assert largest_difference(np.float32([0.5]), np.float32([0])) == (0.5, INF)


def test_zeros_of_both_signs_are_equal() -> None:
    assert not differing(np.float32([0.0]), np.float32([-0.0])).any()


def test_integers_are_compared_exactly() -> None:
    large = np.int64([2**53, 2**62])
    assert differing(large + 1, large, 5).tolist() == [True, True]
    assert largest_difference(large + 1, large)[0] >= 1
    assert largest_difference(np.uint8([0]), np.uint8([255])) == (255, 1)
    assert largest_difference(np.array([True, False]), np.array([True, True])) == (1, 1)


def test_empty_and_scalar_arrays() -> None:
    assert largest_difference(np.zeros((0, 3)), np.zeros((0, 3))) == (0, 0)
    assert not differing(np.zeros((0, 3)), np.zeros((0, 3))).any()
    assert largest_difference(np.array(2.0), np.array(4.0)) == (2, 0.5)
    assert differing(np.array(2.0), np.array(4.0)).all()


def test_shapes_and_types() -> None:
    assert mismatch(np.zeros((1, 2)), np.zeros((2, 1))) == "shape [1, 2] instead of [2, 1]"
    assert mismatch(np.zeros(2, np.int32), np.zeros(2, np.int64)) == "type int32 instead of int64"
    assert mismatch(np.zeros(2), np.zeros(2)) == ""


def test_the_tolerance_follows_the_type() -> None:
    assert tolerance_of(np.dtype("float16"), None) == 4 * np.finfo(np.float16).eps
    assert tolerance_of(np.dtype("float32"), None) == 1e-4
    assert tolerance_of(np.dtype("float64"), None) == 1e-9
    assert tolerance_of(np.dtype("float16"), 1e-6) == 1e-6
    assert tolerance_of(np.dtype("int32"), 0.5) == tolerance_of(np.dtype("bool"), 0.5) == 0
