"""Quotients by a fused multiply-add give the integers of divisions."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sbnn_tvm.schedules.epilogue.program import CodesOutput, Element, Ref
from sbnn_tvm.schedules.epilogue.reciprocals import Reciprocal, fused_multiply_add, reciprocal

floats = st.floats(width=32, min_value=-(2.0**40), max_value=2.0**40)


@given(floats, floats, floats)
def test_a_fused_multiply_add_rounds_once(a: float, b: float, c: float) -> None:
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    result = fused_multiply_add(np.array([a], np.float32), np.float32(b), np.array([c], np.float32)).item()
    below, above = (float(np.nextafter(np.float32(result), np.float32(end))) for end in (-np.inf, np.inf))
    error = abs(Fraction(result) - exact)
    assert all(error <= abs(Fraction(other) - exact) for other in (below, above))


@given(st.floats(width=32, min_value=2.0**-40, max_value=2.0**40), st.sampled_from(["int8", "uint8"]), st.data())
@settings(max_examples=50)
def test_the_integers_are_equal(divisor: float, dtype: Element, data: st.DataObject) -> None:
    factors = reciprocal(divisor, CodesOutput(Ref(0), dtype))
    assume(factors is not None)  # a few divisors need a division
    assert factors is not None
    whole = data.draw(st.integers(0, 300))
    nearest = np.float32((whole + 0.5) * divisor)
    x = (nearest.view(np.int32) + np.arange(-40, 41, dtype=np.int32)).view(np.float32)
    high, low = np.float32(factors.high), np.float32(factors.low)
    quotient = fused_multiply_add(x, high, x * low) if low else x * high
    info = np.iinfo(dtype)
    expected = np.clip(np.rint(x / np.float32(divisor)), info.min, info.max)
    np.testing.assert_array_equal(np.clip(np.rint(quotient), info.min, info.max), expected)


def test_powers_of_two_and_unusual_divisors() -> None:
    output = CodesOutput(Ref(0), "int8")
    assert reciprocal(0.125, output) == Reciprocal(8.0, 0.0)
    assert all(reciprocal(each, output) is None for each in (0.0, -0.1, 1e30, float("inf"), float("nan")))


def test_ties_of_16_bits_count_as_well() -> None:
    assert reciprocal(784.0155639648438, CodesOutput(Ref(0), "int8")) is not None
    assert reciprocal(784.0155639648438, CodesOutput(Ref(0), "uint16")) is None
    assert reciprocal(28.999998092651367, CodesOutput(Ref(0), "int8")) is None
