"""Binary layers in torch: values, gradients against their formulas, conversion, models, and that training works."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional

from sbnn_tvm.algebra.domain import BIT, BinaryDomain
from sbnn_tvm.frontends import torch as sbnn
from sbnn_tvm.frontends.torch import (
    FIRST,
    LAST,
    Binarize,
    BinaryConfig,
    BinaryConv2d,
    BinaryLinear,
    ScaledSigns,
    Signs,
    TwoValues,
    binarize_,
)

DOMAINS = [Signs(), ScaledSigns(), ScaledSigns(learned=True), TwoValues(), TwoValues("channel"), TwoValues(init="unit")]


@pytest.fixture(autouse=True)
def _seed_and_one_thread() -> Iterator[None]:
    """One thread: more of them wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def signs_like(*shape: int) -> torch.Tensor:
    return torch.randint(0, 2, shape).float() * 2 - 1


# Binarize and the estimators


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


SLOPES = {
    "identity": lambda u: torch.ones_like(u),
    "clip": lambda u: (u.abs() <= 1).float(),
    "polynomial": lambda u: torch.where(u.abs() < 1, 2 - 2 * u.abs(), 0),
    "ede": lambda u: 10 * 0.1 * (1 - torch.tanh(0.1 * u) ** 2),
}


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


def test_an_unknown_estimator_is_named() -> None:
    with pytest.raises(ValueError, match="unknown estimator 'tanh'; pass identity, clip, polynomial, ede"):
        Binarize(estimator="tanh")


# layers


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


# conversion of float models


def float_model() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Sequential(nn.Conv2d(8, 8, 3, padding="same", groups=2), nn.BatchNorm2d(8)),
        nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"),
        nn.ConvTranspose2d(8, 8, 2, 2),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 16),
        nn.Linear(16, 10),
    )


def test_binarize_keeps_weights_and_reports() -> None:
    model = float_model()
    latent, bias = model[1][0].weight, model[1][0].bias
    report = binarize_(model, BinaryConfig(learn_threshold=True))
    assert [note.name for note in report.converted] == ["1.0", "6"]
    assert isinstance(model[1][0], BinaryConv2d) and isinstance(model[6], BinaryLinear)
    assert model[1][0].weight is latent and model[1][0].bias is bias
    assert model[1][0].binarize.threshold.shape == (8,) and model[6].binarize.threshold.shape == (32,)
    reasons = {note.name: note.reason for note in report.kept}
    assert reasons["0"] == "skipped, the first linear layer" and reasons["7"] == "skipped, the last linear layer"
    assert "padding_mode='reflect'" in reasons["2"] and "ConvTranspose2d has no binary form" in reasons["3"]
    assert "1.0" in str(report) and "ConvTranspose2d stays float" in str(report)
    model(torch.randn(1, 3, 8, 8)).sum().backward()
    assert latent.grad is not None


def test_a_converted_layer_computes_what_it_should() -> None:
    layer = nn.Conv2d(4, 5, 3, 2, padding=1)
    model = nn.Sequential(layer)
    binarize_(model, skip=())
    x = torch.randn(2, 4, 7, 7)
    scale = layer.weight.abs().mean((1, 2, 3), keepdim=True)
    weight = torch.where(layer.weight > 0, scale, -scale)
    expected = functional.conv2d(torch.where(x > 0, 1.0, -1.0), weight, layer.bias, 2, 1)
    torch.testing.assert_close(model(x), expected)


@pytest.mark.parametrize(
    ("skip", "converted"),
    [
        ((), ["0", "1.0", "6", "7"]),
        ((FIRST,), ["1.0", "6", "7"]),
        ((FIRST, LAST, "1.*"), ["6"]),
        (lambda name, module: isinstance(module, nn.Linear), ["0", "1.0"]),
    ],
)
def test_skip(skip, converted: list[str]) -> None:
    assert [note.name for note in binarize_(float_model(), skip=skip).converted] == converted


def test_layers_that_cannot_be_replaced_are_reported() -> None:
    class Own(nn.Linear):
        pass

    hooked = nn.Linear(4, 4)
    hooked.register_forward_hook(lambda *_: None)
    normed = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    report = binarize_(nn.Sequential(Own(4, 4), hooked, normed, nn.LSTM(4, 4), nn.LazyLinear(4)), skip=())
    assert not report.converted
    for note, reason in zip(report.kept, ("subclass", "hooks", "subclass", "LSTM", "subclass"), strict=True):
        assert reason in note.reason


def test_a_shared_layer_stays_shared() -> None:
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    report = binarize_(model, skip=())
    assert model[0] is model[2] and isinstance(model[0], BinaryLinear) and len(report.converted) == 1


def test_conversion_errors() -> None:
    with pytest.raises(ValueError, match=r"skip='heads' fits no linear layer of the model; they are 0, 1"):
        binarize_(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), skip=("heads",))
    with pytest.raises(ValueError, match="collection of names"):
        binarize_(nn.Sequential(nn.Linear(2, 2)), skip="0")
    with pytest.raises(ValueError, match="the model itself is a Linear"):
        binarize_(nn.Linear(2, 2), skip=())


def test_conversion_keeps_device_type_and_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double().eval()
    binarize_(model, BinaryConfig(weights=TwoValues("channel"), learn_threshold=True, activations=BinaryDomain(0, 1)))
    assert model(torch.randn(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert not any(module.training for module in model.modules())


# models


def test_resnet18_is_bi_real_18() -> None:
    with torch.device("meta"):
        model = sbnn.resnet18()
    layers = [module for module in model.modules() if isinstance(module, BinaryConv2d)]
    assert len(layers) == 16
    assert sum(layer.weight.numel() for layer in layers) == 10_985_472
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("size", [7, 8, 13])
def test_resnet_of_any_size(size: int) -> None:
    model = sbnn.resnet(5, in_channels=1, image_size=size, widths=(4, 8, 8), blocks=(1, 2, 1), prelu=True)
    assert model.example_input_array.shape == (1, 1, size, size)
    assert model(torch.randn(2, 1, size, size)).shape == (2, 5)


def test_vgg_of_any_size() -> None:
    model = sbnn.vgg_small(7, image_size=9, stages=((4,), (8, 8)), hidden=(16,), learn_threshold=True)
    assert sum(isinstance(module, BinaryConv2d | BinaryLinear) for module in model.modules()) == 3
    assert model(torch.randn(2, 3, 9, 9)).shape == (2, 7)


def test_model_errors() -> None:
    with pytest.raises(ValueError, match="image_size=4 cannot be halved 3 times"):
        sbnn.vgg_small(image_size=4)
    with pytest.raises(ValueError, match="one number a stage, but got 4 and 2"):
        sbnn.resnet(blocks=(1, 1))
    with pytest.raises(ValueError, match="'small' or 'imagenet', but got 'big'"):
        sbnn.resnet(stem="big")  # type: ignore[arg-type]


# training


def test_training_on_digits() -> None:
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
