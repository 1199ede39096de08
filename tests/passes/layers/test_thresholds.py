"""Epilogues of bits become integer thresholds that give the same bits for every sum."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sbnn_tvm.passes.layers import thresholds
from sbnn_tvm.passes.layers.thresholds import fold_threshold
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Border,
    Channel,
    FloatOutput,
    IntegerThreshold,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.isa import AVX2
from sbnn_tvm.schedules.layouts.words import unpack_channels

CHANNELS = 5


def of_sums(threshold: IntegerThreshold, sums: np.ndarray) -> np.ndarray:
    rising = sums[:, None] >= threshold.threshold
    return np.where(threshold.flip, sums[:, None] <= threshold.threshold, rising)


def by_evaluation(program: Program, sums: np.ndarray) -> np.ndarray:
    result = np.repeat(sums.astype(np.float32)[:, None], CHANNELS, axis=1)
    (words,) = evaluate(program, result, (), AVX2)
    return unpack_channels(words, CHANNELS)


@st.composite
def programs(draw: Any) -> Program:
    """Chains of operations with one constant each, like batch norms, activations and scales."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    steps: list[Step] = []
    for _ in range(draw(st.integers(0, 5))):
        op = draw(st.sampled_from(["add", "subtract", "multiply", "divide", "maximum", "minimum", "prelu"]))
        values = rng.choice(np.float32([-3, -1, -0.3, 0, 0.1, 1 / 3, 0.5, 1, 2, 7]), CHANNELS)
        if op in ("divide", "prelu"):
            values = np.where(values == 0, np.float32(0.25), values)
        other = Channel(values) if draw(st.booleans()) else Scalar(float(values[0]))
        last = Ref(len(steps))
        swapped = op not in ("divide", "prelu") and draw(st.booleans())
        steps.append(Step(op, other, last) if swapped else Step(op, last, other))
    threshold = rng.choice(np.float32([-4, -0.5, 0, 0.3, 2]), CHANNELS)
    limit = Channel(threshold) if draw(st.booleans()) else Scalar(float(threshold[0]))
    return Program(tuple(steps), (BitsOutput(Ref(len(steps)), limit, draw(st.booleans())),))


@given(programs(), st.integers(1, 40))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_folded_thresholds_answer_as_the_program(program: Program, taps: int) -> None:
    sums = np.arange(-taps, taps + 1)
    bits = by_evaluation(program, sums)
    folded = fold_threshold(program, taps, CHANNELS)
    monotone = ((bits[1:] != bits[:-1]).sum(axis=0) <= 1).all()
    assert (folded is not None) == monotone
    if folded is not None:
        np.testing.assert_array_equal(of_sums(folded, sums), bits)


def test_channels_are_folded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = np.float32([0.5, -0.5, 0, 1, 0.1])
    program = Program((Step("multiply", Ref(0), Channel(scale)),), (BitsOutput(Ref(1), Channel(scale)),))
    together = fold_threshold(program, 20, CHANNELS)
    monkeypatch.setattr(thresholds, "AT_ONCE", 100)
    in_blocks = fold_threshold(program, 20, CHANNELS)
    assert together is not None and in_blocks is not None
    np.testing.assert_array_equal(in_blocks.threshold, together.threshold)
    np.testing.assert_array_equal(in_blocks.flip, together.flip)


def test_ties_negative_scales_and_scales_of_zero() -> None:
    """``D * s + o > 0`` in channels with the zero exactly on an integer, rising and falling, and with scale 0."""
    scale, offset = Channel(np.float32([0.5, -0.5, 0, 0, 0.1])), Channel(np.float32([-1, 1, 1, 0, -0.3]))
    steps = (Step("multiply", Ref(0), scale), Step("add", Ref(1), offset))
    sums = np.arange(-9, 10)
    for inclusive in (False, True):
        program = Program(steps, (BitsOutput(Ref(2), Scalar(0.0), inclusive),))
        folded = fold_threshold(program, 9, CHANNELS)
        assert folded is not None
        np.testing.assert_array_equal(of_sums(folded, sums), by_evaluation(program, sums))
        assert folded.threshold[0] == (2 if inclusive else 3)
        assert folded.flip.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    "program",
    [
        Program((), (FloatOutput(Ref(0)),)),
        Program((), (BitsOutput(Ref(0), Scalar(0.0)), FloatOutput(Ref(0)))),
        Program((Step("add", Ref(0), Tensor(0)),), (BitsOutput(Ref(1), Scalar(0.0)),)),
        Program((Step("add", Ref(0), Pixel(0)),), (BitsOutput(Ref(1), Scalar(0.0)),)),
        Program(
            (Step("add", Ref(0), Border(np.zeros((9, CHANNELS), np.float32))),), (BitsOutput(Ref(1), Scalar(0.0)),)
        ),
        Program((Step("prelu", Ref(0), Scalar(-1.0)),), (BitsOutput(Ref(1), Scalar(1.0)),)),
        Program((Step("multiply", Ref(0), Ref(0)),), (BitsOutput(Ref(1), Scalar(1.0)),)),
    ],
    ids=["floats", "bits and floats", "a tensor", "a pixel", "a border", "a slope that falls", "a square"],
)
def test_what_does_not_fold(program: Program) -> None:
    assert fold_threshold(program, 9, CHANNELS) is None
