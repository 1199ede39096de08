"""Inputs that ``verify`` draws: whole ranges, legal indices, values at thresholds, ties and zeros."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import onnx
import pytest

from sbnn_tvm.runtime.inputs import random_inputs
from sbnn_tvm.runtime.metadata import TensorSpec
from sbnn_tvm.verification.inputs import DrawnInputs, RandomInputs
from sbnn_tvm.verification.reference import Reference
from tests.support.small_models import small_model

ENDS = {"hi": 1.0, "lo": -1.0}


def drawn(
    text: str, shape: tuple[int, ...], dtype: str, constants: Mapping[str, object], samples: int = 3
) -> DrawnInputs:
    model: onnx.ModelProto = small_model(text, {"x": (shape, dtype)}, constants)
    return RandomInputs(samples, 0).draw(Reference(model), [TensorSpec("x", shape, dtype)])


def all_of(inputs: DrawnInputs) -> np.ndarray:
    return np.concatenate([array.reshape(-1) for (array,) in inputs])


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_small_integers_cover_their_type(dtype: str, rng: np.random.Generator) -> None:
    (image,) = random_inputs([TensorSpec("image", (1, 3, 32, 32), dtype)], rng)
    info = np.iinfo(dtype)
    width = int(info.max) - int(info.min)
    assert image.dtype == dtype and image.max() > info.max - width // 16 and image.min() < info.min + width // 16
    assert len(np.unique(image)) > 100


def test_large_integers_without_a_known_range_are_legal_indices(rng: np.random.Generator) -> None:
    for dtype in ("int32", "int64", "uint64", "bool"):
        (array,) = random_inputs([TensorSpec("x", (64,), dtype)], rng)
        assert array.dtype == dtype and set(array.tolist()) == {0, 1}


def test_integers_of_the_whole_range() -> None:
    values = all_of(drawn("y = Add(x, x)", (64,), "int64", {}))
    assert values.max() > 2**61 and values.min() < -(2**61)


def test_integers_that_become_floats_stay_small_enough() -> None:
    values = all_of(drawn("y = Cast<to=1>(x)", (64,), "int32", {}))
    assert 2**13 < np.abs(values).max() <= 2**15


@pytest.mark.parametrize(
    ("text", "constants", "first", "last"),
    [
        ("y = Gather(table, x)", {"table": np.zeros((10, 4))}, -10, 9),
        ("y = Gather<axis=1>(table, x)", {"table": np.zeros((4, 7))}, -7, 6),
        ("r = Reshape(x, s)\ny = Gather(table, r)", {"table": np.zeros((10, 4)), "s": np.int64([8, 8])}, -10, 9),
        ("y = OneHot(x, depth, ends)", {"depth": np.int64(5), "ends": np.float32([0, 1])}, -5, 5),
        ("y = Div(seven, x)", {"seven": np.int64(7)}, 1, 2**15),
    ],
)
def test_integers_that_are_indices_or_divisors(
    text: str, constants: Mapping[str, object], first: int, last: int
) -> None:
    inputs = drawn(text, (64,), "int64", constants)
    assert inputs.ranges == {"x": (first, last)} and not inputs.note
    values = all_of(inputs)
    assert first <= values.min() and values.max() <= last


def test_lengths_of_sequences() -> None:
    text = "y = ReverseSequence<time_axis=0, batch_axis=1>(t, x)"
    inputs = drawn(text, (64,), "int64", {"t": np.zeros((5, 64))})
    assert inputs.ranges == {"x": (1, 5)}


def test_what_the_reference_refuses_is_drawn_from_0_and_1_and_said(capfd: pytest.CaptureFixture[str]) -> None:
    """Indices with an offset, which no rule follows."""
    inputs = drawn(
        "z = Add(x, k)\ny = Gather(table, z)", (64,), "int64", {"table": np.zeros((10, 4)), "k": np.int64(5)}
    )
    assert set(all_of(inputs).tolist()) == {0, 1}
    assert inputs.note.startswith("integer inputs were drawn from 0 and 1, since with a wider range onnxruntime")
    assert not capfd.readouterr().err


def test_floats_at_a_threshold_beside_it_and_at_zero() -> None:
    threshold = np.array([[[0.3]], [[-0.7]]], np.float32)
    inputs = drawn("c = Greater(x, t)\ny = Where(c, hi, lo)", (1, 2, 20, 20), "float32", {**ENDS, "t": threshold})
    for (x,) in inputs:
        for channel, limit in zip(x[0], threshold.reshape(-1), strict=True):
            for value in (limit, np.nextafter(limit, np.float32(9)), np.nextafter(limit, np.float32(-9))):
                assert (channel == value).any()
        assert np.signbit(x[x == 0]).any() and not np.signbit(x[x == 0]).all()
        assert (np.abs(x[x != 0]) > 0).all() and (np.abs(x[x != 0]).min() < np.finfo(np.float32).tiny)
    first, *others = inputs
    assert np.abs(first).max() < 6 < max(np.abs(other).max() for other in others)


def test_no_denormals_for_cpus_that_take_them_for_zeros() -> None:
    inputs = drawn("y = Sign(x)", (1, 2, 20, 20), "float32", {})
    values = all_of(replace(inputs, random=replace(inputs.random, denormals=False)))
    tiny = np.finfo(np.float32).tiny
    assert (values == 0).any() and (values == tiny).any() and np.abs(values[values != 0]).min() == tiny


def test_thresholds_are_found_through_scales_shifts_and_types() -> None:
    """An image of bytes, scaled to 0 to 1: the threshold is at 127.5."""
    text = "f = Cast<to=1>(x)\ns = Div(f, full)\nd = Sub(s, half)\nc = Less(d, zero)\ny = Where(c, hi, lo)"
    inputs = drawn(text, (1, 3, 32, 32), "uint8", {**ENDS, "full": 255.0, "half": 0.5, "zero": 0.0})
    assert inputs.points["x"][0].reshape(-1) == pytest.approx([127.5])
    values = all_of(inputs)
    assert ((values >= 126) & (values <= 129)).mean() > 0.1 and values.max() > 250


def test_thresholds_are_found_through_batch_norm() -> None:
    constants = {"s": np.float32([2, -4]), "b": np.float32([1, 1]), "m": np.float32([0, 8]), "v": np.float32([1, 1])}
    text = "n = BatchNormalization<epsilon = 0.0>(x, s, b, m, v)\ny = Sign(n)"
    inputs = drawn(text, (1, 2, 8, 8), "float32", constants)
    assert inputs.points["x"][0].reshape(-1).tolist() == [-0.5, 8.25]


def test_ties_of_a_rounding() -> None:
    (x,) = next(iter(drawn("m = Mul(x, s)\ny = Round(m)", (1, 8, 20, 20), "float32", {"s": 4.0})))
    scaled = 4 * x
    ties = np.unique(scaled[scaled % 1 == 0.5])
    assert set(ties.tolist()) >= {-1.5, -0.5, 0.5, 1.5, 2.5}


def test_thresholds_of_a_quantiser() -> None:
    thresholds = np.float32([-0.25, 0.5, 1.25])
    (x,) = next(iter(drawn("y = ai.sbnn.Quantize(x, t)", (1, 4, 20, 20), "float32", {"t": thresholds})))
    assert all((x == threshold).any() for threshold in thresholds)


def test_the_same_seed_draws_the_same() -> None:
    inputs = drawn("y = Relu(x)", (4, 4), "float32", {})
    assert np.array_equal(all_of(inputs), all_of(inputs))
    assert len(list(drawn("y = Relu(x)", (4, 4), "float32", {}, samples=7))) == 7
