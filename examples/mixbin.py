"""Make part of a network binary, under a budget: a MixBin-style search chooses the layers.

The network has four convolutions to choose from, so all 16 masks can be trained, and the table of their accuracies
shows how good a search is. A search uses 500 images and chooses by the loss on 400 others. The masks are then trained
from scratch on the 500, and tested on the remaining 897. ``--full`` trains all masks, and with more seeds.

The convolutions cost 1 : 2 : 1/2 : 1/2. Half of that is the second one alone, or all but the second. With the stem and
the head, which stay float, this is 51.6 % of the float network's cost.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from collections import OrderedDict
from collections.abc import Sequence

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn
from torch.nn import functional

from sbnn_tvm.frontends.torch import PartialBinarization, search_partial_binarization
from sbnn_tvm.frontends.torch.search.components import Components, Mask
from sbnn_tvm.frontends.torch.search.evaluate_masks import apply_mask_

BUDGET = 0.52
ALL_DATA = digits.load(train=900)
TRAIN = slice(0, 500)
VALIDATION = slice(500, 900)
DATA = training_loop.Data(
    ALL_DATA.train_images[TRAIN], ALL_DATA.train_labels[TRAIN], ALL_DATA.test_images, ALL_DATA.test_labels
)


def network() -> nn.Sequential:
    """The float network of the other examples, with a pooling after the second convolution of its body."""
    model = digits.tiny_network(digits.float_layer)
    first, second, third, fourth = model.body
    model.body = nn.Sequential(
        OrderedDict(first=first, second=second, pool=nn.MaxPool2d(2), third=third, fourth=fourth)
    )
    model.head[0] = nn.AvgPool2d(2)
    return model


def fit(model: nn.Module, epochs: int, penalty=None, rate: float = 2e-3) -> None:
    """The training of a search, which is shorter than the training from scratch."""
    training_loop.train(model, DATA, training_loop.Recipe(epochs=epochs, rate=rate, penalty=penalty))


def validation_loss(model: nn.Module) -> float:
    """The loss on images that are neither trained on nor tested on."""
    scores = model(ALL_DATA.train_images[VALIDATION])
    return float(functional.cross_entropy(scores, ALL_DATA.train_labels[VALIDATION]))


def search(method: str, seed: int, budget: float = BUDGET, progress: bool = False) -> PartialBinarization:
    """A search from a float network that was trained with that seed."""
    return search_partial_binarization(
        float_network(seed),
        budget,
        fit=fit,
        evaluate=validation_loss,
        method=method,
        epochs=10,
        seed=seed,
        progress=progress,
    )


@functools.cache
def float_network(seed: int) -> nn.Module:
    """A trained float network."""
    torch.manual_seed(seed)
    return training_loop.train(network(), DATA, training_loop.Recipe(epochs=40), seed=seed)


@functools.cache
def from_scratch(mask: Mask, seed: int) -> nn.Module:
    """A network with that mask, trained from scratch."""
    torch.manual_seed(seed)
    model = network()
    apply_mask_(model, mask)
    return training_loop.train(model, DATA, training_loop.Recipe(epochs=40), seed=seed)


def accuracy(mask: Mask, seeds: Sequence[int]) -> claims.Mean:
    """The accuracy on the test images, in per cent."""
    return claims.Mean.of(training_loop.accuracy(from_scratch(mask, seed), DATA) for seed in seeds)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, search, and compare the deployed network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="all 16 masks and 5 seeds")
    full = parser.parse_args(argv).full
    torch.set_num_threads(1)
    seeds = range(5 if full else 2)
    components = Components.of(network())
    everything = [mask for n in range(5) for mask in itertools.combinations(components.names, n)]
    # Masks within the budget in which no layer could become float again.
    tight = sorted({components.until_within(BUDGET, order) for order in itertools.permutations(components.names)})
    table = {mask: accuracy(mask, seeds) for mask in (everything if full else tight)}
    print(f"{'cost':>6} {'accuracy':>12}  binary")
    for mask, mean in sorted(table.items(), key=lambda item: -components.cost(item[0])):
        print(f"{components.cost(mask):6.1%} {mean!s:>12}  {', '.join(mask) or 'nothing'}")
    within = {mask: mean.value for mask, mean in table.items() if components.cost(mask) <= BUDGET}
    optimum = max(within, key=lambda mask: within[mask])
    orders = list(itertools.permutations(components.names))
    chance = sum(within[components.until_within(BUDGET, order)] for order in orders) / len(orders)
    print(f"optimum {within[optimum]:.1f} %, mean of random masks {chance:.1f} %")
    for method in ("greedy", "gradual"):
        found = [search(method, seed) for seed in seeds]
        print(found[0])
        result = claims.Mean.of(within.get(each.binary, 0) for each in found)
        claims.check(
            within[optimum] - result.value <= 0.3 and result.value > chance,
            f"{method} search over {len(seeds)} seeds: {result} %, at most 0.3 below the optimum and above chance",
        )
    print(deploy(from_scratch(found[0].binary, 0), DATA))


if __name__ == "__main__":
    main()
