"""The search for groups: shared weights, the budget, evolution with an oracle, resuming, the result as a file."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.torch import (
    BinaryConv2d,
    Evolution,
    SearchedGroups,
    Signs,
    TwoValues,
    clamp_latent_,
    group_mobilenet,
    reactnet,
    search_groups,
)
from sbnn_tvm.frontends.torch.search import group_supernet
from sbnn_tvm.frontends.torch.search.group_supernet import (
    GroupedLayer,
    GroupSpace,
    GroupSupernet,
    SharedGroups,
    diagonal_blocks,
)
from tests.support.operation_counts import operations

BLOCKS = ((1, 1), (2, 2), (2, 1))
IMAGES = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    torch.manual_seed(0)  # the same network at each call
    return reactnet(4, in_channels=1, image_size=8, width=8, blocks=BLOCKS)


def no_training(model: nn.Module, epochs: int) -> None:
    """For searches whose losses are made up."""


def made_up_loss(model: nn.Module) -> float:
    """Groups hurt most in the first layer; two neighbours with equal groups cost extra."""
    first, second, third = (each.layer.groups for each in model.modules() if isinstance(each, SharedGroups))
    return 3 * math.log2(first) + math.log2(second) + 0.5 * math.log2(third) + 0.7 * (first == second)


def search(budget: float = 0.87, **arguments: object) -> SearchedGroups:
    evolution = Evolution(population=6, generations=6, parents=3, mutation=0.4)
    defaults: dict = {"fit": no_training, "evaluate": made_up_loss, "calibration": IMAGES, "evolution": evolution}
    return search_groups(network(), budget, **{**defaults, "choices": (1, 2, 4, 8), "progress": False, **arguments})


@pytest.mark.parametrize("domain", [Signs(), TwoValues(per="channel")], ids=["signs", "two values"])
@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_shared_weights_are_those_of_a_grouped_convolution(groups: int, domain) -> None:
    layer = BinaryConv2d(6, 12, 3, padding=1, bias=True, domain=domain)
    grouped = BinaryConv2d(6, 12, 3, padding=1, groups=groups, bias=True, domain=domain)
    with torch.no_grad():
        grouped.load_state_dict({**layer.state_dict(), "weight": diagonal_blocks(layer.weight, groups)})
    shared = SharedGroups(layer)
    layer.groups = groups
    x = torch.randn(2, 6, 5, 5).sign()
    torch.testing.assert_close(shared(x), grouped(x), rtol=0, atol=0)
    shared(x).square().sum().backward()
    grouped(x).square().sum().backward()
    assert layer.weight.grad is not None and grouped.weight.grad is not None
    torch.testing.assert_close(diagonal_blocks(layer.weight.grad, groups), grouped.weight.grad)
    connected = functional.conv2d(torch.eye(6).reshape(6, 6, 1, 1), torch.ones(12, 6 // groups, 1, 1), groups=groups)
    outside = layer.weight.grad.abs().amax((2, 3)) * (1 - connected[:, :, 0, 0].T)
    assert not outside.any()  # weights between groups have no part in the result


def test_a_supernet_draws_groups_in_training_only(monkeypatch: pytest.MonkeyPatch) -> None:
    space = GroupSpace.of(network(), (1, 2, 4, 8))
    supernet = GroupSupernet(network(), space)
    seen = set()
    for _ in range(40):
        supernet(IMAGES)
        seen.add(tuple(each.layer.groups for each in supernet.modules() if isinstance(each, SharedGroups)))
    assert {each[0] for each in seen} == {1, 2, 4, 8} and len(seen) > 20
    supernet.eval().choose((8, 1, 2))
    scores = supernet(IMAGES)
    plain = group_mobilenet(4, in_channels=1, image_size=8, width=8, blocks=BLOCKS, groups=(8, 1, 2)).eval()
    weights = {name.replace(".layer.", "."): value for name, value in supernet.network.state_dict().items()}
    for searched, groups in zip(space.layers, (8, 1, 2), strict=True):
        weights[f"{searched.name}.weight"] = diagonal_blocks(weights[f"{searched.name}.weight"], groups)
    plain.load_state_dict(weights)
    torch.testing.assert_close(plain(IMAGES), scores)
    clamp_latent_(supernet, 0.01)
    assert all(layer.weight.abs().max() <= 0.01 for layer in supernet.modules() if isinstance(layer, BinaryConv2d))
    monkeypatch.setattr(group_supernet, "traces_operators", lambda: True)
    with pytest.raises(ValueError, match="whose groups are still to choose cannot be exported"):
        supernet(IMAGES)


def test_the_budget_counts_the_operations_of_the_network() -> None:
    space = GroupSpace.of(network(), (1, 2, 4, 8, 3))
    assert [layer.name for layer in space.layers] == [f"blocks.{n}.conv_3x3.0" for n in range(3)]
    assert [layer.choices for layer in space.layers] == [(1, 2, 4, 8)] * 3  # 3 divides no layer's channels
    for groups in [(1, 1, 1), (8, 1, 2), (8, 8, 8)]:
        model = group_mobilenet(4, in_channels=1, image_size=8, width=8, blocks=BLOCKS, groups=groups)
        assert space.cost(groups) == pytest.approx(operations(model).ops / operations(network()).ops)
    assert space.least == space.cost((8, 8, 8))
    assert len(GroupSpace.of(network(), (1, 2), exclude=("blocks.0.*",)).layers) == 2
    with pytest.raises(ValueError, match=r"no layer has groups to choose: .* choices=\(1, 3\) divide"):
        GroupSpace.of(network(), (1, 3))
    with pytest.raises(ValueError, match="1 or more, but got"):
        GroupSpace.of(network(), (0, 2))


@pytest.mark.parametrize("seed", range(5))
def test_candidates_spend_the_budget(seed: int) -> None:
    rng = random.Random(seed)
    layers = tuple(
        GroupedLayer(str(n), rng.randint(1, 1000), tuple(sorted(rng.sample((1, 2, 3, 4, 6, 8, 16), rng.randint(2, 5)))))
        for n in range(6)
    )
    space = GroupSpace(layers, rng.random() * 20)
    largest = space.cost([layer.choices[0] for layer in layers])
    for _ in range(20):
        budget = rng.uniform(space.least, largest)
        groups = space.draw(rng, budget)
        assert space.cost(groups) <= budget
        for place, layer in enumerate(layers):
            for number in layer.choices:
                if number < groups[place]:
                    assert space.cost([*groups[:place], number, *groups[place + 1 :]]) > budget


@pytest.mark.parametrize("budget", [0.87, 0.92])
def test_evolution_finds_the_optimum(budget: float) -> None:
    found = search(budget)
    losses = {each.groups: each.loss for each in found.evaluations}
    assert len(losses) == len(found.evaluations)  # no candidate twice
    assert all(each.cost == found.space.cost(each.groups) <= budget for each in found.evaluations)

    def loss(groups: tuple[int, ...]) -> float:
        model = GroupSupernet(network(), found.space)
        model.choose(groups)
        return made_up_loss(model)

    within = [groups for groups in itertools.product((1, 2, 4, 8), repeat=3) if found.space.cost(groups) <= budget]
    assert found.loss == losses[found.groups] == min(map(loss, within))


def test_a_generation_comes_from_the_best_of_the_last() -> None:
    """In a space of 5^12 candidates random ones are far from the optimum, evolved ones come near it."""
    space = GroupSpace(tuple(GroupedLayer(str(n), 100, (1, 2, 4, 8, 16)) for n in range(12)), 0.0)
    goal = [random.Random(1).choice((1, 2, 4, 8, 16)) for _ in range(12)]

    def loss(groups: tuple[int, ...]) -> float:
        return sum(abs(math.log2(n / m)) for n, m in zip(groups, goal, strict=True))

    budget = space.cost(goal)
    evolution = Evolution(population=30, generations=15, parents=8, mutation=0.2)
    evolved = evolution.search(space, budget, loss, random.Random(0))
    rng = random.Random(0)
    chance = min(loss(space.draw(rng, budget)) for _ in range(30 * 15))
    assert loss(evolved) < chance - 3
    with pytest.raises(ValueError, match="mutation is a share above 0"):
        Evolution(mutation=0.0)


class KilledError(Exception):
    pass


def test_a_stopped_search_goes_on(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    fits, evaluated = [], 0

    def fit(model: nn.Module, epochs: int) -> None:
        fits.append(epochs)
        if len(fits) == 1:
            raise KilledError
        assert model.training
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))

    def loss(model: nn.Module) -> float:
        nonlocal evaluated
        assert not model.training
        evaluated += 1
        if evaluated % 4 == 0:
            raise KilledError
        return float(functional.cross_entropy(model(IMAGES), torch.arange(6) % 4))

    def run(**arguments: object) -> SearchedGroups:
        return search(fit=fit, evaluate=loss, state=state, epochs=7, **arguments)

    network()
    random_state = torch.get_rng_state()
    stops = 0
    while True:
        try:
            found = run()
            break
        except KilledError:
            stops += 1
    assert torch.equal(torch.get_rng_state(), random_state)
    assert fits == [7, 7] and evaluated == len(found.evaluations) + stops - 1  # nothing was computed twice
    evaluated = 1  # so that nothing is killed before it has evaluated two more
    assert found == search(fit=fit, evaluate=lambda model: float(functional.cross_entropy(
        model(IMAGES), torch.arange(6) % 4)), epochs=7)  # fmt: skip
    assert {path.name for path in tmp_path.iterdir()} == {"state.json", "state.json.supernet"}
    with pytest.raises(ValueError, match="belongs to another search"):
        run(seed=1)
    state.write_text("{")
    with pytest.raises(ModelError, match=r"state.json is not of a search for groups"):
        run()


def test_result_as_a_file(tmp_path: Path) -> None:
    found = search()
    found.save(tmp_path / "groups.json")
    assert SearchedGroups.load(tmp_path / "groups.json") == found
    assert "search for groups within 87% of the operations" in str(found)
    model = found.apply_(network())
    same = group_mobilenet(4, in_channels=1, image_size=8, width=8, blocks=BLOCKS, groups=found.groups)
    assert {name: value.shape for name, value in model.state_dict().items()} == {
        name: value.shape for name, value in same.state_dict().items()
    }
    assert operations(model) == operations(same)
    with pytest.raises(ValueError, match=r"no binary convolution 'blocks.0.conv_3x3.0' whose channels can form"):
        found.apply_(nn.Sequential(nn.Conv2d(1, 1, 1)))
    (tmp_path / "groups.json").write_text("[]")
    with pytest.raises(ModelError, match="is not the result of a search"):
        SearchedGroups.load(tmp_path / "groups.json")
    with pytest.raises(ModelError, match="cannot read"):
        SearchedGroups.load(tmp_path / "nothing.json")


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match=r"budget=0.01 must be between 0\.\d+, the cost with the most groups in all 3"):
        search(0.01)
    with pytest.raises(ValueError, match="epochs must be 1 or more"):
        search(epochs=0)


def test_a_loss_that_is_no_number_counts_as_the_worst() -> None:
    found = search(evaluate=lambda model: math.nan if made_up_loss(model) < 3 else made_up_loss(model))
    assert found.loss >= 3 and math.isfinite(found.loss)
