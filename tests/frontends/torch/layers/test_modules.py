"""Binary convolutions and linear layers: values, gradients, arguments, state."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from sbnn_tvm.frontends import torch as sbnn
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BinaryLinear,
    ScaledSigns,
    Signs,
    TwoValues,
)
from tests.support.reference.estimators import SLOPES

DOMAINS = [Signs(), ScaledSigns(), ScaledSigns(learned=True), TwoValues(), TwoValues("channel"), TwoValues(init="unit")]


def signs_like(*shape: int) -> torch.Tensor:
    return torch.randint(0, 2, shape).float() * 2 - 1


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
@pytest.mark.parametrize("pad_value", [-1, 0, 1])
def test_conv_is_a_convolution_with_the_two_values(domain, pad_value: int) -> None:
    layer = BinaryConv2d(4, 6, (3, 2), (2, 1), (1, 0, 2, 1), (1, 2), 2, True, padding_value=pad_value, domain=domain)
    nn.init.normal_(layer.bias)
    x = signs_like(2, 4, 9, 8)
    scale, offset = layer.values(layer.weight)
    weight = torch.where(layer.weight > 0, 1.0, -1.0) * scale.reshape(-1, 1, 1, 1)
    if offset is not None:
        weight = weight + offset.reshape(-1, 1, 1, 1)
    padded = functional.pad(x, (0, 1, 1, 2), value=pad_value)
    expected = functional.conv2d(padded, weight, layer.bias, (2, 1), 0, (1, 2), 2)
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("domain", DOMAINS, ids=str)
def test_linear_is_a_product_with_the_two_values(domain) -> None:
    layer = BinaryLinear(13, 5, True, domain=domain)
    x = signs_like(2, 3, 13)
    scale, offset = layer.values(layer.weight)
    weight = torch.where(layer.weight > 0, 1.0, -1.0) * scale[:, None] + (0 if offset is None else offset[:, None])
    torch.testing.assert_close(layer(x), functional.linear(x, weight, layer.bias))


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("shape", [(1, 64, 14, 3), (16, 96, 9, 3), (2, 512, 7, 1), (16, 32, 14, 5)])
def test_integer_parts_are_exact(shape: tuple[int, int, int, int]) -> None:
    batch, channels, size, kernel = shape
    layer = BinaryConv2d(channels, 32, kernel, padding=1, domain=Signs())
    x = signs_like(batch, channels, size, size)
    exact = functional.conv2d(x.double(), layer.signs().double(), padding=1)
    assert torch.equal(layer(x).double(), exact)
    with torch.backends.mkldnn.flags(enabled=False):  # as on machines where torch has no oneDNN
        assert torch.equal(layer(x).double(), exact)


def test_a_latent_zero_is_minus_one() -> None:
    layer = BinaryLinear(3, 1, domain=Signs())
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, -0.0, 1e-45]]))
    assert layer.signs().tolist() == [[-1, -1, 1]]
    assert layer.density() == pytest.approx(1 / 3)


@pytest.mark.parametrize("name", ["identity", "clip", "polynomial"])
def test_gradients_of_a_layer(name: str) -> None:
    """d/dw = scale * slope(w) * (what a float layer's weight would get); tau and phi get its sums."""
    layer = BinaryLinear(7, 4, domain=TwoValues("channel"), estimator=name)
    with torch.no_grad():
        layer.weight.mul_(4)
    x, grad = signs_like(3, 7), torch.randn(3, 4)
    layer(x).backward(grad)
    to_weight = grad.T @ x
    tau, latent = layer.values.tau.detach(), layer.weight.detach()
    torch.testing.assert_close(layer.weight.grad, to_weight * tau[:, None] * SLOPES[name](latent))
    torch.testing.assert_close(layer.values.tau.grad, (to_weight * layer.signs().detach()).sum(1))
    torch.testing.assert_close(layer.values.phi.grad, to_weight.sum(1))


def test_no_gradient_flows_through_the_mean_magnitude() -> None:
    layer = BinaryLinear(7, 4, estimator="identity")
    x, grad = signs_like(3, 7), torch.randn(3, 4)
    layer(x).backward(grad)
    scale = layer.weight.detach().abs().mean(1)
    torch.testing.assert_close(layer.weight.grad, grad.T @ x * scale[:, None])


def test_fit_is_the_least_squares_optimum_for_the_signs() -> None:
    weight = torch.randn(3, 20)
    values = TwoValues("channel").build(weight)
    for row, tau, phi in zip(weight, values.tau, values.phi, strict=True):
        columns = torch.stack([torch.where(row > 0, 1.0, -1.0), torch.ones(20)], 1)
        torch.testing.assert_close(torch.stack([tau, phi]), torch.linalg.lstsq(columns, row[:, None]).solution[:, 0])


def test_clamping_latent_weights() -> None:
    model = nn.Sequential(BinaryLinear(4, 4), nn.Linear(4, 4))
    for layer in model:
        nn.init.constant_(layer.weight, 5.0)
    sbnn.clamp_latent_(model, 1.5)
    assert (model[0].weight == 1.5).all() and (model[1].weight == 5).all()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"groups": 3}, "groups=3 must divide in_channels=4"),
        ({"padding_value": 2}, "padding_value must be -1, 0 or 1, but got 2"),
        ({"padding": "same", "stride": 2}, "'same' needs stride 1"),
        ({"padding": (1, 2, 3)}, "one, two or four numbers"),
        ({"padding": -1}, "numbers from 0"),
        ({"dilation": 0}, "positive numbers, but got 0"),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BinaryConv2d(4, 4, 3, **kwargs)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_same_padding_is_torchs() -> None:
    x, layer = signs_like(1, 2, 6, 7), BinaryConv2d(2, 3, (2, 4), padding="same", domain=Signs())
    assert torch.equal(layer(x), functional.conv2d(x, layer.signs(), padding="same"))


def test_repr_says_what_matters() -> None:
    text = repr(BinaryConv2d(4, 8, 3, padding=1, padding_value=-1, domain=TwoValues("channel"), binarize=Binarize(4)))
    for part in ("4, 8", "pads=(1, 1, 1, 1)", "padding_value=-1", "TwoValues(per='channel'", "Clip", "Polynomial"):
        assert part in text


def test_state_round_trips() -> None:
    def build() -> nn.Module:
        return BinaryConv2d(4, 4, 3, domain=TwoValues("channel"), binarize=Binarize(4, learned=True))

    one, other = build(), build()
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 4, 5, 5)
    assert torch.equal(one(x), other(x))


def test_training_on_digits() -> None:
    torch.manual_seed(0)  # the bounds are those of one training
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
    y = torch.tensor(labels)
    order = torch.randperm(len(x))
    train, test = order[:1200], order[1200:]
    model = sbnn.resnet(10, in_channels=1, image_size=8, widths=(16, 32), blocks=(2, 2), domain=TwoValues("channel"))
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(8):
        for batch in train[torch.randperm(len(train))].split(64):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
            sbnn.clamp_latent_(model)
    model.eval()
    with torch.no_grad():
        accuracy = (model(x[test]).argmax(1) == y[test]).float().mean().item()
    assert accuracy > 0.9
