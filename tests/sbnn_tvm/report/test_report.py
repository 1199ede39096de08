"""The report: what it says of each kind of layer, and why something is not binary."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.compiler import explain
from sbnn_tvm.errors import CompileError
from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    ScaledSigns,
    Signs,
    TwoValues,
    WeightDomain,
    resnet18,
)
from sbnn_tvm.report.report import LayerReport, Report
from tests.support import foreign_models
from tests.support.binarised_models import BINARIZE, BITS, IMAGE
from tests.support.random_arrays import normal, two_valued
from tests.support.small_models import small_model


def layers(text: str, inputs: Mapping[str, Any], constants: Mapping[str, Any], **options: Any) -> list[LayerReport]:
    return list(explain(small_model(text, inputs, constants), **options).layers)


FLOAT_INPUT = "its activations are not two-valued: they are the model's input"
AFTER_RELU = "its activations are not two-valued: they come from 'Relu:r' (relu); put a binariser between"


def layers_and_reasons(rng: np.random.Generator) -> list[tuple[str, np.ndarray, str]]:
    """Graphs, the weight of their last layer, and why that is not binary."""
    return [
        (
            "y = Conv(x, w)",
            normal(rng, 4, 8, 3, 3),
            f"its weights take 72 values in output channel 0, and {FLOAT_INPUT}",
        ),
        ("y = Conv(x, w)", two_valued(rng, -1, 1, 4, 8, 3, 3), f"its weights are binary, but {FLOAT_INPUT}"),
        (
            BITS + "y = Conv(b, w)",
            rng.choice(np.float32([-1, 0, 1]), (4, 8, 3, 3)),
            "its activations are two-valued, but its weights take 3 values in output channel 0: -1, 0, 1 (ternary)",
        ),
        ("r = Relu(x)\ny = Conv(r, w)", two_valued(rng, 0, 1, 4, 8, 3, 3), f"its weights are binary, but {AFTER_RELU}"),
        (
            "r = Relu(x)\nf = Flatten(r)\ny = MatMul(f, w)",
            two_valued(rng, -1, 1, 288, 5),
            f"its weights are binary, but {AFTER_RELU}",
        ),
        (BITS + "p = Pad(b, pads)\ny = Conv(p, w)", two_valued(rng, -1, 1, 4, 8, 3, 3), ""),
        (
            "y = Conv(x, w)",
            np.full((4, 8, 3, 3), np.nan, np.float32),
            f"its weights in output channel 0 are not all finite, and {FLOAT_INPUT}",
        ),
        (
            "r = Conv(x, v)\ny = Conv(r, w)",
            normal(rng, 4, 2, 1, 1),
            "it has no more than 2 weights per output channel, and its activations are not two-valued: "
            "they come from 'Conv:r' (conv2d)",
        ),
    ]


@pytest.mark.parametrize(
    ("text", "weight", "why"),
    layers_and_reasons(np.random.default_rng(0)),
)
def test_why_not_binary(text: str, weight: np.ndarray, why: str, rng: np.random.Generator) -> None:
    constants = {**BINARIZE, "w": weight, "v": normal(rng, 2, 8, 1, 1), "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    layer = layers(text, IMAGE, constants)[-1]
    assert layer.why == why and layer.binary == (not why)


@pytest.mark.parametrize("value", [-1.0, 2.0])
def test_padding_with_a_third_value(value: float, rng: np.random.Generator) -> None:
    constants = {**BINARIZE, "lo": 0.0, "v": value, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}
    *_, layer = layers(
        BITS + "p = Pad(b, pads, v)\ny = Conv(p, w)", IMAGE, {**constants, "w": two_valued(rng, -1, 1, 4, 8, 3, 3)}
    )
    assert not layer.binary and f"are not two-valued: 'Pad:p' pads values {{0, 1}} with {value:g}" in layer.why


def test_a_group_of_few_channels_runs_in_float(rng: np.random.Generator) -> None:
    *_, layer = layers(BITS + "y = Conv<group=8>(b, w)", IMAGE, {**BINARIZE, "w": two_valued(rng, -1, 1, 8, 1, 3, 3)})
    assert (layer.kind, layer.activations, layer.fallback) == ("conv 3x3, 8 groups", 32, True)
    assert "too few channels for popcounts to pay" in layer.why and layer.density is not None


def test_operators_without_a_kernel(rng: np.random.Generator) -> None:
    first, second = layers("s = Sin(x)\ny = Conv(s, w)", {"x": (1, 8, 4, 4, 4)}, {"w": normal(rng, 4, 8, 3, 3, 3)})
    assert (first.kind, second.kind) == ("sin", "conv3d")
    assert first.kernel == second.kernel == "TVM (unscheduled)" and first.fallback and not first.scheduled
    assert first.why == "there is no kernel of ours for this operator" and first.bytes == first.macs == 0


CHANNELS = 72
DIFFERENT = torch.linspace(0.25, 1, CHANNELS)
DOMAINS: list[tuple[WeightDomain, float | torch.Tensor, float | torch.Tensor, str]] = [
    (Signs(), 1.0, 0.0, "{-1, +1}"),
    (ScaledSigns(learned=True), DIFFERENT, 0.0, "{-a, +a} per channel"),
    (ScaledSigns(learned=True), 0.5, 0.0, "{-0.5, 0.5}"),
    (ScaledSigns(learned=True), -0.5, 0.0, "{-0.5, 0.5}"),
    (TwoValues(), 0.5, -0.25, "{-0.75, 0.25}"),
    (TwoValues(per="channel"), DIFFERENT, -0.25, "{a, b} per channel"),
]


def test_domain_and_density_of_weights() -> None:
    """Of exported convolutions, grouped convolutions and linear layers, on activations of two domains."""
    make: list[Callable[..., BinaryLayer]] = [
        partial(BinaryConv2d, CHANNELS, CHANNELS, 1),
        partial(BinaryConv2d, CHANNELS, CHANNELS, 3, padding=1, groups=2),
        partial(BinaryLinear, CHANNELS, CHANNELS),
    ]
    chain: list[nn.Module] = []
    for new in make:
        if new is make[-1]:
            chain += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        for i, (domain, tau, phi, _) in enumerate(DOMAINS):
            activations = BinaryDomain(-0.5, 1.5) if i % 2 else BinaryDomain(-1, 1)
            layer = new(domain=domain, binarize=Binarize(domain=activations))
            with torch.no_grad():
                layer.weight.fill_(-1)
                layer.weight[: CHANNELS // 4] = 1
                if hasattr(layer.values, "tau"):
                    layer.values.tau.copy_(torch.as_tensor(tau))
                    if layer.values.phi is not None:
                        layer.values.phi.copy_(torch.as_tensor(phi))
            chain.append(layer)
    report = explain(nn.Sequential(*chain).eval(), input_shape=(3, CHANNELS, 4, 4))
    assert report.model == "Sequential" and len(report.linear) == 3 * len(DOMAINS)
    for i, layer in enumerate(report.linear):
        _, tau, phi, shown = DOMAINS[i % len(DOMAINS)]
        if i // len(DOMAINS) == 1 and phi:
            shown = "{a, b} per channel"  # offsets of groups are added as a tensor
        falling = isinstance(tau, float) and tau < 0
        assert (layer.weights, layer.density, layer.binary) == (shown, 0.75 if falling else 0.25, True), layer
        weights = [CHANNELS, 9 * CHANNELS // 2, CHANNELS][i // len(DOMAINS)] * CHANNELS
        assert layer.macs == weights * 3 * (1 if layer.kind == "binary dense" else 16)
        # Popcounts have a bit a weight; of counters that have nothing to count little more than thresholds is left.
        assert layer.expanded_bytes > (weights / 8 if layer.kernel.startswith("popcount") else 0)


def test_domains_of_foreign_weights(rng: np.random.Generator) -> None:
    (layer,) = [each for each in explain(foreign_models.mlp(symmetric=False, hidden=())).linear if each.binary]
    assert layer.weights == "{a, b} per channel"
    text = BITS + "y = MatMul(b, w)"
    assert layers(text, {"x": (1, 64)}, {**BINARIZE, "w": two_valued(rng, -1, 1, 64, 9)})[-1].weights == "{-1, +1}"
    assert layers(text, {"x": (1, 64)}, {**BINARIZE, "w": two_valued(rng, 0, 0.5, 64, 9)})[-1].weights == "{0, 0.5}"
    assert layers(text, {"x": (1, 64)}, {**BINARIZE, "w": two_valued(rng, -3, 3, 64, 9)})[-1].weights == "{-3, 3}"
    floats = layers("y = MatMul(x, w)", {"x": (1, 64)}, {"w": two_valued(rng, 0.25, 0.5, 64, 9)})[-1]
    assert floats.weights == "{0.25, 0.5}" and floats.density is not None and 0.3 < floats.density < 0.7
    assert layers("y = MatMul(x, w)", {"x": (1, 64)}, {"w": normal(rng, 64, 9)})[-1].weights == "float32"
    trivial = layers("y = MatMul(x, w)", {"x": (1, 2)}, {"w": normal(rng, 2, 9)})[-1]
    assert trivial.weights == "float32" and not trivial.fallback and trivial.density is None


def test_macs_count_the_border_and_the_groups(rng: np.random.Generator) -> None:
    text = (
        BITS
        + "d = Conv<pads=[1, 1, 1, 1], group=2>(b, w)\ne = Conv<strides=[2, 2]>(d, v)\nf = Flatten(e)\ny = MatMul(f, u)"
    )
    constants = {
        **BINARIZE,
        "w": two_valued(rng, -1, 1, 32, 32, 3, 3),
        "v": normal(rng, 5, 32, 2, 2),
        "u": normal(rng, 45, 7),
    }
    found = [layer for layer in layers(text, {"x": (2, 64, 6, 6)}, constants) if layer.weights]
    assert [layer.macs for layer in found] == [2 * 36 * 32 * 32 * 9, 2 * 9 * 5 * 32 * 4, 2 * 45 * 7]
    assert [layer.kind for layer in found] == ["binary conv 3x3, 2 groups", "conv 2x2/2", "conv 3x3"]


def test_strict_refuses_every_fallback(rng: np.random.Generator) -> None:
    text = "s = Sign(x)\nd = Conv(s, w)\ne = Conv(d, v)\ny = Sin(e)"
    weights = {"w": two_valued(rng, -1, 1, 4, 8, 3, 3), "v": two_valued(rng, -1, 1, 4, 4, 3, 3)}
    model = small_model(text, IMAGE, weights)
    report = explain(model)
    assert len(report.fallbacks()) == 2
    assert len(report.advice) == 1 and "two bits" in report.advice[0] and report.advice[0].endswith(": Sign:s")
    with pytest.raises(CompileError) as refusal:
        sbnn_tvm.compile(model, strict=True)
    for sentence in ("Conv:e (conv 3x3): its weights are binary", "Sin:y (sin)"):
        assert sentence in str(refusal.value)
    allowed = explain(model, sign_zero="negative")
    assert allowed.fallbacks()[-1] == allowed.notes[0]
    assert "Sign gives -1 instead of 0 at 0" in allowed.notes[0] and "Sign:s" in allowed.notes[0]


def test_report_survives_json_and_the_library(tmp_path: Any) -> None:
    module = sbnn_tvm.compile(foreign_models.sign_net(), sign_zero="positive", name="net")
    report = module.report
    assert Report.from_json(report.to_json()) == report
    assert Report.from_json(sbnn_tvm.load(module.export(tmp_path / "net.so")).report) == report
    assert report.model == "net" and report.notes
    assert report == explain(foreign_models.sign_net(), sign_zero="positive", name="net")
    text = str(report)
    assert all(layer.name in text for layer in report.layers) and report.summary() in text


def test_summary_adds_up() -> None:
    report = explain(foreign_models.vgg(channels=64))
    binary = [layer for layer in report.linear if layer.binary]
    assert f"{len(binary)} of {len(report.linear)} layers with weights are binary" in report.summary()
    share = sum(layer.macs for layer in binary) / sum(layer.macs for layer in report.linear)
    assert f"({share:.1%} of" in report.summary()
    assert report.bytes == sum(layer.bytes for layer in report.layers)
    for layer in binary:  # a bit a weight, and constants a channel: far less than a float32 a weight
        assert 0 < layer.bytes < layer.macs


@pytest.mark.slow
def test_resnet18_has_the_published_size() -> None:
    """16 binary 3x3 convolutions of Bi-Real Net 18 at 224x224: 10,985,472 weights, 1.6763e9 multiply-accumulates."""
    report = explain(resnet18().eval())
    binary = [layer for layer in report.layers if layer.binary]
    assert len(binary) == 16 and sum(layer.macs for layer in binary) == 1_676_279_808
    weights = 10_985_472
    assert weights / 8 <= sum(layer.bytes for layer in binary) < 1.15 * weights / 8
    assert not report.fallbacks()
