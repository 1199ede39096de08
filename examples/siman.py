"""SiMaN: bits that tell which weights are large, instead of which are positive (arXiv 2102.07981).

Claims: the best share of ones is 1/e, 0.541 or 2/3 for Laplacian, Gaussian or uniform weights. And a network with such
bits is no worse than one with signs, at the same cost. Both networks have the same scales and the same activations,
which are +1 above the mean of their sample.
"""

from __future__ import annotations

import math

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import (
    BinarizeAboveMean,
    BinaryConv2d,
    BinaryLayer,
    Magnitudes,
    ScaledSigns,
    WeightDomain,
    parameter_groups,
)
from sbnn_tvm.frontends.torch.methods.siman import optimal_ones

TOLERATED_LOSS = 1.0
"""Points of accuracy below which a difference counts as noise."""


def network(domain: WeightDomain) -> nn.Module:
    """The tiny network with the paper's activation before every binary layer."""
    return digits.tiny_network(
        lambda inputs, outputs: BinaryConv2d(inputs, outputs, 3, padding=1, domain=domain, binarize=BinarizeAboveMean())
    )


def train(domain: WeightDomain, seed: int = 0, epochs: int = 40, of_binary: float = 0.0) -> nn.Module:
    """The paper's recipe: SGD with weight decay, except on binary weights."""
    torch.manual_seed(seed)
    recipe = training_loop.Recipe(
        epochs=epochs,
        optimizer=lambda model: torch.optim.SGD(parameter_groups(model, 5e-4, of_binary), lr=0.05, momentum=0.9),
    )
    return training_loop.train(network(domain), digits.load(), recipe, seed)


def share_of_ones(model: nn.Module) -> float:
    """The mean over channels of the share of ones with the smallest angle to the magnitudes."""
    layers = [module for module in model.modules() if isinstance(module, BinaryLayer)]
    rows = [layer.weight.detach().flatten(1).abs() for layer in layers]
    return float(torch.cat([optimal_ones(each) / each.shape[1] for each in rows]).mean())


def main(seeds: int = claims.SEEDS, epochs: int = 40, check: bool = True) -> None:
    """Check the claims. ``check=False`` skips the accuracies, which need all seeds and epochs to hold."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = digits.load()
    samples = {
        "Laplacian": (torch.distributions.Laplace(0.0, 1.0).sample((20, 100_000)), 1 / math.e),
        "Gaussian": (torch.randn(20, 100_000), 0.541),
        "uniform": (torch.rand(20, 100_000), 2 / 3),
    }
    for name, (sample, expected) in samples.items():
        shares = optimal_ones(sample.abs()) / sample.shape[1]
        error = float(shares.std()) / math.sqrt(len(shares))
        found = float(shares.mean())
        claims.check(
            abs(found - expected) < max(4 * error, 1e-3),
            f"{name} weights: {found:.3f} +- {error:.3f} of them are ones, {expected:.3f} in theory",
        )

    accuracies, models = {}, {}
    for name, domain in (("magnitudes", Magnitudes()), ("signs", ScaledSigns(learned=True))):
        models[name] = [train(domain, seed, epochs) for seed in range(seeds)]
        accuracies[name] = claims.Mean.of(training_loop.accuracy(model, data) for model in models[name])
        optimum = claims.Mean.of(100 * share_of_ones(model) for model in models[name])
        print(f"{name}: accuracy {accuracies[name]} %; the smallest angle has {optimum} % ones")
    if check:
        loss = accuracies["signs"].value - accuracies["magnitudes"].value
        claims.check(loss <= TOLERATED_LOSS, f"magnitudes are no worse than signs ({-loss:+.1f} points)")
    print(deploy(models["magnitudes"][0], data))


if __name__ == "__main__":
    main()
