"""Float models whose layers are replaced by binary ones."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.frontends.torch import (
    DEPTHWISE,
    FIRST,
    LAST,
    POINTWISE,
    BinaryConfig,
    BinaryConv2d,
    BinaryLinear,
    EightBit,
    QuantizedConv2d,
    TwoValues,
    WeightDomain,
    binarize_,
)
from tests.support.training_methods import DOMAINS


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
    normed = torch.nn.utils.weight_norm(nn.Linear(4, 4))  # the older one, a hook
    report = binarize_(nn.Sequential(Own(4, 4), hooked, normed, nn.LSTM(4, 4), nn.LazyLinear(4)), skip=())
    assert not report.converted
    for note, reason in zip(
        report.kept,
        ("subclass", "hooks", "parametrizations.weight_norm has a binary form", "LSTM", "subclass"),
        strict=True,
    ):
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


def test_layers_of_eight_bits() -> None:
    config = BinaryConfig(eight_bit=EightBit())
    model = float_model()
    first, last = model[0].weight, model[7].weight
    report = binarize_(model, config, skip=("2", "3"))
    assert (
        [note.name for note in report.eight_bit] == ["0", "7"] and model[0].weight is first and model[7].weight is last
    )
    assert [note.name for note in report.converted] == ["1.0", "6"] and [note.name for note in report.kept] == [
        "2",
        "3",
    ]
    assert "2 layers binary, 2 of 8 bits, 2 float" in str(report) and "0    Conv2d -> 8 bits" in str(report)
    again = binarize_(model, config, skip=("2", "3"))
    assert again.eight_bit and not again.converted and isinstance(model[0], QuantizedConv2d)
    mobile = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3))
    for layers, names in [((DEPTHWISE,), ["1"]), ((POINTWISE,), ["2"]), ((LAST, "1"), ["1", "3"]), ((), [])]:
        config = BinaryConfig(eight_bit=EightBit(), eight_bit_layers=layers)
        report = binarize_(copy.deepcopy(mobile), config, skip=(FIRST, LAST))
        assert [note.name for note in report.eight_bit] == names
    with pytest.warns(UserWarning, match="'1' stays float: LSTM has no 8-bit form"):
        binarize_(nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2)), BinaryConfig(eight_bit=EightBit()), skip=())
    with pytest.raises(ValueError, match="eight_bit_layers='stem' fits no linear layer"):
        binarize_(float_model(), BinaryConfig(eight_bit=EightBit(), eight_bit_layers=("stem",)))
    with pytest.raises(ValueError, match="activations='learned' or 'observed', but got 'fixed'"):
        EightBit("fixed")  # type: ignore[arg-type]


def test_conversion_keeps_device_type_and_mode() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4), nn.Linear(4, 2)).double().eval()
    binarize_(model, BinaryConfig(weights=TwoValues("channel"), learn_threshold=True, activations=BinaryDomain(0, 1)))
    assert model(torch.randn(2, 3, dtype=torch.float64)).dtype == torch.float64
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize("domain", DOMAINS.values(), ids=DOMAINS)
def test_every_domain_starts_from_the_float_weights(domain: WeightDomain) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(54, 2))
    latent = model[1].weight.detach().clone()
    torch.manual_seed(5)
    binarize_(model, BinaryConfig(weights=domain, activations=None))
    torch.manual_seed(5)
    values = domain.build(latent)
    layer = model[1].eval()
    torch.testing.assert_close(layer.values.state_dict(), values.state_dict())
    assert torch.equal(layer.weight, latent) and layer.domain == domain
    assert model(torch.randn(3, 2, 7, 7)).shape == (3, 2)
