"""The algebra of two-valued tensors, by brute force and on random bits."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain

bits = st.lists(st.booleans(), min_size=1, max_size=200)
quarters = st.integers(-64, 64).map(lambda n: n / 4)  # sums of their products are exact


@st.composite
def domains(draw: st.DrawFn) -> BinaryDomain:
    lo, hi = sorted(draw(st.lists(quarters, min_size=2, max_size=2, unique=True)))
    return BinaryDomain(lo, hi)


def values(domain: BinaryDomain, b: np.ndarray) -> np.ndarray:
    return domain.lo + (domain.hi - domain.lo) * b


def test_sign_sums_by_brute_force() -> None:
    """D = K - 2 popcount(w ^ x) and T = 2 popcount(x) - K, for all pairs of up to 5 bits."""
    for k in range(1, 6):
        for w, x in itertools.product(itertools.product((0, 1), repeat=k), repeat=2):
            w_bits, x_bits = np.array(w), np.array(x)
            s, signs = 2 * w_bits - 1, 2 * x_bits - 1
            assert s @ signs == k - 2 * (w_bits ^ x_bits).sum()
            assert signs.sum() == 2 * x_bits.sum() - k
            assert 2 * (w_bits & x_bits).sum() == w_bits.sum() + x_bits.sum() - (w_bits ^ x_bits).sum()


@given(domains(), bits)
def test_tau_and_phi_give_the_two_values(domain: BinaryDomain, b: list[bool]) -> None:
    sign = 2 * np.array(b, int) - 1
    np.testing.assert_array_equal(domain.tau * sign + domain.phi, values(domain, np.array(b)))


@given(domains(), st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_general_weights_with_zero_padding(domain: BinaryDomain, taps: list[tuple[bool, bool, bool]]) -> None:
    """sum(w * x) = tau * D + phi * T where D counts valid taps only: bits of pads are 0, and ``base`` corrects."""
    w, x, valid = np.array(taps, int).T
    x = x & valid
    signs = (2 * x - 1) * valid
    base = valid.sum() + 2 * (w & (1 - valid)).sum()
    d = base - 2 * (w ^ x).sum()
    t = 2 * x.sum() - valid.sum()
    assert d == ((2 * w - 1) * signs).sum()
    assert domain.tau * d + domain.phi * t == values(domain, w) @ signs


@given(domains(), domains(), st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_both_operands_general(weights: BinaryDomain, inputs: BinaryDomain, taps: list[tuple[bool, bool]]) -> None:
    w, x = np.array(taps, int).T
    d_w, d_x, k = weights.hi - weights.lo, inputs.hi - inputs.lo, len(taps)
    expected = (
        k * weights.lo * inputs.lo + weights.lo * d_x * x.sum() + inputs.lo * d_w * w.sum() + d_w * d_x * (w & x).sum()
    )
    assert values(weights, w) @ values(inputs, x) == expected


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=200))
def test_bit_weights_in_and_form(taps: list[tuple[bool, bool]]) -> None:
    w, x = np.array(taps, int).T
    assert values(BIT, w) @ values(SIGN, x) == 2 * (w & x).sum() - w.sum()


def test_scale_offset_and_text_of_domains() -> None:
    assert SIGN.phi == BinaryDomain(-0.3, 0.3).phi == 0
    assert (BIT.tau, BIT.phi) == (0.5, 0.5)
    assert str(BinaryDomain(-0.5, 1.25)) == "{-0.5, 1.25}"


@pytest.mark.parametrize("pair", [(1.0, 1.0), (2.0, 1.0), (float("nan"), 1.0), (0.0, float("inf"))])
def test_an_empty_or_infinite_domain_is_refused(pair: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two finite values lo < hi"):
        BinaryDomain(*pair)
