"""Losses that affect training only, in one ordinary loop: the deployed binary network is the same with each of them.

The tiny network of the other examples is trained without an extra loss and with each of these:

- kurtosis: latent weights with two modes (BD-BNN).
- mimicking: the distributions of a float network's weights and scores, and two modes in both networks (BD-BNN).
- reconstruction: latent weights close to their scales (RBONN).
- distillation: blocks that compute the features of a float network's blocks, first each alone, then together (DGRL).
- branches: the same with a light float branch beside each block (DGRL). These are deployed, as float layers.
- contrast: features of an image that match a float network's, and differ from those of other classes (CMIM).
- activations: the same for the binary and the latent activations inside the network (CMIM).

On digits the plain network is good already, so the differences are small.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import Tensor, nn
from torch.nn import functional

from sbnn_tvm.frontends.torch import (
    Binarize,
    BinarizerPairs,
    BinaryConv2d,
    BlockDistillation,
    ContrastiveLoss,
    DistributionMimicking,
    KurtosisPenalty,
    ReconstructionPenalty,
    ScaledSigns,
    Twin,
    add_branches_,
    clamp_latent_,
)

WIDTH = 16
BLOCKS = [f"body.{index}" for index in range(4)]
FLOAT_LAYERS = {f"{block}.layer": f"{block}.layer.1" for block in BLOCKS}
"""The student's binary convolutions, and the convolutions of the float network."""


def learned_scale(inputs: int, outputs: int) -> nn.Module:
    """A layer with a trained scale, which the bilinear model needs."""
    domain = ScaledSigns(learned=True)
    return BinaryConv2d(inputs, outputs, 3, padding=1, domain=domain, binarize=Binarize())


@dataclass(frozen=True)
class Method:
    """One row of the table.

    Attributes:
        layer: Makes the layers of the body.
        branches: Whether blocks have float branches.
        loss: Makes the extra loss from the student, the float network and the training labels.
        blockwise: The share of the epochs in which the blocks are trained alone.
    """

    layer: digits.Layer = digits.binary_layer
    branches: bool = False
    loss: Callable[[nn.Module, nn.Module, Tensor], Callable[..., Tensor]] | None = None
    blockwise: float = 0.0


def distillation(student: nn.Module, teacher: nn.Module, labels: Tensor) -> BlockDistillation:
    """DGRL; the stem is a float block."""
    return BlockDistillation(student, teacher, ["stem", *BLOCKS])


def mimicking(student: nn.Module, teacher: nn.Module, labels: Tensor) -> Callable[..., Tensor]:
    """BD-BNN with its teacher."""
    mimic = DistributionMimicking(student, teacher, FLOAT_LAYERS, weights=3)  # of small layers: the sums are means
    kurtosis = KurtosisPenalty(student, weight=0.1)
    return lambda loss: mimic(loss) + kurtosis(loss)


def contrast(student: nn.Module, teacher: nn.Module, labels: Tensor) -> ContrastiveLoss:
    """CMIM as in the released code, of the features before the head."""
    pairs = Twin(student, teacher, ["head.1"])
    return ContrastiveLoss(pairs, {"head.1": (4 * WIDTH, 4 * WIDTH)}, labels, weight=0.1, negatives=256)


def activations(student: nn.Module, teacher: nn.Module, labels: Tensor) -> ContrastiveLoss:
    """CMIM inside the network: at the last binariser."""
    place = "body.3.layer.binarize"
    pairs = BinarizerPairs(student, [place])
    return ContrastiveLoss(pairs, {place: (WIDTH, WIDTH)}, labels, weight=0.1, negatives=256)


METHODS = {
    "plain": Method(),
    "kurtosis": Method(loss=lambda student, teacher, labels: KurtosisPenalty(student, weight=0.1)),
    "mimicking": Method(loss=mimicking),
    "reconstruction": Method(layer=learned_scale, loss=lambda student, teacher, labels: ReconstructionPenalty(student)),
    "distillation": Method(loss=distillation, blockwise=0.25),
    "branches": Method(loss=distillation, blockwise=0.25, branches=True),
    "contrast": Method(loss=contrast),
    "activations": Method(loss=activations),
}


def train(method: Method, teacher: nn.Module, data: training_loop.Data, seed: int, epochs: int) -> nn.Module:
    """The tiny network, trained by the given method."""
    torch.manual_seed(seed)
    student = digits.tiny_network(method.layer, width=WIDTH)
    if method.branches:
        add_branches_(student, BLOCKS)
    extra = method.loss(student, teacher, data.train_labels) if method.loss else None
    heads = list(extra.parameters()) if isinstance(extra, nn.Module) else []  # of ContrastiveLoss
    optimizer = torch.optim.Adam([*student.parameters(), *heads], lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    student.train()
    for epoch in range(epochs):
        for index in torch.randperm(len(data.train_images)).split(50):
            images, labels = data.train_images[index], data.train_labels[index]
            if isinstance(extra, BlockDistillation) and epoch < method.blockwise * epochs:
                loss = extra.blockwise(images)
            else:
                loss = functional.cross_entropy(student(images), labels)
                if extra is not None:
                    loss = loss + extra(index if isinstance(extra, ContrastiveLoss) else loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clamp_latent_(student, 1.5)
        schedule.step()
    if hasattr(extra, "remove"):
        extra.remove()
    return student.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Print a table, and check the claim."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    data = digits.load()
    torch.manual_seed(0)
    teacher = digits.tiny_network(digits.float_layer, width=WIDTH)
    recipe = training_loop.Recipe(
        epochs=arguments.epochs, penalty=KurtosisPenalty(teacher, weight=0.1, layers=FLOAT_LAYERS.values())
    )
    training_loop.train(teacher, data, recipe)
    print(f"the float teacher: {training_loop.accuracy(teacher, data):.1f} %")
    results = {}
    for name, method in METHODS.items():
        models = [train(method, teacher, data, seed, arguments.epochs) for seed in range(arguments.seeds)]
        results[name] = claims.Mean.of(training_loop.accuracy(model, data) for model in models)
        print(f"{name}: {results[name]} %; {deploy(models[0], data)}")
    worst = min(results.values(), key=lambda mean: mean.value)
    claims.check(worst.value > results["plain"].value - 3, "no loss costs more than 3 points")


if __name__ == "__main__":
    main()
