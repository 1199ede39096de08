"""Binarize and the gradients of its estimators."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from sbnn_tvm.algebra.domain import BIT, BinaryDomain
from sbnn_tvm.frontends import torch as sbnn
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryLinear,
)
from tests.support.reference.estimators import SLOPES


def test_binarize_is_strict_and_sends_nan_to_lo() -> None:
    x = torch.tensor([-1.0, -0.0, 0.0, 1e-45, 2.0, math.nan])
    assert Binarize()(x).tolist() == [-1, -1, -1, 1, 1, -1]
    assert Binarize(threshold=2.0, domain=BIT)(x).tolist() == [0] * 6


@pytest.mark.parametrize(("shape", "axis"), [((2, 3), 1), ((2, 3, 4, 5), 1), ((2, 4, 3), -1)])
def test_binarize_per_channel(shape: tuple[int, ...], axis: int) -> None:
    layer = Binarize(3, learned=True, domain=BinaryDomain(-0.5, 2.0), channel_axis=axis)
    with torch.no_grad():
        layer.threshold.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    x = torch.randint(-2, 3, shape).float()
    column = layer.threshold.detach().reshape([3 if i == axis % len(shape) else 1 for i in range(len(shape))])
    assert torch.equal(layer(x), torch.where(x > column, 2.0, -0.5))


def test_binarize_names_a_wrong_channel_count() -> None:
    with pytest.raises(ValueError, match=r"3 thresholds along axis 1, but its input has shape \[2, 4\]"):
        Binarize(3)(torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"has shape \[3\]"):
        Binarize(3)(torch.zeros(3))


@pytest.mark.parametrize("name", SLOPES)
def test_gradients_of_binarize(name: str) -> None:
    layer = Binarize(3, 0.25, learned=True, domain=BinaryDomain(-1.0, 2.0), estimator=name)
    x = torch.linspace(-2, 2, 24).reshape(2, 3, 4).requires_grad_()
    grad = torch.randn(2, 3, 4)
    layer(x).backward(grad)
    expected = grad * 1.5 * SLOPES[name](x.detach() - 0.25)
    torch.testing.assert_close(x.grad, expected)
    torch.testing.assert_close(layer.threshold.grad, -expected.sum((0, 2)))


def test_one_learned_threshold() -> None:
    layer = Binarize(learned=True, estimator="identity")
    layer(torch.randn(2, 3)).sum().backward()
    assert layer.threshold.grad.item() == -6


def test_polynomial_is_the_derivative_of_bi_reals_approximation() -> None:
    u = torch.linspace(-1.5, 1.5, 301, dtype=torch.float64).requires_grad_()
    approximation = torch.where(u < 0, 2 * u + u**2, 2 * u - u**2)
    approximation = torch.where(u.abs() < 1, approximation, u.sign().detach())
    approximation.sum().backward()
    torch.testing.assert_close(sbnn.Polynomial().slope(u.detach()), u.grad)


def test_ede_sharpens_with_progress() -> None:
    model = nn.Sequential(Binarize(estimator="ede"), BinaryLinear(2, 2, estimator="ede"))
    u = torch.tensor([0.0, 0.5])
    before = model[0].estimator.slope(u)
    sbnn.set_progress(model, 1.0)
    after = model[0].estimator.slope(u)
    torch.testing.assert_close(before, 1 - torch.tanh(0.1 * u) ** 2)
    torch.testing.assert_close(after, 10 * (1 - torch.tanh(10 * u) ** 2))
    assert model[1].estimator.progress == 1.0


def test_progress_is_saved_and_does_not_bind_an_estimator() -> None:
    trained = BinaryLinear(2, 2, estimator="ede")
    sbnn.set_progress(trained, 0.75)
    same, other = BinaryLinear(2, 2, estimator="ede"), BinaryLinear(2, 2)
    same.load_state_dict(trained.state_dict())
    assert same.estimator.progress == 0.75
    other.load_state_dict(trained.state_dict())  # to deploy it, say
    assert torch.equal(other.weight, trained.weight)
    same.load_state_dict(other.state_dict())  # also the state of an earlier version
    assert same.estimator.progress == 0.75


def test_a_broken_estimator_is_named() -> None:
    class Mine(sbnn.Estimator):
        def __init__(self) -> None:
            self.steepness = 2.0

        def slope(self, u: torch.Tensor) -> torch.Tensor:
            return u * self.steepness

    with pytest.raises(ValueError, match=r"Mine.__init__ does not call super\(\).__init__\(\)"):
        Binarize(estimator=Mine())


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'tanh'; pass identity, clip, polynomial, ede"):
        Binarize(estimator="tanh")
