"""Find the number of groups of each convolution of a binary MobileNet by evolution, under a budget of operations.

The network has four blocks, whose 3x3 convolutions can have 1, 2, 4, 8 or 16 groups. A network with shared weights is
trained on 500 images with random groups in every step. Candidates are selected by the loss on 400 others. The found
groups, and random groups that spend the same budget, are then trained from scratch and tested on the remaining 897.

In a network this small there are 20 ways to spend the budget, so the search tries all. The thirteen blocks of the
published network can have groups in 5^13 ways.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn
from torch.nn import functional

from sbnn_tvm.frontends.torch import Evolution, SearchedGroups, group_mobilenet, search_groups
from sbnn_tvm.frontends.torch.search.group_supernet import Groups

BUDGET = 0.6
EVOLUTION = Evolution(population=16, generations=4, parents=4, mutation=0.25)
IMAGES = digits.load(train=900)
DATA = training_loop.Data(IMAGES.train_images[:500], IMAGES.train_labels[:500], IMAGES.test_images, IMAGES.test_labels)


def network(groups: int | Sequence[int] = 1) -> nn.Module:
    """The MobileNet, with random weights; its maps have 4x4 pixels, and its convolutions 16, 16, 32 and 32 channels."""
    blocks = ((1, 1), (2, 1), (2, 1), (2, 1))
    return group_mobilenet(10, in_channels=1, image_size=8, width=16, blocks=blocks, groups=groups)


def train(model: nn.Module, epochs: int, seed: int = 0) -> nn.Module:
    """The training of all networks; those with shared weights take more epochs."""
    return training_loop.train(model, DATA, training_loop.Recipe(epochs=epochs, batch=100, rate=1e-2), seed=seed)


def loss(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    """The mean cross-entropy."""
    with torch.no_grad():
        return float(functional.cross_entropy(model(images), labels))


def search(seed: int, epochs: int) -> SearchedGroups:
    """A search from a network with that seed."""
    torch.manual_seed(seed)
    return search_groups(
        network(),
        BUDGET,
        fit=lambda model, epochs: train(model, epochs, seed),
        evaluate=lambda model: loss(model, IMAGES.train_images[500:], IMAGES.train_labels[500:]),
        calibration=DATA.train_images,
        epochs=epochs,
        evolution=EVOLUTION,
        seed=seed,
        progress=False,
    )


def from_scratch(groups: Groups, seed: int, epochs: int) -> nn.Module:
    """A network with these groups, trained from random weights."""
    torch.manual_seed(seed)
    return train(network(groups), epochs, seed)


def main(argv: Sequence[str] | None = None) -> None:
    """Search, train from scratch, compare, and deploy a network that was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=claims.SEEDS, help="number of searches")
    parser.add_argument("--random", type=int, default=4, help="random groups for each search")
    parser.add_argument("--epochs", type=int, default=20, help="of the trainings from scratch")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    gains, accuracies, others = [], [], []
    for seed in range(arguments.seeds):
        found = search(seed, 2 * arguments.epochs)
        print(found, flush=True)
        rng = random.Random(seed)
        model = from_scratch(found.groups, seed, arguments.epochs)
        baselines = [
            from_scratch(found.space.draw(rng, BUDGET), seed, arguments.epochs) for _ in range(arguments.random)
        ]
        losses = [loss(each, DATA.test_images, DATA.test_labels) for each in (model, *baselines)]
        accuracies.append(training_loop.accuracy(model, DATA))
        others += [training_loop.accuracy(each, DATA) for each in baselines]
        gains.append(sum(losses[1:]) / len(baselines) - losses[0])
        print(f"test loss {losses[0]:.3f}, random groups {', '.join(f'{each:.3f}' for each in losses[1:])}", flush=True)
    print(f"accuracy {claims.Mean.of(accuracies)} %, random groups {claims.Mean.of(others)} %")
    print(deploy(model, DATA))
    gain = claims.Mean.of(gains)
    claim = f"test loss {gain.value:.3f} +- {gain.error:.3f} lower than the mean of random groups"
    if arguments.seeds > 1:
        claims.check(gain.value > 0, claim)
    else:
        print(f"(not checked with one seed) {claim}")


if __name__ == "__main__":
    main()
