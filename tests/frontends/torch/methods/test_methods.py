"""The published methods: formulas against brute force, gradients, and that trained models deploy exactly."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import digits
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from sbnn_tvm.frontends.onnx.opset import unpack_bits
from sbnn_tvm.frontends.torch import (
    Adaptive,
    AdaptiveBinarize,
    Binarize,
    BinarizeAboveMean,
    BinaryConfig,
    BinaryConv2d,
    BinaryLayer,
    BinaryLinear,
    Bits,
    ExpectedConnections,
    Magnitudes,
    Maxout,
    ScaledBits,
    ScaledSigns,
    TwoValues,
    binarize_,
    clamp_latent_,
    keep_densest_,
    parameter_groups,
    quantize_,
    recalibrate_,
    set_progress,
    to_onnx,
)
from sbnn_tvm.frontends.torch.export import packed_constants
from sbnn_tvm.frontends.torch.methods.sbnn import canonical, fit_, two_means
from sbnn_tvm.frontends.torch.methods.siman import optimal_ones


@pytest.fixture(autouse=True)
def _seed_and_one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def written(layer: BinaryLayer) -> dict[str, np.ndarray]:
    """What a file holds of a layer: signs, scale, offset."""
    constants = {name: value.detach().numpy() for name, value in packed_constants(layer).items()}
    return {**constants, "signs": unpack_bits(constants["weight"], layer.weight.shape) * 2 - 1.0}


# SBNN


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
    with pytest.raises(ValueError, match="at least two numbers a row, but got 1"):
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
    with pytest.raises(ValueError, match="code of its own"):
        keep_densest_(BinaryLinear(4, 4, domain=Magnitudes()), 0.1)


@pytest.mark.parametrize("per", ["layer", "model"])
def test_keep_densest(per) -> None:
    model = nn.Sequential(BinaryLinear(20, 30, domain=TwoValues()), BinaryLinear(30, 10, domain=TwoValues()))
    before = [layer.weight.detach().clone() for layer in model]
    keep_densest_(model, 0.05, per)
    if per == "layer":
        assert [int((layer.weight > 0).sum()) for layer in model] == [30, 15]
    else:
        border = torch.cat([weight.flatten() for weight in before]).topk(45).values[-1]
        assert all(torch.equal(layer.weight > 0, weight >= border) for layer, weight in zip(model, before, strict=True))


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


# domains with a zero, and pruning


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
    with pytest.raises(ValueError, match="neither of its two values stands for 'nothing'"):
        layer(torch.ones(1, 8))


# conversion without training


def test_quantize() -> None:
    data = digits.load()
    model = digits.train(digits.tiny_network(digits.float_layer), data, digits.Recipe(epochs=5))
    before = digits.accuracy(model, data)
    result = quantize_(model, calibration=data.train_images, skip=("stem.0", "head.2"))
    assert [layer.name for layer in result.layers] == [f"body.{i}.layer.1" for i in range(4)]
    assert all(0 < layer.density <= 0.5 and 0.4 < layer.error < 0.8 for layer in result.layers)  # Gaussian: 0.60
    assert len(result.recalibrated) == 5
    assert "4 layers two-valued, 2 float, 5 batch norms recalibrated" in str(result)
    assert digits.accuracy(model, data) > before - 40
    sparse = digits.tiny_network(digits.float_layer)
    assert all(abs(layer.density - 0.1) < 0.01 for layer in quantize_(sparse, density=0.1).layers)


def test_recalibration_is_the_mean_over_the_data() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()).train()
    batches = [torch.randn(50, 3) + 2 for _ in range(3)]
    assert recalibrate_(model, batches) == ("0",)
    torch.testing.assert_close(model[0].running_mean, torch.cat(batches).mean(0))
    assert model.training and model[1].training and model[0].momentum == 0.1
    for wrong, message in [((model, []), "batches is empty"), ((nn.ReLU(), batches), "no batch norm")]:
        with pytest.raises(ValueError, match=message):
            recalibrate_(*wrong)


# SiMaN


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


# AdaBin


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


def test_maxout() -> None:
    layer = Maxout(2, 0.5, 0.25)
    x = torch.tensor([[-2.0, 2.0]])
    assert layer(x).tolist() == [[-0.5, 1.0]]


# the whole way


def mixed_network() -> nn.Module:
    """A method a layer, so that one compilation tries all of them."""
    layers = iter(
        [
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=TwoValues(), binarize=Binarize()),
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=Magnitudes(), binarize=BinarizeAboveMean()),
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=ScaledBits(), binarize=Binarize(i, learned=True)),
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=Adaptive(), binarize=AdaptiveBinarize()),
        ]
    )
    return digits.tiny_network(lambda i, o: next(layers)(i, o), activation=Maxout)


def test_a_trained_model_deploys_exactly() -> None:
    data = digits.load()
    model = mixed_network()
    sparsify = ExpectedConnections(model[1][0], 0.1, weight=5.0)
    digits.train(model, data, digits.Recipe(epochs=4, penalty=sparsify, mixup=1.0))
    assert digits.accuracy(model, data) > 30  # chance is 10
    agreement = digits.deploy(model, data)
    assert agreement.passed
    assert [layer.binary for layer in agreement.module.report.linear].count(True) == 4
