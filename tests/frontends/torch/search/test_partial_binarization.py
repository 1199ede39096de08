"""Which layers to make binary under a budget: costs, searches with an oracle, resuming, and what is compiled."""

from __future__ import annotations

import copy
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import sbnn_tvm
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.torch import (
    BinaryConfig,
    BinaryLayer,
    PartialBinarization,
    reactnet,
    resnet18,
    search_partial_binarization,
    to_onnx,
    vgg_small,
)
from sbnn_tvm.frontends.torch.search.components import Components, Mask
from sbnn_tvm.frontends.torch.search.costs import LayerCost, layer_costs
from sbnn_tvm.frontends.torch.search.evaluate_masks import apply_mask_
from sbnn_tvm.frontends.torch.search.mixed_layer import MixedLayer
from sbnn_tvm.frontends.torch.search.search_methods import Gradual, Method, Random
from sbnn_tvm.passes.pipeline import to_composites, to_kernels
from tests.support.grids import every
from tests.support.operation_counts import Operations, operations
from tests.support.small_models import run_reference


class Residual(nn.Module):
    """With a projection in its shortcut, which is not to become binary."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.downsample = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.hardtanh(self.norm(self.conv(x)) + self.downsample(x))


def network() -> nn.Sequential:
    torch.manual_seed(0)  # the same network at each call
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        Residual(8, 16),
        Residual(16, 16),
        nn.MaxPool2d(2),
        Residual(16, 20),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(20, 10),
    )
    model.example_input_array = torch.zeros(1, 1, 8, 8)
    return model


NAMES = ("2.conv", "3.conv", "5.conv")
LOSS_OF = {"2.conv": 0.4, "3.conv": 0.3, "5.conv": 0.2}


def no_training(model: nn.Module, epochs: int, penalty: object) -> None:
    """For searches whose losses are made up."""


def made_up_loss(model: nn.Module) -> float:
    """A sum of known rises; two neighbours that are both binary cost extra."""
    modules = dict(model.named_modules())
    binary = [name for name in NAMES if isinstance(modules[name], BinaryLayer)]
    return 1 + sum(LOSS_OF[name] for name in binary) + 0.5 * ("2.conv" in binary and "3.conv" in binary)


def search(method: str | Method, budget: float = 0.6, **arguments: object) -> PartialBinarization:
    defaults: dict = {"fit": no_training, "evaluate": made_up_loss, "progress": False}
    return search_partial_binarization(network(), budget, method=method, **{**defaults, **arguments})


def test_published_operations() -> None:
    assert Operations(0.31e8, 4.82e9).ops == pytest.approx(1.06e8, abs=0.005e8)  # ReActNet-A
    assert Operations(0.32e8, 4.82e9).ops == pytest.approx(1.08e8, abs=0.01e8)  # BCDNet-A; its summands are rounded
    assert operations(vgg_small()).binary_macs == 603_979_776
    with torch.device("meta"):
        assert operations(resnet18()).binary_macs == pytest.approx(1.677e9, rel=1e-3)
        assert operations(reactnet()).binary_macs == pytest.approx(4.82e9, rel=1e-3)


def test_costs_of_layers() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3, 2, groups=2), nn.Flatten(), nn.Linear(24, 5))
    costs = layer_costs(model, (3, 4, 5, 5))
    assert costs == (LayerCost("0", 4 * 6 * 18, 6 * 18, False), LayerCost("2", 120, 120, False))
    shared = nn.Conv2d(3, 3, 3, padding=1)
    assert layer_costs(nn.Sequential(shared, shared), (1, 3, 4, 4)) == (LayerCost("0", 2 * 16 * 81, 81, False),)
    with pytest.raises(ValueError, match="'0' is a LSTM, whose cost is not defined"):
        layer_costs(nn.Sequential(nn.LSTM(3, 3)), (1, 3))


def test_components_and_their_cost() -> None:
    components = Components.of(network())
    assert components.names == NAMES
    macs = [64 * 8 * 16 * 9, 64 * 16 * 16 * 9, 16 * 16 * 20 * 9]
    assert [choice.macs for choice in components.choices] == macs
    fixed = 64 * 9 * 8 + 64 * 8 * 16 + 64 * 16 * 16 + 16 * 16 * 20 + 200
    assert components.fixed_macs == fixed
    assert components.cost(()) == 1
    assert components.cost(["3.conv"]) == pytest.approx(
        (fixed + macs[0] + macs[1] / 64 + macs[2]) / (fixed + sum(macs))
    )
    model = network()
    apply_mask_(model, ["3.conv"])
    assert components.cost(["3.conv"]) == pytest.approx(operations(model).ops / operations(network()).ops)
    assert "2.downsample" in Components.of(network(), exclude=("0",)).names
    with pytest.raises(ValueError, match="is binary already"):
        Components.of(model)
    with pytest.raises(ValueError, match="no convolution is left"):
        Components.of(network(), exclude=("*",))


def test_measures_of_the_cost() -> None:
    weights = [8 * 16 * 9, 16 * 16 * 9, 16 * 20 * 9]
    fixed = 9 * 8 + 8 * 16 + 16 * 16 + 16 * 20 + 200
    total = fixed + sum(weights)
    components = Components.of(network(), measure="weights")
    assert [choice.weights for choice in components.choices] == weights
    assert components.fixed_weights == fixed
    assert 1 - components.cost(["3.conv"]) == pytest.approx(weights[1] / total)  # the fraction that is binary
    assert Components.of(network(), measure="bytes").cost(NAMES) == pytest.approx((fixed + sum(weights) / 32) / total)
    flops = Components.of(network(), measure="flops")
    assert flops.cost(NAMES) == pytest.approx(flops.fixed_macs / sum(layer.macs for layer in layer_costs(network())))


def test_a_state_serves_all_measures(tmp_path: Path) -> None:
    state = tmp_path / "state"
    operations = search("exhaustive", 1.0, state=state)
    weights = search("exhaustive", 1.0, state=state, measure="weights", fit=None)  # trains nothing
    assert weights.binary == operations.binary
    cost = {each.binary: each.cost for each in weights.evaluations}
    assert cost[NAMES] == pytest.approx(Components.of(network(), measure="weights").cost(NAMES))
    assert weights.seconds == operations.seconds > 0


@pytest.mark.parametrize("budget", [0.3, 0.4, 0.6, 0.9, 1.0])
def test_greedy_and_exhaustive(budget: float) -> None:
    exhaustive, greedy = search("exhaustive", budget), search("greedy", budget)
    components = exhaustive.components
    losses = {}
    for count in range(4):
        for mask in itertools.combinations(NAMES, count):
            model = network()
            apply_mask_(model, mask)
            if components.cost(mask) <= budget:
                losses[mask] = made_up_loss(model)
    assert {each.binary: each.loss for each in exhaustive.evaluations} == losses
    assert exhaustive.loss == min(losses.values()) == losses[exhaustive.binary]
    assert greedy.binary in losses and greedy.cost == components.cost(greedy.binary) <= budget
    assert greedy.loss <= max(losses.values())


def test_greedy_gives_back_what_a_later_step_made_needless() -> None:
    rises = {"2.conv": 0.9, "3.conv": 0.8, "5.conv": 0.01}  # per cost saved, 5.conv goes first, then 3.conv

    def loss(model: nn.Module) -> float:
        modules = dict(model.named_modules())
        return sum(rise for name, rise in rises.items() if isinstance(modules[name], BinaryLayer))

    found = search("greedy", 0.56, evaluate=loss)
    assert found.binary == ("3.conv",)
    assert ("3.conv", "5.conv") in [each.binary for each in found.evaluations]


def test_random_masks_are_tight_and_reproducible() -> None:
    found = search(Random(20))
    components = found.components
    for each in found.evaluations:
        assert each.cost <= 0.6
        assert all(components.cost(set(each.binary) - {name}) > 0.6 for name in each.binary)
    assert found == search(Random(20))
    assert found.loss == min(each.loss for each in found.evaluations)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("method", ["greedy", "exhaustive", "random"])
def test_a_stopped_search_goes_on(method: str, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    trained: list[Mask] = []

    def evaluate(model: nn.Module) -> float:
        if len(trained) % 2:
            trained.append(())
            raise KilledError
        trained.append(())
        return made_up_loss(model)

    whole = search(method, 0.62)
    stops = 0
    while True:
        try:
            found = search(method, 0.62, evaluate=evaluate, state=state)
            break
        except KilledError:
            stops += 1
    assert found == whole
    assert stops and len(trained) == stops + len(whole.evaluations)  # nothing was evaluated twice
    assert list(tmp_path.iterdir()) == [state]
    assert search("exhaustive", 1.0, state=state).evaluations  # another method may share the state
    with pytest.raises(ValueError, match="belongs to another search"):
        search(method, state=state, seed=1)
    state.write_text("{")
    with pytest.raises(ModelError, match="is not the state of a search"):
        search(method, state=state)


def toy_data() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, 8, 8, generator=generator)
    return x, (x.mean((1, 2, 3)) * 30 + 5).clamp(0, 9).long()


def fit(model: nn.Module, epochs: int, penalty) -> None:
    x, y = toy_data()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(epochs):
        for chosen in torch.randperm(60).split(30):
            loss = functional.cross_entropy(model(x[chosen]), y[chosen])
            if penalty is not None:
                loss = loss + penalty(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def evaluate(model: nn.Module) -> float:
    x, y = toy_data()
    return float(functional.cross_entropy(model(x), y))


def test_gradual_search_meets_the_budget_and_goes_on(tmp_path: Path) -> None:
    method, budget = Gradual(stages=3), 0.6
    before = copy.deepcopy(network().state_dict())
    random_state = torch.get_rng_state()

    def run(fit, state: Path | None = None) -> PartialBinarization:
        return search(method, budget, fit=fit, evaluate=evaluate, epochs=3, state=state)

    whole = run(fit)
    assert whole.cost <= budget and whole.binary
    assert torch.equal(torch.get_rng_state(), random_state)
    calls = 0

    def fit_twice(model: nn.Module, epochs: int, penalty) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KilledError
        fit(model, epochs, penalty)

    with pytest.raises(KilledError):
        run(fit_twice, tmp_path / "state")
    assert run(fit_twice, tmp_path / "state") == whole
    assert calls == 5  # two stages, a stop, the third stage, the result
    search(Gradual(stages=1), 0.7, fit=fit, evaluate=evaluate, epochs=3, state=tmp_path / "state")  # may share it
    checkpoints = list(tmp_path.glob("state.*.stages"))
    assert len(checkpoints) == 2
    for checkpoint in checkpoints:
        checkpoint.write_bytes(b"no checkpoint")
    with pytest.raises(ModelError, match="is not the checkpoint of a search"):
        run(fit, tmp_path / "state")
    assert all(torch.equal(value, before[name]) for name, value in network().state_dict().items())


def test_mixture() -> None:
    layer = nn.Conv2d(3, 4, 3, padding=1)
    mixed = MixedLayer(layer, BinaryConfig())
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(mixed(x), (mixed.binary_part(x) + layer(x)) / 2)
    with torch.no_grad():
        mixed.z.fill_(1.0)
    mixed.crispness = 100.0
    torch.testing.assert_close(mixed(x), mixed.binary_part(x))
    mixed.crispness = 2.0
    mixed(x).square().sum().backward()
    assert mixed.z.grad is not None and layer.weight.grad is not None
    assert mixed.binary_part.weight.grad is not None and mixed.binary_part.weight is not layer.weight


def test_result_as_a_file(tmp_path: Path) -> None:
    found = search("greedy")
    found.save(tmp_path / "mask.json")
    assert PartialBinarization.load(tmp_path / "mask.json") == found
    assert json.loads((tmp_path / "mask.json").read_text())["budget"] == 0.6
    model = network()
    conversion = found.apply_(model)
    assert tuple(note.name for note in conversion.converted) == found.binary
    assert "greedy search within 60% of the float operations" in str(found)
    with pytest.raises(ValueError, match=re.escape("no layer '3.conv'")):
        found.apply_(nn.Sequential(nn.Conv2d(1, 1, 1)))
    (tmp_path / "mask.json").write_text("[]")
    with pytest.raises(ModelError, match="is not the result of a search"):
        PartialBinarization.load(tmp_path / "mask.json")
    with pytest.raises(ModelError, match="cannot read"):
        PartialBinarization.load(tmp_path / "nothing.json")


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"budget=0.01 must be between 0\.\d+, the share of the float operations"):
        search("greedy", 0.01)
    with pytest.raises(ValueError, match="unknown method 'best'; pass greedy, gradual, random, exhaustive"):
        search("best")
    with pytest.raises(ValueError, match="unknown measure 'macs'; pass operations, flops, weights, bytes"):
        search("greedy", measure="macs")
    with pytest.raises(ValueError, match="epochs must be 1 or more"):
        search("greedy", epochs=0)


def test_a_loss_that_is_no_number_counts_as_the_worst() -> None:
    def loss(model: nn.Module) -> float:
        return float("nan") if isinstance(model[2].conv, BinaryLayer) else made_up_loss(model)

    assert search("greedy", 0.6, evaluate=loss).binary == ("3.conv",)


@pytest.mark.parametrize("names", every(4, ["2.conv 5.conv", "", "3.conv", " ".join(NAMES)]))
def test_mixed_networks_pack_at_the_borders_only(names: str) -> None:
    mask, model = tuple(names.split()), network().train()
    model(torch.randn(8, 1, 8, 8))
    apply_mask_(model.eval(), mask)
    x = torch.randn(2, 1, 8, 8)
    model.example_input_array = x
    proto = to_onnx(model)
    (reference,) = run_reference(proto, {"input": x.numpy()}).values()
    with torch.no_grad():
        np.testing.assert_allclose(model(x).numpy(), reference, rtol=1e-4, atol=1e-5)
    module = sbnn_tvm.compile(proto, strict=True)
    np.testing.assert_allclose(module.run(x.numpy()), reference, rtol=1e-4, atol=1e-5)
    module.verify(x.numpy())
    assert {layer.name for layer in module.report.linear if layer.binary} == set(mask)
    # Where bits are needed, the float layer before writes them, and binary layers write floats: nothing is converted
    # (but words to planes, where a layer counts).
    lowered = to_kernels(to_composites(import_onnx(proto).mod), resolve("native").isa)
    kernels = [str(name) for name in lowered.mod.get_global_vars()]
    assert any("conv2d" in name for name in kernels)
    assert not [name for name in kernels if re.search("pack|regroup|elementwise", name)]
