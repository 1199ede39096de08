"""Recurrent kernels against numpy: all cells, sizes that fill no vector, both directions, first states."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from sbnn_tvm.schedules.recurrent.sequence import GATES, Cell, Recurrence, Result, recurrent
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.reference.recurrent import recurrence

CELLS = get_args(Cell)


def check(
    rng: np.random.Generator,
    cell: Cell,
    target_name: str,
    hidden: int,
    batch: int = 1,
    *,
    reverse: bool = False,
    initial: bool = False,
    results: tuple[Result, ...] = ("sequence",),
) -> None:
    steps, gates, target = 5, GATES[cell], target_for(target_name)
    weight, bias = normal(rng, hidden, gates * hidden) / np.float32(hidden**0.5), normal(rng, gates * hidden)
    layer = Recurrence(cell, reverse, weight, bias, initial, results)
    projected = normal(rng, steps, batch, gates * hidden)
    states = [normal(rng, batch, hidden) for _ in range(layer.states)]
    outputs = run(recurrent(steps, batch, layer, target.isa), target, projected, *(states if initial else []))
    expected = recurrence(layer, projected, states if initial else None)
    for output, name in zip(outputs, results, strict=True):
        np.testing.assert_allclose(output, expected[name], atol=2e-6, err_msg=name)


@pytest.mark.parametrize("hidden", [1, 20, 64])
@pytest.mark.parametrize("cell", CELLS)
def test_cells(cell: Cell, hidden: int, rng: np.random.Generator) -> None:
    check(rng, cell, "x86-64-v3", hidden)


@pytest.mark.parametrize("cell", CELLS)
def test_directions_first_states_and_results(cell: Cell, rng: np.random.Generator) -> None:
    results: tuple[Result, ...] = ("sequence", "hidden", "cell") if cell == "LSTM" else ("sequence", "hidden")
    check(rng, cell, "x86-64-v3", 21, 3, reverse=True, initial=True, results=results)
    check(rng, cell, "x86-64-v3", 40, 2, results=results[1:])


@pytest.mark.parametrize("target_name", X86 + ARM)
def test_every_target(target_name: str, rng: np.random.Generator) -> None:
    check(rng, "GRU", target_name, 13)
    check(rng, "LSTM", target_name, 13, 2, initial=True)


def test_several_threads(rng: np.random.Generator) -> None:
    check(rng, "LSTM", "x86-64-v3", 40, 4)
