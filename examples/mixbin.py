"""Make part of a network binary, under a budget: the searches of MixBin, and an activation that suits every mixture.

The network for MNIST has four convolutions to choose from, which cost 1 : 2 : 1 : 2 and have 1 : 2 : 4 : 8 weights. The
budget is 52 % of the float network's operations, which takes half of these costs. Ten of the 16 masks are within it, so
an exhaustive search is affordable and shows how good the others are. Every search starts from the trained float
network, and chooses by the loss on images of their own. The networks are then tuned with the float network as their
teacher, and tested.

``--full`` takes more images and three seeds (about 15 minutes), and compares activations: with no layer, the searched
layers and all layers binary.
"""

from __future__ import annotations

import argparse
import copy
import functools
import itertools
import tempfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mnist
import torch
from agreement import deploy
from claims import Mean, check
from torch import nn
from torch.nn import functional
from training_loop import Data, Recipe, accuracy, train

import sbnn_tvm
from sbnn_tvm.frontends.torch import BinReLU, PartialBinarization, search_partial_binarization
from sbnn_tvm.frontends.torch.search.components import Components, Mask
from sbnn_tvm.frontends.torch.search.evaluate_masks import apply_mask_
from sbnn_tvm.profiling.timing import interleave

BUDGET = 0.52
METHODS = ("exhaustive", "greedy", "gradual")
ACTIVATIONS: dict[str, Callable[[int], nn.Module]] = {
    "BinReLU": BinReLU,
    "ReLU": lambda channels: nn.ReLU(),
    "hardtanh": lambda channels: nn.Hardtanh(),
}


@dataclass(frozen=True)
class Effort:
    """How much to train.

    Attributes:
        seeds: Number of seeds.
        images, validation: Training images, and others that a search evaluates masks with.
        proxy: Epochs of each training in a search.
        epochs: Epochs of the float network, and of the tuning of a chosen mask.
    """

    seeds: int
    images: int
    validation: int
    proxy: int
    epochs: int


QUICK = Effort(seeds=1, images=1000, validation=400, proxy=2, epochs=6)
FULL = Effort(seeds=3, images=2000, validation=1000, proxy=3, epochs=8)


def data(effort: Effort) -> Data:
    """The first training images, and all test images."""
    found = mnist.load()
    return replace(
        found, train_images=found.train_images[: effort.images], train_labels=found.train_labels[: effort.images]
    )


def network(activation: str = "BinReLU") -> nn.Sequential:
    """A float stem of stride 2, four 3x3 convolutions at 14x14 and 7x7 pixels, a float head; all before training."""
    activate = ACTIVATIONS[activation]

    def block(inputs: int, outputs: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        return nn.Sequential(OrderedDict(activation=activate(inputs), conv=conv, norm=nn.BatchNorm2d(outputs)))

    body = OrderedDict(first=block(8, 16), second=block(16, 16), pool=nn.MaxPool2d(2))
    body |= OrderedDict(third=block(16, 32), fourth=block(32, 32))
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(1, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)),
            body=nn.Sequential(body),
            head=nn.Sequential(activate(32), nn.AvgPool2d(7), nn.Flatten(), nn.Linear(32, 10)),
        )
    )
    model.example_input_array = torch.zeros(1, 1, 28, 28)  # the shape to export and compile for
    return model


@functools.cache
def float_network(seed: int, effort: Effort = QUICK, activation: str = "BinReLU") -> nn.Module:
    """A trained float network, in eval mode."""
    torch.manual_seed(seed)
    return train(network(activation), data(effort), Recipe(effort.epochs), seed)


@functools.cache
def tuned(mask: Mask, seed: int, effort: Effort = QUICK, activation: str = "BinReLU") -> nn.Module:
    """The float network with that mask, trained further, in eval mode."""
    teacher = float_network(seed, effort, activation)
    model = copy.deepcopy(teacher)
    apply_mask_(model, mask)
    return train(model, data(effort), Recipe(effort.epochs, teacher=teacher), seed) if mask else model


def search(method: str, seed: int, effort: Effort = QUICK, state: Path | None = None) -> PartialBinarization:
    """A search from the float network of that seed; searches with the same ``state`` share the masks they train."""
    found = mnist.load()
    held_out = slice(effort.images, effort.images + effort.validation)
    images, labels = found.train_images[held_out], found.train_labels[held_out]

    def fit(model: nn.Module, epochs: int, penalty=None) -> None:
        train(model, data(effort), Recipe(epochs, rate=2e-3, penalty=penalty))

    def validation_loss(model: nn.Module) -> float:
        return float(functional.cross_entropy(model(images), labels))

    return search_partial_binarization(
        float_network(seed, effort),
        BUDGET,
        fit=fit,
        evaluate=validation_loss,
        method=method,
        epochs=effort.proxy,
        seed=seed,
        state=state,
        progress=False,
    )


def compare_searches(effort: Effort, states: Path) -> list[Mask]:
    """Search with every method and every seed, and print what the chosen networks achieve.

    Returns the masks of the greedy search, one per seed.
    """
    components = Components.of(network())
    of_test = functools.cache(lambda mask, seed: accuracy(tuned(mask, seed, effort), data(effort)))
    seeds = range(effort.seeds)
    # A random order in which layers become binary until the cost is within the budget, as in the method "random".
    orders = list(itertools.permutations(components.names))
    random = [components.until_within(BUDGET, order) for order in orders]
    print(f"{'binary layers':24} {'operations':>10} {'FLOPs':>7} {'float weights':>13} {'accuracy':>13}")
    for mask in [(), *sorted(set(random)), components.names]:
        costs = [replace(components, measure=measure).cost(mask) for measure in ("operations", "flops", "weights")]
        layers = ", ".join(name.split(".")[1] for name in mask) or "none"
        print(
            f"{layers:24} {costs[0]:10.1%} {costs[1]:7.1%} {costs[2]:13.1%} "
            f"{Mean.of(of_test(mask, seed) for seed in seeds)!s:>13}"
        )
    chance = Mean.of(sum(of_test(mask, seed) for mask in random) / len(random) for seed in seeds)
    print(f"{'search':12} {'accuracy':>13} {'seconds':>8}  masks of the seeds\n{'random':12} {chance!s:>13} {0:8.1f}")
    found, results = {}, {}
    for method in METHODS:
        found[method] = [search(method, seed, effort, states / f"{seed}.json") for seed in seeds]
        results[method] = Mean.of(of_test(each.binary, seed) for seed, each in enumerate(found[method]))
        layers = "; ".join(", ".join(name.split(".")[1] for name in each.binary) for each in found[method])
        seconds = sum(each.seconds for each in found[method]) / len(seeds)
        print(f"{method:12} {results[method]!s:>13} {seconds:8.1f}  {layers}")
    for method in METHODS[1:]:
        gap = results["exhaustive"].value - results[method].value
        claim = f"{method} search: at most 1 point below the exhaustive one ({gap:+.1f})"
        if effort is FULL:
            check(gap <= 1, claim)
        else:
            print(f"(not checked with one seed) {claim}")
    return [each.binary for each in found["greedy"]]


def compare_activations(effort: Effort, searched: list[Mask]) -> None:
    """Print the accuracy with each activation, with no layer, the searched layers and all layers binary."""
    everything = Components.of(network()).names
    print(f"{'activation':12} {'none binary':>13} {'searched':>13} {'all binary':>13}")
    for activation in ACTIVATIONS:
        row = []
        for masks in ([()] * effort.seeds, searched, [everything] * effort.seeds):
            models = [tuned(mask, seed, effort, activation) for seed, mask in enumerate(masks)]
            row.append(Mean.of(accuracy(model, data(effort)) for model in models))
        print(f"{activation:12} {row[0]!s:>13} {row[1]!s:>13} {row[2]!s:>13}")


def compare_libraries(effort: Effort, searched: Mask) -> None:
    """Compile the float, the searched and the binary network, and print bytes and latencies."""
    masks = {"float": (), "searched": searched, "binary": Components.of(network()).names}
    modules: dict[str, sbnn_tvm.CompiledModule] = {}
    for name, mask in masks.items():
        agreement = deploy(tuned(mask, 0, effort), data(effort))
        print(f"{name}: {agreement}")
        modules[name] = agreement.module
        kernels = {layer.name: layer for layer in agreement.module.report.linear}
        check(all(kernels[each].binary for each in mask), f"{len(mask)} layers on bits, the others on float kernels")
    image = data(effort).test_images[:1].numpy()
    times = interleave({name: functools.partial(module.run, image) for name, module in modules.items()}, seconds=2)
    for name, module in modules.items():
        size = module.report.bytes
        print(f"{name:12} {size:8} bytes {times[name].minimum * 1e6:8.1f} us")


def main(argv: Sequence[str] | None = None) -> None:
    """Search, compare the searches, and compare the deployed networks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="more images, three seeds, and other activations")
    effort = FULL if parser.parse_args(argv).full else QUICK
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as states:
        searched = compare_searches(effort, Path(states))
    if effort is FULL:
        compare_activations(effort, searched)
    compare_libraries(effort, searched[0])


if __name__ == "__main__":
    main()
