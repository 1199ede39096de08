"""RBONN: the bilinear gradients and the back-track against the formulas, and that it deploys as plain {-a, +a}."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import (
    RBONN,
    Binarize,
    BinaryConv2d,
    BinaryLinear,
    ReconstructionPenalty,
    backtrack_,
    rbonn_parameter_groups,
)


def test_the_gradients_are_those_of_the_formulas() -> None:
    torch.manual_seed(0)
    layer, x, g = (
        BinaryConv2d(4, 6, 3, domain=RBONN(reconstruction=0.05)),
        torch.randn(3, 4, 7, 7),
        torch.randn(3, 6, 5, 5),
    )
    values, w = layer.values, layer.weight.detach()
    (layer(x) * g).sum().backward()
    s = values.scale.detach().reshape(-1, 1, 1, 1)
    assert (s < 0).any() and (s > 0).any()
    b = 0.02 * w.sign()
    binary = (b * s.abs()).requires_grad_()  # PyTorch differentiates with respect to the binary weights
    (nn.functional.conv2d(x, binary) * g).sum().backward()
    of_binary, binary = binary.grad, binary.detach()
    torch.testing.assert_close(layer(x), nn.functional.conv2d(x, binary))
    torch.testing.assert_close(layer.weight.grad, of_binary * s.abs() + 0.05 * (w - binary), rtol=1e-4, atol=1e-5)
    of_magnitude = (of_binary * w - 0.05 * (w - binary) * b).sum((1, 2, 3))
    torch.testing.assert_close(values.scale.grad, of_magnitude * s.sign().flatten(), rtol=1e-4, atol=1e-5)
    assert (values.recurrence.grad == 0).all()  # nothing to set back yet


def test_weights_of_small_scales_are_set_back() -> None:
    layer, x = BinaryLinear(7, 5, domain=RBONN()), torch.randn(2, 7)
    values = layer.values
    with torch.no_grad():
        values.scale.copy_(torch.tensor([0.5, -0.1, 3.0, 0.2, -4.0]))
    plain = layer(x)
    plain.square().sum().backward()
    backtrack_(layer)
    gradient = layer.weight.grad.clone()
    assert torch.equal(values.last[[1, 3]], gradient[[1, 3]])  # int(5 * 0.4) of them, whatever the sign
    assert (values.last[[0, 2, 4]] == 0).all()
    with torch.no_grad():
        values.last.mul_(1e4)  # so that many signs change
    moved = layer.weight - 0.2 * values.last
    assert torch.equal(layer.signs(), torch.where(moved > 0, 1.0, -1.0)) and not torch.equal(layer(x), plain)
    layer.zero_grad()
    layer(x).square().sum().backward()
    torch.testing.assert_close(values.recurrence.grad, -(layer.weight.grad * values.last).sum(1))
    fresh = BinaryLinear(7, 5, domain=RBONN())
    fresh.load_state_dict(layer.state_dict())  # a resumed training sets back the same weights
    assert torch.equal(fresh(x), layer(x))
    assert torch.equal(layer.eval()(x), plain)  # only training sets back
    layer.weight.grad[1, 0] = float("inf")
    backtrack_(layer)
    assert values.last.isfinite().all()


def test_initial_values() -> None:
    weight = torch.randn(6, 40)
    fitted, drawn = RBONN(init="fit").build(weight), RBONN(backtrack=0.3).build(weight)
    torch.testing.assert_close(fitted(weight)[0], weight.abs().mean(1))
    assert (drawn.recurrence == 0.3).all() and len(drawn.scale.unique()) == 6


def test_parameter_groups() -> None:
    model = nn.Sequential(nn.Linear(3, 4), BinaryLinear(4, 4, domain=RBONN()))
    rest, own = torch.optim.Adam(rbonn_parameter_groups(model, 1e-3), lr=1e-3).param_groups
    assert (rest["lr"], own["lr"]) == (1e-3, 1e-4) and own["params"] == [model[1].values.recurrence]
    assert len(rest["params"]) == 4


def test_wrong_use() -> None:
    with pytest.raises(ValueError, match=r"a constant above 0.*but got RBONN\(constant=0,"):
        RBONN(constant=0)
    with pytest.raises(ValueError, match="init='normal' or 'fit', but got 'unit'"):
        RBONN(init="unit")
    with pytest.raises(ValueError, match="no layers to set back"):
        backtrack_(BinaryLinear(2, 2))
    layer = BinaryLinear(2, 2, domain=RBONN())
    with pytest.raises(ValueError, match=r"call backtrack_ after loss\.backward"):
        backtrack_(layer)
    with pytest.raises(ValueError, match="the domain RBONN adds this penalty itself"):
        ReconstructionPenalty(layer)


def test_a_trained_layer_deploys_as_plain_signs() -> None:
    torch.manual_seed(0)
    layer = BinaryConv2d(32, 16, 3, padding=1, domain=RBONN(), binarize=Binarize())
    model = nn.Sequential(layer, nn.BatchNorm2d(16), nn.Flatten(), nn.Linear(16 * 36, 4))
    optimizer = torch.optim.Adam(rbonn_parameter_groups(model, 1e-2), lr=1e-2)
    images, labels = torch.randn(32, 32, 6, 6), torch.arange(32) % 4
    losses = []
    for _ in range(12):
        losses.append(nn.functional.cross_entropy(model(images), labels))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
        backtrack_(model)
    assert losses[-1] < losses[0] / 2 and (layer.values.recurrence != 0.2).any()
    module = sbnn_tvm.compile(model.eval(), input_shape=(1, 32, 6, 6))
    (report,) = [each for each in module.report.linear if each.binary]
    assert report.weights == "{-a, +a} per channel"
    assert module.verify().passed
