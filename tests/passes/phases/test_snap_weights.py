"""Weights that are two values but for rounding, or but for a few zeros, become two values."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sbnn_tvm
from sbnn_tvm.compiler import explain
from sbnn_tvm.errors import CompileError
from sbnn_tvm.passes.relax.snapped_weights import MOST_CHANGE, snapped
from sbnn_tvm.passes.relax.weight_planes import WeightPlanes
from sbnn_tvm.passes.relax.weights import BinaryWeight
from tests.support.binarised_models import BINARIZE, BITS, IMAGE
from tests.support.small_models import small_model


def straight_through(latent: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """``scale * sign(w) - clamp(w) + clamp(w)`` in float32, as training code computes it."""
    soft = np.clip(latent, -1, 1)
    return (np.float32(scale) * np.sign(latent) - soft + soft).astype(np.float32)


def values_of(weight: np.ndarray) -> list[int]:
    return [len(np.unique(channel)) for channel in weight]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.floats(1 / 64, 64), st.booleans(), st.sampled_from([0.05, 0.3, 1.0]))
def test_straight_through_arithmetic_becomes_two_values(
    seed: int, size: float, per_channel: bool, spread: float
) -> None:
    """Each weight keeps its sign and changes by no more than the bound; scale and offset are those of -a and +a."""
    rng = np.random.default_rng(seed)
    latent = (rng.standard_normal((6, 50)) * spread).astype(np.float32)
    scale = size * rng.uniform(0.5, 2, (6, 1)) if per_channel else size
    weight = straight_through(latent, scale)
    found = snapped(weight)
    if BinaryWeight.of(weight) is not None:
        assert found is None
        return
    assert found is not None
    new, change = found
    largest = np.abs(weight).max(axis=1, keepdims=True)
    moved = np.abs(new.astype(np.float64) - weight) / largest
    assert moved.max() <= MOST_CHANGE and change.relative == pytest.approx(moved.max()) and change.zeros == 0
    assert (np.sign(new) == np.sign(weight)).all() and max(values_of(new)) <= 2
    binary = BinaryWeight.of(new)
    assert binary is not None and not binary.phi.any() and (binary.tau > 0).all()
    assert snapped(new) is None


PAIRS = [(0, 0.3), (-1, 0), (0.1, 0.9), (-0.7, 0.2), (-2, -1), (-0.25, 0.25), (0.5, 0.5), (-0.1, 7)]


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(st.integers(0, 10**6), st.sampled_from(PAIRS))
def test_two_clusters_keep_their_most_frequent_values(seed: int, pair: tuple[float, float]) -> None:
    low, high = pair
    rng = np.random.default_rng(seed)
    exact = np.where(rng.random((4, 90)) < 0.5, np.float32(low), np.float32(high))
    moved = rng.random(exact.shape) < 0.2
    weight = np.where(moved, np.nextafter(exact, np.float32(9)), exact)
    found = snapped(weight)
    if found is not None:
        assert np.abs(found[0] - exact).max() <= MOST_CHANGE * max(abs(low), abs(high))
        assert max(values_of(found[0])) <= 2
    else:
        assert BinaryWeight.of(weight) is not None


def test_one_scale_serves_all_channels_where_it_can() -> None:
    rng = np.random.default_rng(0)
    found = snapped(straight_through(rng.standard_normal((8, 60)).astype(np.float32), 0.0123))
    assert found is not None and len(np.unique(np.abs(found[0]))) == 1


def test_a_channel_near_zero_and_one_value() -> None:
    """{0, a} keeps its 0 exactly; a channel of zeros or of one value stays."""
    upper = np.nextafter(np.float32(0.7), np.float32(1))
    weight = np.float32([[0, 0.7, upper, 0.7, 0], [0, 0, 0, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]])
    found = snapped(weight)
    assert found is not None
    np.testing.assert_array_equal(found[0], np.float32([[0, 0.7, 0.7, 0.7, 0], [0] * 5, [0.2] * 5]))


@pytest.mark.parametrize(
    "channel",
    [[-1, 0, 1], [-1, 1, 1 + 2**-14], [0.5, 1, 1.5], [-1, 1, np.nan], [-1, 1, np.inf], [-1, 0.5, 1]],
    ids=str,
)
@pytest.mark.parametrize("sign_of_zero", [0, 1])
def test_other_weights_stay(channel: list[float], sign_of_zero: int) -> None:
    weight = np.vstack([np.float32(channel * 40)] * 3)
    assert snapped(weight, sign_of_zero) is None  # a third of zeros is no accident


@pytest.mark.parametrize(("sign", "value"), [(0, None), (1, 0.5), (-1, -0.5)])
def test_a_zero_between_two_signs(sign: int, value: float | None) -> None:
    weight = np.where(np.random.default_rng(0).random((4, 90)) < 0.5, np.float32(-0.5), np.float32(0.5))
    weight[2, 7] = 0
    weight[3] = 0
    found = snapped(weight, sign)
    assert (found is None) == (value is None)
    if found is not None:
        new, change = found
        assert new[2, 7] == value and change.zeros == 1 and change.relative == 0
        assert not new[3].any() and (new != weight).sum() == 1


LATENT = np.random.default_rng(1).standard_normal((16, 8, 3, 3)).astype(np.float32) * 0.1
LAYERS = {
    "y = Conv<pads=[1, 1, 1, 1]>(b, w)": LATENT,
    "y = Conv<group=4>(b, w)": LATENT[:, :2],
    "f = Flatten(b)\ny = Gemm<transB=1>(f, w)": LATENT.reshape(4, 288),
    "f = Flatten(b)\ny = MatMul(f, w)": LATENT.reshape(4, 288).T,
}


@pytest.mark.parametrize(
    "text", [list(LAYERS)[1], *(pytest.param(t, marks=pytest.mark.slow) for t in list(LAYERS)[::2])]
)
def test_layers_agree_with_the_model(text: str) -> None:
    """The layer is binary without a window sum, the report names it, and the library agrees with the model."""
    axis = -1 if "MatMul" in text else 0
    channels_first = np.moveaxis(LAYERS[text], axis, 0)
    flat = channels_first.reshape(len(channels_first), -1)
    weight = straight_through(flat, np.abs(flat).mean(1, keepdims=True)).reshape(channels_first.shape)
    model = small_model(BITS + text, IMAGE, {**BINARIZE, "w": np.moveaxis(weight, 0, axis)})
    module = sbnn_tvm.compile(model)
    (layer,) = module.report.linear
    assert layer.binary or "groups" in layer.kind
    assert layer.weights == "{-a, +a} per channel" and layer.name in module.report.notes[0]
    assert module.verify().passed
    with pytest.raises(CompileError, match="few values but for rounding"):
        sbnn_tvm.compile(model, strict=True)
    (exact,) = explain(model, exact_weights=True).linear
    assert exact.weights == "float32" and not explain(model, exact_weights=True).notes


@pytest.mark.parametrize("sign_zero", ["exact", "positive", "negative"])
def test_zeros_follow_sign_zero(sign_zero: Literal["exact", "positive", "negative"]) -> None:
    weight = np.sign(LATENT)
    weight[3, 2, 1, 1] = 0
    model = small_model(BITS + "y = Conv(b, w)", IMAGE, {**BINARIZE, "w": weight})
    report = explain(model, sign_zero=sign_zero)
    # Without permission the zero is a layer of its own.
    assert [layer.binary for layer in report.linear] == ([False, True] if sign_zero == "exact" else [True])
    if sign_zero != "exact":
        assert report.notes == (
            f"weights of 0 between -a and +a became {'+a' if sign_zero == 'positive' else '-a'}, as "
            f"sign_zero={sign_zero!r} allows: Conv:y (1); exact_weights=True forbids it",
        )
        assert len(explain(model, sign_zero=sign_zero, exact_weights=True).linear) == 2


@pytest.mark.parametrize("codes", [(-1, 0, 1), (-2, -1, 0, 1)], ids=str)
@pytest.mark.parametrize("sign_of_zero", [0, 1])
def test_three_and_four_values_within_rounding(codes: tuple[int, ...], sign_of_zero: int) -> None:
    """Straight-through arithmetic on ternary weights and those of two bits; their zeros are no accident."""
    rng = np.random.default_rng(2)
    exact = rng.choice(codes, (6, 20, 9)) * rng.uniform(0.03, 0.5, (6, 1, 1))
    soft = rng.standard_normal(exact.shape).clip(-1, 1).astype(np.float32)
    weight = exact.astype(np.float32) - soft + soft
    assert max(values_of(weight)) > len(codes)
    found = snapped(weight, sign_of_zero)
    assert found is not None and WeightPlanes.of(found[0]) is not None and not found[1].zeros
    assert values_of(found[0]) == [len(codes)] * 6 and np.abs(found[0] - exact).max() < 1e-6
    assert found[1].relative <= MOST_CHANGE and snapped(found[0], sign_of_zero) is None


def test_a_few_zeros_among_rounded_signs() -> None:
    """Without sign_zero a zero stays, an exception in its channel; with it, it becomes a sign."""
    rng = np.random.default_rng(3)
    weight = straight_through(rng.standard_normal((4, 20, 9)).astype(np.float32), 0.0123)
    weight[1, 2, 3] = 0
    (exact, change), (signed, other) = snapped(weight) or ((), None), snapped(weight, -1) or ((), None)
    assert change is not None and other is not None and (change.zeros, other.zeros) == (0, 1)
    assert values_of(exact) == [2, 3, 2, 2] and values_of(signed) == [2] * 4 and signed[1, 2, 3] < 0
