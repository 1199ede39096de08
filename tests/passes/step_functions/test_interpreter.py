"""What the interpreter is certain of holds for every number that is tried."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.passes.step_functions.affine import Form
from sbnn_tvm.passes.step_functions.interpreter import Rows, interpret
from sbnn_tvm.passes.step_functions.ordinals import (
    INFINITY,
    half_step_below,
    lowest_bit,
    numbers,
    ordinals,
    rounded,
)
from sbnn_tvm.passes.step_functions.program import FLOAT
from tests.support.random_programs import random_program
from tests.support.special_floats import SPECIAL


def random_rows(rng: np.random.Generator, lanes: int, count: int) -> Rows:
    """Intervals of all sizes, many around 0, powers of two and small numbers."""
    middle = ordinals(rng.choice(np.float32([0, 1, -1, 0.5, 2, -3, 1e-38, 1e7, 1e30]), count))
    middle += rng.integers(-(1 << 24), 1 << 24, count)
    below, above = (1 << rng.integers(0, 30, count) for _ in range(2))
    limits = (1 - INFINITY, INFINITY - 1)
    first, last = np.clip(middle - below, *limits), np.clip(middle + above, *limits)
    return Rows(rng.integers(0, lanes, count), first, last)


@pytest.mark.parametrize("seed", range(60))
def test_bounds_and_directions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    program = random_program(rng)
    rows = random_rows(rng, program.lanes, 40)
    found = interpret(program, rows)
    tried = [rows.first, rows.last, *(rng.integers(rows.first, rows.last + 1) for _ in range(60))]
    tried += [np.clip(at, rows.first, rows.last) for at in (np.zeros_like(rows.first), rows.first + 1, rows.last - 1)]
    places = np.sort(np.stack(tried), axis=0)
    computed = [program.run(numbers(at), rows.lane) for at in places]
    for number, value in enumerate(found.values):
        sure = ~value.unsure
        values = np.stack([each[number] for each in computed])[:, sure]
        assert not np.isnan(values).any()
        assert (values >= value.low[sure]).all() and (values <= value.high[sure]).all()
        with np.errstate(invalid="ignore"):
            change = np.nan_to_num(np.diff(values, axis=0))
        assert (change[:, value.rising[sure]] >= 0).all() and (change[:, value.falling[sure]] <= 0).all()
        grid = value.grid[sure]
        finite = np.isfinite(values) & np.isfinite(grid)
        with np.errstate(all="ignore"):
            assert (np.fmod(values, grid)[finite] == 0).all()
    for kink, exact in found.kinks:
        states = np.stack([kink.of(each) for each in computed])[:, exact]
        change = np.diff(states, axis=0)
        assert ((change >= 0).all(axis=0) | (change <= 0).all(axis=0)).all()


def test_terms_cancel() -> None:
    one, zero = np.ones(3), np.zeros(3)
    clamp = Form.atom(4, 3)
    difference = Form({}, one, zero).plus(clamp.times(-one)).with_error(np.full(3, 2.0**-25))
    total = difference.plus(clamp)
    assert not total.terms
    low, high = total.bounds([], [])
    np.testing.assert_array_equal(rounded(low), 1)  # half a step below 1 rounds to even
    np.testing.assert_array_equal(rounded(high), 1)


def test_positions_and_steps() -> None:
    values = SPECIAL[~np.isnan(SPECIAL)].astype(np.float32)
    np.testing.assert_array_equal(numbers(ordinals(values)), values)
    rng = np.random.default_rng(0)
    positions = rng.integers(-INFINITY + 1, INFINITY, 1000)
    np.testing.assert_array_equal(ordinals(numbers(positions).astype(np.float32)), positions)
    low, high = numbers(np.abs(positions) - 1), numbers(np.abs(positions))
    np.testing.assert_array_equal(half_step_below(high) * 2, np.maximum(high - low, 2.0**-149))
    np.testing.assert_array_equal(
        lowest_bit(np.array([0.0, 1.0, -6.0, 0.75, 2.0**-149])), [np.inf, 1, 2, 0.25, 2.0**-149]
    )


def test_a_program_has_each_operation_once() -> None:
    program = random_program(np.random.default_rng(3))
    before = len(program.nodes)
    last = program.nodes[-1]
    assert program.add(last.op, last.args, FLOAT) == before - 1
    assert len(program.nodes) == before
