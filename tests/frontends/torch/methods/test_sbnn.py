"""SBNN's closed form against brute force, and its penalty."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sbnn_tvm.frontends.torch import (
    SBNN_CIFAR10,
    SBNN_CIFAR100,
    BinaryConv2d,
    BinaryLinear,
    Bits,
    ExpectedConnections,
    Magnitudes,
    TwoValues,
    keep_densest_,
)
from sbnn_tvm.frontends.torch.methods.sbnn import canonical, fit_, two_means
from tests.support.export import written


@pytest.mark.parametrize("n", [2, 3, 7, 10])
def test_closed_form_is_the_best_of_all_sets(n: int) -> None:
    rows = torch.randn(6, n, dtype=torch.float64)
    rows[0] = rows[0].round()  # ties
    rows[1] = 1.5
    for members in [None, *range(1, n)]:
        fit = two_means(rows, members)
        best = []
        for row in rows:
            errors = []
            for size in range(1, n) if members is None else (members, n - members):
                for chosen in combinations(range(n), size):
                    mask = torch.zeros(n, dtype=torch.bool)
                    mask[list(chosen)] = True
                    errors.append(row[mask].var(correction=0) * size + row[~mask].var(correction=0) * (n - size))
            best.append(min(errors))
        torch.testing.assert_close((fit.values() - rows).square().sum(1), torch.stack(best), atol=1e-12, rtol=1e-9)
        assert (fit.lo <= fit.hi).all()
        if members is not None:
            assert set(fit.bits.sum(1).tolist()) <= {members, n - members}


def test_closed_form_splits_in_the_middle_of_its_values() -> None:
    rows = torch.randn(3, 1000)
    fit = two_means(rows)
    assert torch.equal(fit.bits, rows > ((fit.lo + fit.hi) / 2)[:, None])


def test_closed_form_errors() -> None:
    with pytest.raises(ValueError, match="at least two numbers per row, but got 1"):
        two_means(torch.zeros(3, 1))
    with pytest.raises(ValueError, match="1 to 3 of them, but members=4"):
        two_means(torch.zeros(3, 4), 4)
    with pytest.raises(ValueError, match=r"for domain=TwoValues\(...\), but the layer has Bits"):
        fit_(BinaryLinear(4, 4, domain=Bits()))


@pytest.mark.parametrize("per", ["layer", "channel"])
@pytest.mark.parametrize("density", [None, 0.1])
def test_fit_writes_the_closed_form_into_a_layer(per, density) -> None:
    layer = BinaryConv2d(8, 6, 3, domain=TwoValues(per))
    rows = layer.weight.detach().reshape(6 if per == "channel" else 1, -1).clone()
    fit_(layer, density)
    fit = two_means(rows, None if density is None else round(density * rows.shape[1]))
    scale, offset = layer.values(layer.weight)
    weight = scale[:, None] * layer.signs().flatten(1) + offset[:, None]
    torch.testing.assert_close(weight.reshape(rows.shape), fit.values())


def test_fit_with_a_lower_value_of_zero_takes_the_mean_of_the_largest_weights() -> None:
    layer = BinaryConv2d(8, 6, 3, domain=TwoValues("channel"))
    rows = layer.weight.detach().flatten(1).clone()
    fit_(layer, 0.1, zero=True)
    scale, offset = layer.values(layer.weight)
    largest = rows.topk(7, dim=1)
    expected = torch.zeros_like(rows).scatter(1, largest.indices, largest.values.mean(1, keepdim=True).expand(-1, 7))
    torch.testing.assert_close(scale[:, None] * layer.signs().flatten(1) + offset[:, None], expected)
    with pytest.raises(ValueError, match="needs a density"):
        fit_(layer, zero=True)


def test_expected_connections() -> None:
    model = nn.Sequential(BinaryLinear(10, 10, domain=TwoValues()), BinaryLinear(10, 5, domain=TwoValues()))
    ones = int(sum((layer.weight > 0).sum() for layer in model))
    loss = torch.tensor(3.0, requires_grad=True)
    penalty = ExpectedConnections(model, 0.05, gamma=0.1)(loss)
    torch.testing.assert_close(penalty, torch.tensor(3.0 / 9))
    penalty.backward()
    weight = 0.1 * 3 / (0.9 * (ones / 150 - 0.05))
    for layer in model:
        torch.testing.assert_close(layer.weight.grad, torch.full_like(layer.weight, weight / 300))
    assert loss.grad is None

    constant = ExpectedConnections(model, 0.05, weight=2.0)(loss)
    torch.testing.assert_close(constant, torch.tensor(2 * (ones / 150 - 0.05)))
    for expected in (ones / 150, 1.0):  # reached
        assert ExpectedConnections(model, expected, gamma=0.1)(loss) == 0


def test_expected_connections_refuses_wrong_arguments() -> None:
    layer = BinaryLinear(4, 4)
    for kwargs, message in [
        ({"expected": 2, "gamma": 0.1}, "from 0 to 1, but got 2"),
        ({"expected": 0.1}, "either gamma or weight"),
        ({"expected": 0.1, "gamma": 0.1, "weight": 1.0}, "either gamma or weight"),
        ({"expected": 0.1, "gamma": 1.0}, "up to but not 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            ExpectedConnections(layer, **kwargs)
    with pytest.raises(ValueError, match="no binary layers"):
        ExpectedConnections(nn.Linear(4, 4), 0.1, gamma=0.1)(torch.tensor(1.0))
    with pytest.raises(ValueError, match="does not take its signs from the latent weights' signs"):
        keep_densest_(BinaryLinear(4, 4, domain=Magnitudes()), 0.1)


@pytest.mark.parametrize("per", ["channel", "layer", "model"])
def test_keep_densest(per) -> None:
    model = nn.Sequential(BinaryLinear(20, 30, domain=TwoValues()), BinaryLinear(30, 10, domain=TwoValues()))
    before = [layer.weight.detach().clone() for layer in model]
    keep_densest_(model, 0.05, per)
    if per == "channel":
        assert all(((layer.weight > 0).sum(1) == ones).all() for layer, ones in zip(model, (1, 2), strict=True))
        assert all(
            (layer.weight > 0).gather(1, w.argmax(1, keepdim=True)).all()
            for layer, w in zip(model, before, strict=True)
        )
    elif per == "layer":
        assert [int((layer.weight > 0).sum()) for layer in model] == [30, 15]
    else:
        border = torch.cat([weight.flatten() for weight in before]).topk(45).values[-1]
        assert all(torch.equal(layer.weight > 0, weight >= border) for layer, weight in zip(model, before, strict=True))


@pytest.mark.parametrize("per", ["channel", "layer", "model"])
def test_keep_densest_leaves_pruned_weights_out(per) -> None:
    layer = BinaryLinear(10, 3, domain=TwoValues())
    mask = torch.zeros(3, 10)
    mask[0, :1] = mask[1, :5] = 1  # the last channel has none
    prune.custom_from_mask(layer, "weight", mask)
    keep_densest_(layer, 0.3, per)
    ones = (layer.signs() > 0).sum(1).tolist()
    assert ones == [1, 3, 0] if per == "channel" else (sum(ones) == 6 and ones[2] == 0)
    assert layer.latent().isfinite().all()


def test_canonical_values_of_a_negative_scale() -> None:
    layer = BinaryLinear(16, 2, domain=TwoValues(init="unit"))
    with torch.no_grad():
        layer.weight.fill_(-1.0)
        layer.weight[:, 3] = 1.0
        layer.values.tau.fill_(-0.5)
        layer.values.phi.fill_(0.25)
    values = canonical(layer)
    assert values.alpha.tolist() == [0.75, 0.75] and values.beta.tolist() == [-0.25, -0.25]
    assert values.density == 1 / 16
    file = written(layer)
    assert file["scale"].tolist() == [0.5, 0.5] and file["offset"].tolist() == [0.25, 0.25]
    assert (file["signs"][:, 3] == -1).all() and file["signs"].sum() == 28


def test_the_recipes_of_the_paper() -> None:
    cifar10, cifar100 = SBNN_CIFAR10, SBNN_CIFAR100
    assert (cifar10.weight_estimator, cifar10.estimator, cifar10.learn_threshold) == ("ede", "ede", False)
    assert (cifar100.weight_estimator, cifar100.estimator, cifar100.learn_threshold) == ("identity", "polynomial", True)
    assert [recipe.gamma(0.02) for recipe in (cifar10, cifar100)] == [0.08, 0.06]
    layer = BinaryLinear(20, 4, domain=cifar10.domain)
    assert (layer.values.tau.item(), layer.values.phi.item()) == (1, 0)
    loss = torch.tensor(3.0)
    assert cifar10.penalty(layer, 0.1)(loss).item() == pytest.approx(3 * 0.04 / 0.96)
    assert cifar10.penalty(layer, 0.5)(loss) == 0
    with pytest.raises(ValueError, match=r"a gamma for expected=0\.5, 0\.05, 0\.04, .*but got 0\.1; for another share"):
        cifar100.penalty(layer, 0.1)
