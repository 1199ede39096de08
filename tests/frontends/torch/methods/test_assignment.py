"""Assignments against brute force, and what Sinkhorn's plans add up to."""

from __future__ import annotations

from itertools import permutations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sbnn_tvm.frontends.torch.methods.assignment import best_assignment, sinkhorn


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4).flatmap(lambda n: st.tuples(st.just(n), st.integers(n, 5))), st.integers(0, 999), st.booleans()
)
def test_best_assignment_is_the_best(shape: tuple[int, int], seed: int, ties: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(shape, generator=generator)
    if ties:
        scores = torch.randint(2, shape, generator=generator).float()
    chosen = best_assignment(scores).tolist()
    assert len(set(chosen)) == shape[0]
    every = permutations(range(shape[1]), shape[0])
    best = max(sum(scores[row, column].item() for row, column in enumerate(each)) for each in every)
    assert sum(scores[row, column].item() for row, column in enumerate(chosen)) == pytest.approx(best)


def test_rows_that_want_the_same_columns() -> None:
    scores = torch.randn(1, 512).expand(16, 512).clone() + 1e-3 * torch.randn(16, 512)
    chosen = best_assignment(scores)
    assert set(chosen.tolist()) == set(scores.mean(0).topk(16).indices.tolist())


def test_a_plan_shares_out_the_columns() -> None:
    scores = torch.randn(4, 16, requires_grad=True)
    plan = sinkhorn(scores, 50)
    torch.testing.assert_close(plan.sum(1), torch.ones(4))
    assert (plan >= 0).all() and (plan.sum(0) <= 1 + 1e-5).all()
    plan[0, 0].backward()
    assert scores.grad[0, 0] > 0
    contested = torch.tensor([[3.0, 2.0, 0.0, 0.0], [3.0, 0.0, 1.0, 0.0]])
    assert sinkhorn(contested / 0.1, 200).argmax(1).tolist() == best_assignment(contested).tolist() == [1, 0]
