"""Penalties on latent weights: call one with the task's loss, and add the result to the loss.

They affect training only; the deployed layer is the same.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.modules import binary_layers
from .rbonn import RBONN


def kurtosis(x: Tensor) -> Tensor:
    """``mean(((x - mean(x)) / std(x)) ^ 4)`` over all numbers: 3 for a normal distribution, 1.8 for a uniform one.

    The smallest possible kurtosis is 1, that of two equally frequent values.
    """
    centred = x - x.mean()
    variance = centred.square().mean()
    return centred.pow(4).mean() / variance.square().clamp_min(torch.finfo(x.dtype).tiny)


class KurtosisPenalty:
    """Pulls the latent weights towards two modes: ``weight * mean over layers (kurtosis - target)^2``.

    Args:
        model: The penalty covers its binary layers.
        target: The kurtosis to reach: one number, or one per layer. 1.8 is the kurtosis of a uniform distribution.
        weight: Factor of the penalty.

    Raises:
        ArgumentError: If the model has no binary layer, a target is below 1, or there is not one target per layer.

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
            raise ArgumentError(f"target is one number, or one for each of {len(self.layers)} binary layers")
        if min(self.targets) < 1:
            raise ArgumentError(f"no distribution has a kurtosis below 1, but got target={target}")
        self.weight = weight

    def __call__(self, loss: Tensor | None = None) -> Tensor:
        """The penalty, a scalar; ``loss``, the task's loss, is not used."""
        values = [
            (kurtosis(layer.latent()) - target).square()
            for layer, target in zip(self.layers, self.targets, strict=True)
        ]
        return self.weight * torch.stack(values).mean()


class ReconstructionPenalty:
    """Pulls latent weights w and scales a towards each other, with the signs b = sign(w) held fixed.

    The penalty and its gradients, which are the terms of the bilinear model, are::

        (1)  P     = weight / 2 * sum (w - a * b)^2
        (2)  dP/dw = weight * (w - a * b)
        (3)  dP/da = -weight * sum b * (w - a * b)

    This is the penalty alone, for domains of any method. The domain RBONN has the whole method, with this penalty.

    Args:
        model: The penalty covers its binary layers with a learned scale, such as ``ScaledSigns(learned=True)``.
        weight: Factor of the penalty.

    Raises:
        ArgumentError: If there is no such layer, or a layer has the domain RBONN.

    References:
        Xu et al., "Recurrent Bilinear Optimization for Binary Neural Networks" (RBONN), ECCV 2022, arXiv 2209.01542.
    """

    def __init__(self, model: nn.Module, weight: float = 1e-4) -> None:
        self.layers = [layer for layer in binary_layers(model) if list(layer.values.parameters())]
        if not self.layers:
            raise ArgumentError("no binary layer learns its scale; make them with domain=ScaledSigns(learned=True)")
        if any(isinstance(layer.domain, RBONN) for layer in self.layers):
            raise ArgumentError("the domain RBONN adds this penalty itself; set RBONN(reconstruction=...) instead")
        self.weight = weight

    def __call__(self, loss: Tensor | None = None) -> Tensor:
        """The penalty, a scalar; ``loss``, the task's loss, is not used."""
        total = torch.zeros((), device=self.layers[0].latent().device)
        for layer in self.layers:
            scale, offset = layer.values(layer.weight)
            binary = layer.signs().detach() * scale.reshape(-1, *[1] * (layer.weight.ndim - 1))
            if offset is not None:
                binary = binary + offset.reshape(-1, *[1] * (layer.weight.ndim - 1))
            total = total + (layer.weight - binary).square().sum()
        return self.weight / 2 * total
