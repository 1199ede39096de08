"""Losses that affect training only: the deployed binary network is the same with each of them.

The tiny network of the other examples is trained without an extra loss and with each of these: bimodal latent weights
(BD-BNN), latent weights close to their scales (RBONN), blocks that compute the features of a float network's blocks
(DGRL), features of an image that match a float network's (CMIM). On digits the plain network is good already, so the
differences are small. The example shows how to use each loss.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import (
    Binarize,
    BinaryConv2d,
    BlockDistillation,
    ContrastiveLoss,
    KurtosisPenalty,
    ReconstructionPenalty,
    ScaledSigns,
)

BLOCKS = [f"body.{index}" for index in range(4)]


def learned_scale(inputs: int, outputs: int) -> nn.Module:
    """A layer with a trained scale, which the bilinear model needs."""
    domain = ScaledSigns(learned=True)
    return BinaryConv2d(inputs, outputs, 3, padding=1, domain=domain, binarize=Binarize())


def plain(student: nn.Module, teacher: nn.Module) -> None:
    """Cross-entropy alone."""


def kurtosis(student: nn.Module, teacher: nn.Module) -> KurtosisPenalty:
    """BD-BNN."""
    return KurtosisPenalty(student, weight=0.1)


def reconstruction(student: nn.Module, teacher: nn.Module) -> ReconstructionPenalty:
    """RBONN."""
    return ReconstructionPenalty(student)


def distillation(student: nn.Module, teacher: nn.Module) -> BlockDistillation:
    """DGRL."""
    return BlockDistillation(student, teacher, BLOCKS)


def contrast(student: nn.Module, teacher: nn.Module) -> ContrastiveLoss:
    """CMIM; its heads are trained too."""
    features = {"body.3": (16, 16)}
    return ContrastiveLoss(student, teacher, list(features), features, weight=0.1, memory=200)


LOSSES: dict[str, tuple[Callable, digits.Layer]] = {
    "plain": (plain, digits.binary_layer),
    "kurtosis": (kurtosis, digits.binary_layer),
    "reconstruction": (reconstruction, learned_scale),
    "distillation": (distillation, digits.binary_layer),
    "contrast": (contrast, digits.binary_layer),
}


def train(name: str, teacher: nn.Module, data: training_loop.Data, seed: int, epochs: int) -> nn.Module:
    """The tiny network, trained with the given loss."""
    make, layer = LOSSES[name]
    torch.manual_seed(seed)
    student = digits.tiny_network(layer)
    penalty = make(student, teacher)
    heads = list(penalty.parameters()) if isinstance(penalty, nn.Module) else []

    def optimizer(model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam([*model.parameters(), *heads], lr=5e-3)

    training_loop.train(
        student, data, training_loop.Recipe(epochs=epochs, penalty=penalty, optimizer=optimizer), seed=seed
    )
    if hasattr(penalty, "remove"):
        penalty.remove()
    return student


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and check the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2, help="trainings of each loss")
    parser.add_argument("--epochs", type=int, default=30)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    data = digits.load()
    torch.manual_seed(0)
    teacher = training_loop.train(
        digits.tiny_network(digits.float_layer), data, training_loop.Recipe(epochs=arguments.epochs)
    )
    print(f"the float teacher: {training_loop.accuracy(teacher, data):.1f} %")
    results = {}
    for name in LOSSES:
        models = [train(name, teacher, data, seed, arguments.epochs) for seed in range(arguments.seeds)]
        results[name] = claims.Mean.of(training_loop.accuracy(model, data) for model in models)
        print(f"{name}: {results[name]} %; {deploy(models[0], data)}")
    worst = min(results.values(), key=lambda mean: mean.value)
    claims.check(worst.value > results["plain"].value - 3, "no loss costs more than 3 points")


if __name__ == "__main__":
    main()
