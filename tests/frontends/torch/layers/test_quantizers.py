"""Quantisers and two-bit weights in torch: values at ties, gradients against their formulas, and what is exported."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.torch import (
    EWGS,
    BinaryConfig,
    BinaryConv2d,
    BinaryLinear,
    DoReFa,
    Quantizer,
    Symmetric,
    TwoBits,
    TwoValues,
    binarize_,
    to_onnx,
)
from tests.support.grids import every
from tests.support.small_models import run_reference


def ewgs(bits: int, lower: float, upper: float, scale: float) -> EWGS:
    quantizer = EWGS(bits)
    with torch.no_grad():
        for parameter, value in ((quantizer.lower, lower), (quantizer.upper, upper), (quantizer.output_scale, scale)):
            parameter.fill_(value)
        quantizer.initialised.fill_(True)
    return quantizer


def near_ties(quantizer: Quantizer) -> Tensor:
    """Every threshold, its neighbours, and numbers far away."""
    thresholds = quantizer.thresholds().detach()
    below, above = (torch.nextafter(thresholds, torch.tensor(to)) for to in (-math.inf, math.inf))
    return torch.cat([thresholds, below, above, torch.tensor([-99.0, 0.0, -0.0, 99.0]), torch.randn(50)])


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_levels(bits: int) -> None:
    x, highest = torch.linspace(-9, 9, 999), (1 << bits) - 1
    codes = torch.arange(highest + 1)
    assert torch.equal(DoReFa(bits, 1.5)(x).unique(), codes * torch.tensor(1.5 / highest))
    assert torch.equal(Symmetric(bits, 0.25)(x).unique(), (2 * codes - highest) * 0.25)
    assert torch.equal(ewgs(bits, -1, 2, -3)(x).unique(), codes * torch.tensor(3 / highest))
    # round() where there is no tie
    dorefa = (x.clamp(0, 1.5) * highest / 1.5).round()
    ties = ((x * highest / 1.5) % 1 - 0.5).abs() < 1e-3
    assert torch.equal(DoReFa(bits, 1.5).integers(x)[~ties], dorefa[~ties])


def test_ties_and_nan_take_the_lower_level() -> None:
    quantizer = Symmetric(2)
    assert quantizer(torch.tensor([-2.0, 0.0, -0.0, 2.0, math.nan])).tolist() == [-3, -1, -1, 1, -3]
    assert DoReFa(2, 3.0)(torch.tensor([0.5, 1.5, 2.5])).tolist() == [0, 1, 2]


def test_gradients_of_dorefa() -> None:
    x = torch.tensor([-1.0, 0.3, 1.1, 2.5], requires_grad=True)
    quantizer = DoReFa(2, 2.0, learned=True)
    quantizer(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == pytest.approx([0, 1, 1, 0])
    # PACT's 1 above c; below, the error of the rounding relative to c: (y - x) / c.
    y = [0, 2 / 3, 4 / 3 - 2 / 3 * (1.1 < 1), 2]
    expected = sum((level - value) / 2 for level, value in zip(y[:3], [0, 0.3, 1.1], strict=True)) + 1
    y_of_03 = DoReFa(2, 2.0)(torch.tensor([0.3])).item()
    expected += (y_of_03 - y[1]) / 2
    assert quantizer.clip.grad is not None and quantizer.clip.grad.item() == pytest.approx(expected)


def test_gradient_of_symmetric() -> None:
    x = torch.tensor([-4.0, -2.9, 0.1, 1.7, 3.1], requires_grad=True)
    Symmetric(2)(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]


def test_gradients_of_ewgs_follow_its_formula() -> None:
    lower, upper, scale, delta = -0.5, 1.5, 0.8, 0.25
    quantizer = ewgs(2, lower, upper, scale)
    quantizer.delta = delta
    x = torch.linspace(-1, 2, 13, requires_grad=True)
    weight = torch.randn(13)
    (quantizer(x) * weight).sum().backward()

    x_n = ((x.detach() - lower) / (upper - lower)).clamp(0, 1)
    x_q = quantizer.integers(x.detach()) / 3
    to_x_q = weight * scale
    to_x_n = to_x_q * (1 + delta * to_x_q.sign() * (x_n - x_q))
    inside = (x.detach() >= lower) & (x.detach() <= upper)
    torch.testing.assert_close(x.grad, torch.where(inside, to_x_n / (upper - lower), 0))
    to_upper = torch.where(inside, -(x.detach() - lower) / (upper - lower) ** 2 * to_x_n, 0).sum()
    torch.testing.assert_close(quantizer.upper.grad, to_upper)
    torch.testing.assert_close(quantizer.output_scale.grad, (weight * x_q).sum())


def test_ewgs_starts_from_its_first_batch() -> None:
    quantizer, x = EWGS(2), torch.randn(4, 100).relu()
    with pytest.raises(ValueError, match="run one in training mode first"):
        quantizer.eval()(x)
    quantizer.train()(x)
    assert quantizer.lower.item() == 0
    assert quantizer.upper.item() == pytest.approx(3 * x.std().item() / math.sqrt(1 - 2 / math.pi))
    quantizer(x * 100)
    assert quantizer.lower.item() == 0 and quantizer.upper.item() < 10
    with pytest.raises(ValueError, match="equal or far from 0"):
        EWGS(2)(torch.full((3,), 7.0))


@pytest.mark.parametrize(("kind", "says"), [
    (lambda: DoReFa(5), "DoReFa takes 1 to 4 bits, but got 5"),
    (lambda: DoReFa(2, 0.0), "positive clip, but got 0"),
    (lambda: Symmetric(2, math.inf), "positive scale, but got inf"),
    (lambda: BinaryConv2d(3, 4, 3, padding_value=1, binarize=DoReFa(2)), "pads with 0, but got padding_value=1"),
])  # fmt: skip
def test_wrong_arguments(kind, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind()


QUANTIZERS = {
    "DoReFa": lambda: DoReFa(2, 1.7),
    "DoReFa of 3 bits": lambda: DoReFa(3, 0.9, learned=True),
    "Symmetric": lambda: Symmetric(2, 0.3),
    "one bit": lambda: Symmetric(1, 0.7),
    "EWGS": lambda: ewgs(2, -0.31, 1.37, -0.77),
}


class Block(nn.Module):
    """Values near ties enter a quantiser; after it come a convolution, a second one and a dense layer."""

    def __init__(self, quantizer, weights) -> None:
        super().__init__()
        self.first = quantizer()
        self.conv = BinaryConv2d(20, 48, 3, padding=1, domain=weights, binarize=quantizer())
        self.bn = nn.BatchNorm2d(48)
        self.wide = BinaryConv2d(48, 40, 3, stride=2, groups=2, domain=weights, binarize=quantizer())
        self.dense = BinaryLinear(40 * 9, 10, domain=weights, binarize=quantizer())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.first(x), self.dense(self.wide(self.bn(self.conv(x))).flatten(1))


@pytest.mark.parametrize("weights", [TwoValues(), TwoBits()], ids=["1-bit weights", "2-bit weights"])
@pytest.mark.parametrize("kind", every(3, QUANTIZERS))
def test_torch_onnxruntime_and_the_library_agree(kind: str, weights) -> None:
    model = Block(QUANTIZERS[kind], weights).eval()
    nn.init.uniform_(model.bn.running_mean, -3, 3)
    nn.init.uniform_(model.bn.running_var, 1, 9)
    values = near_ties(model.first)
    x = values[torch.randint(0, len(values), (2, 20, 8, 8))]
    proto = to_onnx(model, x.shape)
    with torch.no_grad():
        levels, y = (each.numpy() for each in model(x))
    reference = run_reference(proto, {"input": x.numpy()})
    np.testing.assert_array_equal(next(iter(reference.values())), levels)
    np.testing.assert_allclose(list(reference.values())[1], y, rtol=1e-5, atol=1e-5 * np.abs(y).max())

    module = sbnn_tvm.compile(proto, strict=True)
    compiled_levels, compiled = module.run(x.numpy())
    np.testing.assert_array_equal(compiled_levels, levels)
    np.testing.assert_array_equal(compiled, list(reference.values())[1])
    binary = [layer for layer in module.report.linear if layer.binary]
    assert {layer.activations for layer in binary} == {model.first.bits}
    module.verify({"input": x.numpy()})


def test_two_bit_weights_are_the_nearest_levels() -> None:
    layer = BinaryLinear(50, 7, domain=TwoBits(learned=True))
    a, weight = layer.values.a.detach()[:, None], layer.weight.detach()
    levels = torch.tensor([-3.0, -1, 1, 3])
    nearest = levels[(weight[..., None] / a[..., None] - levels).abs().argmin(-1)]
    assert torch.equal(layer.integers(), nearest)
    layer(torch.randn(3, 50)).sum().backward()
    assert layer.weight.grad is not None and layer.values.a.grad is not None


def test_conversion_to_two_bits_trains() -> None:
    torch.manual_seed(0)  # the bounds are those of one training
    model = nn.Sequential(nn.Linear(8, 32), nn.BatchNorm1d(32), nn.Linear(32, 32), nn.BatchNorm1d(32), nn.Linear(32, 2))
    binarize_(model, BinaryConfig(weights=TwoBits(), activations=lambda channels, axis: EWGS(2)))
    assert isinstance(model[2].binarize, EWGS)
    x = torch.randn(256, 8)
    labels = (x[:, 0] > x[:, 1].abs() - 0.5).long()
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(150):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimiser.step()
    assert (model.eval()(x).argmax(1) == labels).float().mean() > 0.9


def test_a_diverged_quantiser_is_not_exported() -> None:
    quantizer = ewgs(2, 1.0, 0.0, 1.0)
    with pytest.raises(ModelError, match=r"quantiser '0' has thresholds .* the training has diverged"):
        to_onnx(nn.Sequential(quantizer), (1, 4))
