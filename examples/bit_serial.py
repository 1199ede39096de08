"""Activations of one to three bits and weights of one and two bits: the accuracy that each bit gains, on digits.

Every network is trained, exported, and compared on all test images: PyTorch, onnxruntime and the compiled model must
agree. The compiled kernels count bits, once for each pair of a bit of the weights and a bit of the activations.
"""

from __future__ import annotations

from collections.abc import Callable

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import EWGS, Binarize, BinaryConv2d, DoReFa, ScaledSigns, Symmetric, TwoBits, WeightDomain

WIDTH = 24  # with fewer channels than a popcount needs, a layer would run in float
NETWORKS: dict[str, tuple[WeightDomain, Callable[[], nn.Module], int]] = {
    "1-bit weights, 1-bit activations (sign)": (ScaledSigns(), Binarize, 1),
    "1-bit weights, 2-bit activations (EWGS)": (ScaledSigns(), lambda: EWGS(2), 2),
    "1-bit weights, 2-bit activations (DoReFa, learned clip)": (ScaledSigns(), lambda: DoReFa(2, 2.0, learned=True), 2),
    "1-bit weights, 3-bit activations (symmetric)": (ScaledSigns(), lambda: Symmetric(3, 0.4, learned=True), 3),
    "2-bit weights, 2-bit activations (EWGS)": (TwoBits(), lambda: EWGS(2), 2),
}


def network(weights: WeightDomain, activations: Callable[[], nn.Module]) -> nn.Sequential:
    """The tiny network with quantised layers, and a ReLU before EWGS, whose initial levels are for rectified values."""

    def layer(inputs: int, outputs: int) -> nn.Module:
        conv = BinaryConv2d(inputs, outputs, 3, padding=1, domain=weights, binarize=activations())
        return nn.Sequential(nn.ReLU(), conv) if isinstance(conv.binarize, EWGS) else conv

    return digits.tiny_network(layer, width=2 * WIDTH)


def main(epochs: int = 20, seeds: int = 2) -> dict[str, float]:
    """Train, compile and compare every network; returns their accuracies in per cent."""
    torch.set_num_threads(1)
    data = digits.load()
    found = {}
    for name, (weights, activations, bits) in NETWORKS.items():
        models = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            models.append(
                training_loop.train(network(weights, activations), data, training_loop.Recipe(epochs=epochs), seed)
            )
        accuracy = claims.Mean.of(training_loop.accuracy(model, data) for model in models)
        agreement = deploy(models[0], data)
        binary = [each for each in agreement.module.report.linear if each.binary]
        claims.check({each.activations for each in binary} == {bits}, f"{name}: {accuracy} %; {agreement}")
        found[name] = accuracy.value
    return found


if __name__ == "__main__":
    main()
