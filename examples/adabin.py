"""AdaBin: weights of two values around their mean, activations of two learned values, and Maxout (arXiv 2208.08084).

It is compared with {-a, +a} weights and signs, with the same Maxout. On digits both come close to the float network.
The example checks that AdaBin loses no accuracy, and that two arbitrary values run on bits too.
"""

from __future__ import annotations

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import Adaptive, AdaptiveBinarize, Binarize, BinaryConv2d, Maxout, ScaledSigns

TOLERATED_LOSS = 1.0
"""Points of accuracy below which a difference counts as noise."""


def network(adaptive: bool = True) -> nn.Module:
    """A network with AdaBin's layers, or with plain ones that have the same activation and gradients."""

    def layer(inputs: int, outputs: int) -> nn.Module:
        return BinaryConv2d(
            inputs,
            outputs,
            3,
            padding=1,
            domain=Adaptive() if adaptive else ScaledSigns(),
            estimator="ede",
            binarize=AdaptiveBinarize() if adaptive else Binarize(),
        )

    return digits.tiny_network(layer, activation=Maxout)


def train(adaptive: bool = True, seed: int = 0, epochs: int = 40) -> nn.Module:
    """Trains with the common recipe."""
    torch.manual_seed(seed)
    return training_loop.train(network(adaptive), digits.load(), training_loop.Recipe(epochs=epochs), seed)


def main(seeds: int = claims.SEEDS, epochs: int = 40, check: bool = True) -> None:
    """Check the claims. ``check=False`` skips the accuracies, which need all seeds and epochs to hold."""
    torch.set_num_threads(1)
    data = digits.load()
    models = {adaptive: [train(adaptive, seed, epochs) for seed in range(seeds)] for adaptive in (True, False)}
    adaptive, plain = (claims.Mean.of(training_loop.accuracy(m, data) for m in models[key]) for key in (True, False))
    print(f"AdaBin: {adaptive} %; signs: {plain} %")
    for index, layer in enumerate(models[True][0].body):
        lo, hi = (value.item() for value in layer.layer.binarize.domain())
        print(f"  body.{index}: activations {{{lo:.3f}, {hi:.3f}}} above {layer.layer.binarize.beta.item():.3f}")
    if check:
        gain = adaptive.value - plain.value
        claims.check(gain >= -TOLERATED_LOSS, f"AdaBin is no worse than signs ({gain:+.1f} points)")
    agreement = deploy(models[True][0], data)
    print(agreement)
    binary = [layer.name for layer in agreement.module.report.linear if layer.binary]
    claims.check(len(binary) == 4, f"{len(binary)} of 4 layers run on bits")


if __name__ == "__main__":
    main()
