"""The pieces of a program are what it computes, at every number that is tried."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.passes.step_functions.ordinals import INFINITY, numbers, ordinals
from sbnn_tvm.passes.step_functions.pieces import Pieces, find_pieces
from sbnn_tvm.passes.step_functions.program import BOOL, FLOAT, Program
from sbnn_tvm.passes.step_functions.steps import Grid, Steps
from tests.support.random_programs import random_program


def places_to_try(rng: np.random.Generator, pieces: Pieces, lane: int) -> np.ndarray:
    """Positions around all changes, zero, the limits of the proof, and random ones; finite numbers."""
    within = ordinals(np.float32(pieces.exact_within))
    near = np.concatenate([pieces.starts[lane], [0, 1 << 23, -(1 << 23)], within])
    around = (near[:, None] + np.arange(-4, 5)).reshape(-1)
    small = ordinals(rng.standard_normal(300).astype(np.float32))
    places = np.concatenate([around, small, rng.integers(1 - INFINITY, INFINITY, 300)])
    return np.clip(places, max(within[0], 1 - INFINITY), min(within[1], INFINITY - 1))


def agree(program: Program, pieces: Pieces, rng: np.random.Generator) -> None:
    for lane in range(program.lanes):
        places = places_to_try(rng, pieces, lane)
        want = program.run(numbers(places), np.full(len(places), lane))[-1]
        piece = np.searchsorted(pieces.starts[lane], places, side="right") - 1
        np.testing.assert_array_equal(pieces.values[lane][np.maximum(piece, 0)], want)


@pytest.mark.parametrize("group", range(3))
def test_random_programs(group: int) -> None:
    rng = np.random.default_rng(group)
    found = 0
    for _ in range(25):
        program = random_program(rng, 6)
        pieces = find_pieces(program)
        if pieces is not None:
            agree(program, pieces, rng)
            found += len(pieces.levels) > 1
    assert found > 2


@pytest.mark.fuzz
def test_many_random_programs() -> None:
    for seed in range(3000):
        rng = np.random.default_rng(1000 + seed)
        program = random_program(rng, int(rng.integers(3, 16)))
        if (pieces := find_pieces(program)) is not None:
            agree(program, pieces, rng)


def rounding(lanes: np.ndarray) -> Program:
    """round(clip(x / lanes, 0, 3)), but with the clip last."""
    program = Program()
    quotient = program.add("divide", [0, program.constant(lanes)], FLOAT)
    whole = program.add("round", [quotient], FLOAT)
    above = program.add("maximum", [whole, program.constant(np.zeros(1))], FLOAT)
    program.add("minimum", [above, program.constant(np.full(1, 3.0))], FLOAT)
    return program


def test_thresholds_with_ties_to_even() -> None:
    pieces = find_pieces(rounding(np.ones(1)))
    assert pieces is not None
    np.testing.assert_array_equal(pieces.values[0], [0, 1, 2, 3])
    last = Steps.of(pieces)
    assert last is not None
    below = np.nextafter(np.float32(1.5), np.float32(0))
    np.testing.assert_array_equal(last.exclusive()[:, 0], np.float32([0.5, below, 2.5]))


def test_lanes_that_rise_and_fall() -> None:
    program, lane_of = rounding(np.array([0.5, -0.3, 2.0, 0.5])).one_lane_each()
    assert program.lanes == 3
    pieces = find_pieces(program)
    assert pieces is not None
    steps = Steps.of(pieces)
    assert steps is not None
    np.testing.assert_array_equal(steps.spread(lane_of).falls, [False, True, False, False])
    x = np.float32(np.random.default_rng(0).standard_normal(500))
    for lane, sign in enumerate([-1, 1, 1]):  # lanes are sorted by their constants
        codes = (np.float32(sign) * x[:, None] > steps.exclusive()[:, lane]).sum(axis=1)
        np.testing.assert_array_equal(steps.levels[codes], program.run(np.float64(x), np.full(len(x), lane))[-1])


def test_what_is_not_a_step_function() -> None:
    band = Program()
    inside = band.add("less", [band.add("abs", [0], FLOAT), band.constant(np.ones(1))], BOOL)
    band.add("to_float", [inside], FLOAT)
    pieces = find_pieces(band)
    assert pieces is not None and Steps.of(pieces) is None
    smooth = Program()
    smooth.add("multiply", [0, 0], FLOAT)
    assert find_pieces(smooth) is None


def test_the_range_of_the_proof() -> None:
    program = Program()
    sign = program.add("sign", [0], FLOAT)
    program.add("add", [0, program.add("subtract", [sign, 0], FLOAT)], FLOAT)
    pieces = find_pieces(program)
    assert pieces is not None
    assert pieces.exact_within == (-(2.0**24), 2.0**24) and not pieces.nan_outside
    bounded = find_pieces(program, -100.0, 100.0)
    assert bounded is not None and bounded.exact_within == (-100.0, 100.0)
    positive = find_pieces(program, 0.0, 100.0)
    assert positive is not None
    np.testing.assert_array_equal(positive.levels, [0, 1])


@pytest.mark.parametrize(
    ("levels", "codes"),
    [
        ([-1, 0, 1], (0, 1, 2)),
        ([0, 1 / 3, 2 / 3, 1], (0, 1, 2, 3)),
        ([-0.3, -0.1, 0.1, 0.3], None),
        ([0, 0.25, 0.75], (0, 1, 3)),
        ([0, 1, 2, 17], None),
        ([0, 1, np.pi], None),
    ],
)
def test_levels_as_arithmetic_on_codes(levels: list[float], codes: tuple[int, ...] | None) -> None:
    exact = np.float32(levels)
    grid = Grid.of(exact)
    if grid is None:
        assert codes is None
        return
    assert codes is None or grid.codes == codes
    inner = np.float32(grid.codes) + np.float32(grid.before)
    by = np.float32(grid.by)
    np.testing.assert_array_equal((inner / by if grid.divides else inner * by) + np.float32(grid.after), exact)
