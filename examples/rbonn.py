"""RBONN: latent weights and scales trained as a bilinear pair, and weights set back (arXiv 2209.01542).

It is compared with a scale that is learned by the ordinary gradient, and with RBONN without its back-track. The paper
reports a gain of 0.8 points over ReActNet on ImageNet, which digits are too easy to show. The example checks that RBONN
loses no accuracy, that its layers deploy as plain {-a, +a}, and that they run on bits.
"""

from __future__ import annotations

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import (
    RBONN,
    Binarize,
    BinaryConv2d,
    ScaledSigns,
    WeightDomain,
    backtrack_,
    rbonn_parameter_groups,
)

TOLERATED_LOSS = 1.0
"""Points of accuracy below which a difference counts as noise."""


def train(domain: WeightDomain, backtrack: bool, seed: int = 0, epochs: int = 40) -> nn.Module:
    """Trains with the common recipe; latent weights are clamped for ordinary gradients only."""
    torch.manual_seed(seed)
    model = digits.tiny_network(
        lambda inputs, outputs: BinaryConv2d(inputs, outputs, 3, padding=1, domain=domain, binarize=Binarize())
    )
    bilinear, rate = isinstance(domain, RBONN), training_loop.Recipe.rate
    recipe = training_loop.Recipe(
        epochs=epochs,
        optimizer=(lambda model: torch.optim.Adam(rbonn_parameter_groups(model, rate))) if bilinear else None,
        clamp=float("inf") if bilinear else training_loop.Recipe.clamp,
        after_step=(lambda: backtrack_(model)) if backtrack else None,
    )
    return training_loop.train(model, digits.load(), recipe, seed)


def main(seeds: int = claims.SEEDS, epochs: int = 40, check: bool = True) -> None:
    """Check the claims. ``check=False`` skips the accuracies, which need all seeds and epochs to hold."""
    torch.set_num_threads(1)
    data = digits.load()
    means, deployed = [], None
    for name, domain, backtrack in (
        ("RBONN", RBONN(), True),
        ("without its back-track", RBONN(), False),
        ("learned scales", ScaledSigns(learned=True), False),
    ):
        models = [train(domain, backtrack, seed, epochs) for seed in range(seeds)]
        means.append(claims.Mean.of(training_loop.accuracy(model, data) for model in models))
        print(f"{name}: {means[-1]} %")
        deployed = deployed or models[0]
    assert deployed is not None
    for index, block in enumerate(deployed.body):
        values = block.layer.values
        print(f"  body.{index}: u from {values.recurrence.min():.3f} to {values.recurrence.max():.3f}")
    if check:
        gain = means[0].value - means[2].value
        claims.check(gain >= -TOLERATED_LOSS, f"RBONN is no worse than learned scales ({gain:+.1f} points)")
    agreement = deploy(deployed, data)
    print(agreement)
    linear = agreement.module.report.linear
    plain = [layer.name for layer in linear if layer.binary and layer.weights == "{-a, +a} per channel"]
    claims.check(len(plain) == 4, f"{len(plain)} of 4 layers run on bits, with the weights {{-a, +a}}")


if __name__ == "__main__":
    main()
