"""Domains with a zero, and pruned layers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sbnn_tvm.frontends.torch import (
    BinaryConfig,
    BinaryConv2d,
    BinaryLinear,
    Bits,
    ExpectedConnections,
    Magnitudes,
    ScaledBits,
    ScaledSigns,
    TwoValues,
    binarize_,
    clamp_latent_,
    keep_densest_,
)
from tests.support.export import written


@pytest.mark.parametrize("domain", [Bits(), ScaledBits(), ScaledBits("layer"), Magnitudes("bits")], ids=str)
def test_domains_of_zero_and_a(domain) -> None:
    layer = BinaryConv2d(5, 7, 3, domain=domain).eval()
    scale, offset = layer.values(layer.weight)
    assert torch.equal(scale, offset) and (scale > 0).all()
    values = (scale[:, None] * layer.signs().flatten(1) + offset[:, None]).unique(dim=1)
    assert set(values[0].tolist()) == {0.0, 2 * scale[0].item()}
    if isinstance(layer.domain, ScaledBits):
        with torch.no_grad():
            layer.values.scale.neg_()
    file = written(layer)
    assert np.array_equal(file["scale"], file["offset"]) and (file["scale"] > 0).all()
    assert np.array_equal(file["signs"], layer.signs().detach().numpy())


@pytest.mark.parametrize("domain", [TwoValues(), Bits(), ScaledBits(), Magnitudes("bits")], ids=str)
def test_pruned_weights_take_the_lower_value(domain) -> None:
    layer = BinaryConv2d(8, 6, 3, domain=domain)
    with torch.no_grad():
        layer.weight.abs_()
    prune.l1_unstructured(layer, "weight", 0.75)
    pruned = layer.weight_mask == 0
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        layer(torch.randn(2, 8, 6, 6)).square().mean().backward()
        assert (layer.weight_orig.grad[pruned] == 0).all() and (layer.weight_orig.grad != 0).any()
        optimizer.step()
    clamp_latent_(layer, 0.09)
    assert layer.weight_orig.abs().max() <= 0.09
    assert (layer.signs()[pruned] == -1).all() and layer.density() <= 0.25
    assert (written(layer)["signs"][pruned.numpy()] == -1).all()
    if not isinstance(domain, Magnitudes):
        keep_densest_(layer, 0.1)
        assert layer.density() == pytest.approx(43 / 432)
        assert 0 < ExpectedConnections(layer, 0.05, weight=1.0)(torch.tensor(1.0)) < 0.06


def test_a_pruned_float_layer_stays_pruned() -> None:
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 10))
    prune.random_unstructured(model[1], "weight", 0.5)
    mask = model[1].weight_mask.clone()
    with pytest.raises(ValueError, match=r"layer '1': weights of a layer with domain=ScaledSigns.* are pruned"):
        binarize_(model)
    assert len(binarize_(model, BinaryConfig(weights=TwoValues())).converted) == 1
    model(torch.randn(2, 1, 8, 8)).sum().backward()
    assert (model[1].signs()[mask == 0] == -1).all()


def test_signs_cannot_be_pruned() -> None:
    layer = BinaryLinear(8, 8, domain=ScaledSigns())
    prune.l1_unstructured(layer, "weight", 0.5)
    with pytest.raises(ValueError, match="neither of its two values stands for a pruned weight"):
        layer(torch.ones(1, 8))


def test_the_gradient_of_scaled_signs_is_that_of_its_formula() -> None:
    """Against the formulas of the papers' code, with a weight matrix that PyTorch differentiates."""
    torch.manual_seed(0)
    x, out = torch.randn(3, 4, 6, 6).sign(), torch.randn(3, 5, 4, 4)
    results = []
    for domain in (ScaledSigns(), ScaledSigns(gradient="unscaled"), ScaledSigns(gradient="xnor")):
        torch.manual_seed(1)
        layer = BinaryConv2d(4, 5, 3, domain=domain)
        with torch.no_grad():
            layer.weight.mul_(8)  # some of them beyond the slope's end
        results.append(layer(x))
        (results[-1] * out).sum().backward()
        weight = layer.weight.detach().requires_grad_()
        scale = weight.detach().abs().mean((1, 2, 3), keepdim=True)
        signs, inside = weight.detach().sign(), weight.clamp(-1, 1)
        formula = {
            "scaled": scale * (signs - inside.detach() + inside),
            "unscaled": (scale * signs).detach() - inside.detach() + inside,
            "xnor": scale * (signs - inside.detach() + inside) + (weight - weight.detach()) / weight[0].numel(),
        }[domain.gradient]
        (nn.functional.conv2d(x, formula) * out).sum().backward()
        assert 0 < (weight.detach().abs() > 1).sum() < weight.numel()
        torch.testing.assert_close(layer.weight.grad, weight.grad)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])  # the forward pass is the same


def test_the_gradient_of_scaled_signs_without_a_scale_is_0_not_nan() -> None:
    for gradient in ("scaled", "unscaled", "xnor"):
        layer = BinaryLinear(4, 2, domain=ScaledSigns(gradient=gradient))
        with torch.no_grad():
            layer.weight[0] = 0
        layer(torch.ones(1, 4)).sum().backward()
        assert (layer.weight.grad[0] == 0).all() and (layer.weight.grad[1] != 0).all()


def test_a_learned_scale_of_any_sign_divides_out() -> None:
    layer = BinaryLinear(4, 2, domain=ScaledSigns(learned=True, gradient="unscaled"))
    with torch.no_grad():
        layer.values.tau.copy_(torch.tensor([-0.5, 2.0]))
    layer(torch.ones(1, 4)).sum().backward()
    torch.testing.assert_close(layer.weight.grad, torch.ones(2, 4))
    assert (layer.values.tau.grad == layer.signs().sum(1)).all()


def test_wrong_gradients_of_scaled_signs() -> None:
    with pytest.raises(ValueError, match="takes gradient='scaled', 'unscaled' or 'xnor', but got 'none'"):
        ScaledSigns(gradient="none")
    with pytest.raises(ValueError, match="learned=True makes it a parameter; take gradient='scaled'"):
        ScaledSigns(learned=True, gradient="xnor")
