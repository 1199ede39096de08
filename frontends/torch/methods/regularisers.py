"""Penalties on latent weights: call one with the task's loss, and add what it returns.

They shape the training only; what is deployed is the same layer.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..layers.modules import binary_layers


def kurtosis(x: Tensor) -> Tensor:
    """``mean(((x - mean(x)) / std(x)) ^ 4)`` over all numbers: 3 for a normal distribution, 1.8 for a uniform one.

    Two values, equally often, have the smallest kurtosis there is, 1.
    """
    centred = x - x.mean()
    variance = centred.square().mean()
    return centred.pow(4).mean() / variance.square().clamp_min(torch.finfo(x.dtype).tiny)


class KurtosisPenalty:
    """Draws the distribution of latent weights to two modes: ``weight * mean over layers (kurtosis - target)^2``.

    Args:
        model: Its BinaryLayers count.
        target: The kurtosis to reach: one number, or one a layer. 1.8 is that of a uniform distribution.
        weight: Of the penalty.

    Raises:
        ValueError: If the model has no binary layer, a target is below 1, or their number is not that of the layers.

    References:
        Xu et al., "Bimodal Distributed Binarized Neural Networks" (BD-BNN), Mathematics 10(21), 2022, arXiv 2204.02004.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryLinear
        >>> penalty = KurtosisPenalty(BinaryLinear(64, 8))
        >>> loss = torch.tensor(2.0)
        >>> total = loss + penalty(loss)
    """

    def __init__(self, model: nn.Module, target: float | list[float] = 1.8, weight: float = 1.0) -> None:
        self.layers = binary_layers(model)
        self.targets = [target] * len(self.layers) if isinstance(target, int | float) else target
        if len(self.targets) != len(self.layers):
            raise ValueError(f"target is one number, or one for each of {len(self.layers)} binary layers")
        if min(self.targets) < 1:
            raise ValueError(f"no distribution has a kurtosis below 1, but got target={target}")
        self.weight = weight

    def __call__(self, loss: Tensor | None = None) -> Tensor:
        """The penalty, a scalar; the loss of the task does not matter."""
        values = [
            (kurtosis(layer.latent()) - target).square()
            for layer, target in zip(self.layers, self.targets, strict=True)
        ]
        return self.weight * torch.stack(values).mean()


class ReconstructionPenalty:
    """Draws latent weights w and scales a to each other: ``weight / 2 * sum (w - a * sign(w))^2``, signs held fixed.

    Its gradients are the terms of the bilinear model, ``weight * (w - a * b)`` for the weights and ``-weight * sum b (w
    - a * b)`` for the scales. The method's other part, which pulls back the weights of filters with small scales before
    a forward pass (Density-ReLU), is not implemented.

    Args:
        model: Its BinaryLayers with a learned scale count, ``ScaledSigns(learned=True)``.
        weight: Of the penalty.

    Raises:
        ValueError: If there is no such layer.

    References:
        Xu et al., "Recurrent Bilinear Optimization for Binary Neural Networks" (RBONN), ECCV 2022, arXiv 2209.01542.
    """

    def __init__(self, model: nn.Module, weight: float = 1e-4) -> None:
        self.layers = [layer for layer in binary_layers(model) if list(layer.values.parameters())]
        if not self.layers:
            raise ValueError("no binary layer learns its scale; make them with domain=ScaledSigns(learned=True)")
        self.weight = weight

    def __call__(self, loss: Tensor | None = None) -> Tensor:
        """The penalty, a scalar; the loss of the task does not matter."""
        total = torch.zeros((), device=self.layers[0].latent().device)
        for layer in self.layers:
            scale, offset = layer.values(layer.weight)
            binary = layer.signs().detach() * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
            if offset is not None:
                binary = binary + offset.reshape(-1, *[1] * (layer.weight.ndim - 1))
            total = total + (layer.weight - binary).square().sum()
        return self.weight / 2 * total
