"""SiMaN's magnitude codes against brute force, their gradients, and what is saved of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sbnn_tvm.frontends.torch import (
    BinarizeAboveMean,
    BinaryConv2d,
    BinaryLinear,
    Magnitudes,
    parameter_groups,
    set_progress,
)
from sbnn_tvm.frontends.torch.methods.siman import optimal_ones


def test_optimal_ones_is_the_best_angle() -> None:
    magnitudes = torch.rand(20, 9, dtype=torch.float64)
    patterns = torch.tensor([[(code >> i) & 1 for i in range(9)] for code in range(1, 512)], dtype=torch.float64)
    cosines = magnitudes @ patterns.T / (magnitudes.norm(dim=1, keepdim=True) * patterns.norm(dim=1))
    assert torch.equal(optimal_ones(magnitudes), patterns[cosines.argmax(1)].sum(1).long())


@pytest.mark.parametrize(
    ("sample", "share"),
    [
        (lambda shape: torch.distributions.Laplace(0, 1).sample(shape), 1 / np.e),
        (torch.randn, 0.541),
        (torch.rand, 2 / 3),
    ],
    ids=["laplace", "gauss", "uniform"],
)
def test_optimal_share_of_known_distributions(sample, share: float) -> None:
    found = optimal_ones(sample((32, 20000)).abs()) / 20000
    assert abs(found.mean() - share) < 4 * found.std() / 32**0.5


@pytest.mark.parametrize("values", ["signs", "bits"])
@pytest.mark.parametrize("rule", ["half", "optimal"])
def test_magnitude_code(values, rule) -> None:
    layer = BinaryConv2d(3, 4, 3, domain=Magnitudes(values, rule, clamp=0.0))
    layer.train()
    x = torch.randn(2, 3, 5, 5)
    y = layer(x)
    weight = layer.weight.detach()  # centred by the forward pass
    torch.testing.assert_close(weight.flatten(1).mean(1), torch.zeros(4), atol=1e-7, rtol=0)
    magnitude = weight.flatten(1).abs()
    ones = optimal_ones(magnitude) if rule == "optimal" else torch.full((4,), 27 // 2)
    signs = layer.signs().detach().flatten(1)
    assert torch.equal((signs > 0).sum(1), ones)
    for row, sign in zip(magnitude, signs, strict=True):
        assert row[sign > 0].min() > row[sign < 0].max()

    y.square().sum().backward()
    grad = layer.weight.grad.clone()
    leaf = weight.clone().requires_grad_()
    centred = leaf - leaf.mean((1, 2, 3), keepdim=True)
    standardised = centred / (centred.square().mean((1, 2, 3), keepdim=True).sqrt() + 1e-5)
    codes = standardised.abs() + (layer.signs() - standardised.abs()).detach()
    if values == "bits":
        codes = standardised.abs() + ((layer.signs() + 1) / 2 - standardised.abs()).detach()
    scale = layer.values.scale.detach().reshape(-1, 1, 1, 1)
    torch.nn.functional.conv2d(x, codes * scale).square().sum().backward()
    torch.testing.assert_close(grad, leaf.grad, rtol=1e-4, atol=1e-4)


def test_magnitude_code_is_frozen_in_eval_mode_and_saved() -> None:
    layer = BinaryLinear(64, 8, domain=Magnitudes())
    layer.eval()
    with torch.no_grad():
        before = layer.signs()
        layer.weight.copy_(torch.randn(8, 64))
        weight = layer.weight.clone()
        assert torch.equal(layer.signs(), before) and torch.equal(layer.weight, weight)
    other = BinaryLinear(64, 8, domain=Magnitudes()).eval()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.signs(), before)
    layer.train()
    assert not torch.equal(layer.signs(), before)


@pytest.mark.parametrize(("progress", "percent"), [(0.0, 15), (0.5, 7.5), (1.0, 0)])
def test_outliers_are_clamped_to_percentiles(progress: float, percent: float) -> None:
    layer = BinaryLinear(1000, 4, domain=Magnitudes())
    set_progress(layer, progress)
    centred = (layer.weight - layer.weight.mean(1, keepdim=True)).detach()
    layer(torch.ones(1, 1000))
    magnitude = layer.weight.detach().abs()
    bounds = np.percentile(centred.abs().numpy(), [percent, 100 - percent], method="nearest")
    np.testing.assert_allclose([magnitude.min(), magnitude.max()], bounds, rtol=1e-6)


def test_weight_decay_spares_latent_weights() -> None:
    model = nn.Sequential(nn.Conv2d(1, 4, 3), BinaryConv2d(4, 4, 3, bias=True, domain=Magnitudes()))
    others, latent = parameter_groups(model, 5e-4)
    assert latent["weight_decay"] == 0 and [p is model[1].weight for p in latent["params"]] == [True]
    assert others["weight_decay"] == 5e-4 and len(others["params"]) == 4


def test_binarize_above_mean() -> None:
    x = torch.randn(3, 4, 5, 6, requires_grad=True)
    y = BinarizeAboveMean()(x)
    assert torch.equal(y > 0, x > x.mean((1, 2, 3), keepdim=True))
    weight = torch.randn_like(x)
    (y * weight).sum().backward()
    leaf = x.detach().clone().requires_grad_()
    deviation = leaf.std((1, 2, 3), keepdim=True, correction=0)
    normal = (leaf - leaf.mean((1, 2, 3), keepdim=True)) / (deviation + 1e-5)
    normal.backward(weight * (2 - 2 * normal.detach().abs()).clamp_min(0))
    torch.testing.assert_close(x.grad, leaf.grad)
