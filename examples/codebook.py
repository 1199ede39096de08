"""Weights of less than one bit, on digits: 3x3 kernels from 64, 16 and 4 learned patterns.

Sub-bit learns patterns that may become equal; sparse kernel selection learns which of all 512 patterns to use. Every
network is trained, exported, and compared on all test images: PyTorch, onnxruntime and the compiled model must agree.
Files and libraries hold t bits per kernel; the convolutions are ordinary binary ones.
"""

from __future__ import annotations

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, ScaledSigns, SelectedKernels, SubBit, WeightDomain

WIDTH = 64
DOMAINS: dict[str, WeightDomain] = {
    "1 bit": ScaledSigns(),
    "6/9 bit": SubBit(6),
    "4/9 bit": SubBit(4),
    "2/9 bit": SubBit(2),
    "6/9 bit, selected": SelectedKernels(6),
    "4/9 bit, selected": SelectedKernels(4),
    "2/9 bit, selected": SelectedKernels(2),
}


def network(domain: WeightDomain) -> nn.Sequential:
    """The tiny network with more channels, since a codebook needs many kernels to save bytes."""
    layer = lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=domain, binarize=Binarize())  # noqa: E731
    return digits.tiny_network(layer, width=WIDTH)


def main(epochs: int = 20, seeds: int = 1) -> dict[str, float]:
    """Train, compile and compare every network; returns their accuracies in per cent."""
    torch.set_num_threads(1)
    data, found = digits.load(), {}
    for name, domain in DOMAINS.items():
        models = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            models.append(training_loop.train(network(domain), data, training_loop.Recipe(epochs=epochs), seed))
        accuracy = claims.Mean.of(training_loop.accuracy(model, data) for model in models)
        agreement = deploy(models[0], data)
        stored = sum(layer.bytes for layer in agreement.module.report.layers if layer.binary)
        print(f"ok {name}: {accuracy} %; {stored} bytes of binary layers; {agreement}")
        found[name] = accuracy.value
        if isinstance(domain, SelectedKernels):
            layers = [layer for layer in models[0].modules() if isinstance(layer, BinaryConv2d)]
            distinct = {len(layer.values.selected().unique()) for layer in layers}
            claims.check(distinct == {1 << domain.index_bits}, f"{name}: no kernel is selected twice")
    return found


if __name__ == "__main__":
    main()
