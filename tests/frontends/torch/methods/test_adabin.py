"""AdaBin's two values of weights and activations, their gradients, and Maxout."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sbnn_tvm.frontends.torch import (
    Adaptive,
    AdaptiveBinarize,
    BinaryLinear,
    Maxout,
    to_onnx,
)


def test_adaptive_weights_are_mean_and_deviation() -> None:
    layer = BinaryLinear(20, 3, domain=Adaptive(), estimator="identity")
    mean, deviation = layer.weight.mean(1, keepdim=True), layer.weight.std(1, keepdim=True, correction=0)
    expected = mean + torch.where(layer.weight > mean, deviation, -deviation)
    torch.testing.assert_close(layer(torch.eye(20)).T, expected)


@pytest.mark.parametrize("alpha", [0.75, -0.75])
def test_adaptive_binarize(alpha: float) -> None:
    layer = AdaptiveBinarize(estimator="polynomial")
    with torch.no_grad():
        layer.alpha.fill_(alpha)
        layer.beta.fill_(0.25)
    x = torch.tensor([-2.0, 0.0, 0.25, 0.3, 2.0], requires_grad=True)
    y = layer(x)
    lo, hi = 0.25 * alpha - 0.75, 0.25 * alpha + 0.75
    assert y.tolist() == [lo, lo, lo, hi, hi]
    grad = torch.randn(5)
    y.backward(grad)
    u = (x.detach() - 0.25) / 0.75
    slope = (2 - 2 * u.abs()).clamp_min(0)
    torch.testing.assert_close(x.grad, grad * slope)
    torch.testing.assert_close(layer.beta.grad, (grad * (alpha - slope)).sum())
    sign, signs = np.sign(alpha), torch.where(x > 0.25, 1.0, -1.0)
    torch.testing.assert_close(layer.alpha.grad, (grad * (sign * (signs - u * slope) + 0.25)).sum())
    node = next(n for n in to_onnx(nn.Sequential(layer), (1, 5)).graph.node if n.op_type == "Binarize")
    assert {a.name: a.f for a in node.attribute} == {"lo": lo, "hi": hi}


def test_the_gradients_of_the_authors() -> None:
    """EDE for weights is the layer's argument; activations have Bi-Real Net's polynomial by default."""
    x = torch.linspace(-2, 2, 9, requires_grad=True)
    AdaptiveBinarize()(x).sum().backward()
    torch.testing.assert_close(x.grad, (2 - 2 * x.detach().abs()).clamp_min(0))


def test_maxout() -> None:
    layer = Maxout(2, 0.5, 0.25)
    x = torch.tensor([[-2.0, 2.0]])
    assert layer(x).tolist() == [[-0.5, 1.0]]
