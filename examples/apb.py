"""Keep the few weights in float that binarise badly (APB); weight decay controls how many.

Run ``python examples/apb.py``. For each of a few seeds a float network is trained on scikit-learn's digits and
converted. Its training then continues with several weight decays. A table shows the final share of float weights, the
accuracy, and the accuracy after binarising the float weights too. One model is exported and compiled, and PyTorch,
onnxruntime and the compiled library classify the whole test set.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from itertools import pairwise

import claims
import digits
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import APB, BinaryConfig, FreezeAPB, apb_memory, apb_parameter_groups, binarize_

DECAYS = (0.0, 1e-3, 3e-3, 1e-2)


def pretrained(data: training_loop.Data, seed: int) -> nn.Module:
    """The float network."""
    torch.manual_seed(seed)
    return training_loop.train(digits.tiny_network(digits.float_layer), data, training_loop.Recipe(epochs=20), seed)


def apb_network(model: nn.Module) -> nn.Module:
    """A copy whose body has weights of APB and activations of one bit."""
    model = copy.deepcopy(model)
    binarize_(model, BinaryConfig(weights=APB()))
    return model


def tuned(model: nn.Module, data: training_loop.Data, decay: float, seed: int, epochs: int = 40) -> nn.Module:
    """The network after more training, with SGD; alpha and delta are frozen halfway."""
    freeze = FreezeAPB(interval=0.5)
    recipe = training_loop.Recipe(
        epochs=epochs,
        optimizer=lambda model: torch.optim.SGD(apb_parameter_groups(model, decay), lr=0.02, momentum=0.9),
        clamp=float("inf"),
        before_epoch=lambda progress: freeze(model, progress),
    )
    return training_loop.train(model, data, recipe, seed)


def float_share(model: nn.Module) -> float:
    """The share of the body's weights that are float, in per cent."""
    memory = apb_memory(model)
    return 100 * sum(each.floats for each in memory) / sum(each.weights for each in memory)


def without_floats(model: nn.Module) -> nn.Module:
    """A copy whose float weights are made binary too."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if hasattr(module, "delta"):
            module.delta.data.fill_(float("inf"))
            module.kept = module.kept[:0]
    return model


def main(argv: Sequence[str] | None = None) -> None:
    """Train, print and check."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    data = digits.load()
    start = [pretrained(data, seed) for seed in range(arguments.seeds)]
    print("weight decay  float weights %   accuracy %     without them %   bits per weight")
    shares, lost, last = [], [], None
    for decay in DECAYS:
        models = [tuned(apb_network(model), data, decay, seed) for seed, model in enumerate(start)]
        share = claims.Mean.of(float_share(model) for model in models)
        right = claims.Mean.of(training_loop.accuracy(model, data) for model in models)
        bare = claims.Mean.of(training_loop.accuracy(without_floats(model), data) for model in models)
        memory = [each for model in models for each in apb_memory(model)]
        bits = 8 * sum(each.exported for each in memory) / sum(each.weights for each in memory)
        print(f"{decay:<13g} {share.value:5.2f} +- {share.error:4.2f}    {right!s:>13}    {bare!s:>13}   {bits:8.2f}")
        shares.append(share.value)
        lost.append(right.value - bare.value)
        last = last or models[0]
    assert last is not None
    for each in apb_memory(last):
        print(each)
    agreement = deploy(last, data)
    print(agreement.module.report)
    print(agreement)
    falling = all(one >= other for one, other in pairwise(shares)) and shares[0] > shares[-1]
    claims.check(falling, "more weight decay leaves fewer weights in float")
    claims.check(lost[0] > 1, f"without weight decay the float weights gain {lost[0]:.1f} points")


if __name__ == "__main__":
    main()
