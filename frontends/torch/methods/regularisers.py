"""Penalties on latent weights: call one with the task's loss, and add the result to the loss.

They affect training only; the deployed layer is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.modules import BinaryLayer, binary_layers
from .rbonn import RBONN


def kurtosis(x: Tensor) -> Tensor:
    """``mean(((x - mean(x)) / std(x)) ^ 4)`` over all numbers: 3 for a normal distribution, 1.8 for a uniform one.

    The smallest possible kurtosis is 1, that of two equally frequent values.
    """
    centred = x - x.mean()
    variance = centred.square().mean()
    return centred.pow(4).mean() / variance.square().clamp_min(torch.finfo(x.dtype).tiny)


def latent_weights(layer: nn.Module) -> Tensor:
    """The float weights of a layer, for a binary layer its latent weights.

    Raises:
        ArgumentError: If it has no weights of two axes or more.
    """
    weights = layer.latent() if isinstance(layer, BinaryLayer) else getattr(layer, "weight", None)
    if not isinstance(weights, Tensor) or weights.ndim < 2:
        raise ArgumentError(f"a layer with weights of two axes or more is needed, but got {type(layer).__name__}")
    return weights


class KurtosisPenalty:
    """Pulls the latent weights towards two modes: ``weight * mean over layers (kurtosis - target)^2``.

    The released code has the options to start at a later epoch, for which call the penalty from that epoch on, and to
    have one target per layer. Its targets for the convolutions of a ResNet-18, in the order of the modules without the
    first, are 1.4 for CIFAR-10, but 1.8 in the last stage and 2.2 in its last layer. On ImageNet they are 1.2 to 1.8,
    without a teacher 1 in the last two layers.

    Args:
        model: The penalty covers its binary layers.
        target: The kurtosis to reach: one number, or one per layer. 1.8 is the kurtosis of a uniform distribution.
        weight: Factor of the penalty.
        layers: Names of other layers to cover instead, for example the convolutions of a float teacher.

    Raises:
        ArgumentError: If the model has no binary layer or lacks a named one, a target is below 1, or there is not one
            target per layer.

    References:
        Rozen et al., "Bimodal Distributed Binarized Neural Networks" (BD-BNN), Mathematics 10(21), 2022, arXiv
        2204.02004.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryLinear
        >>> penalty = KurtosisPenalty(BinaryLinear(64, 8))
        >>> loss = torch.tensor(2.0)
        >>> total = loss + penalty(loss)
    """

    def __init__(
        self,
        model: nn.Module,
        target: float | Sequence[float] = 1.8,
        weight: float = 1.0,
        layers: Iterable[str] | None = None,
    ) -> None:
        self.layers = self._named(model, layers) if layers is not None else list(binary_layers(model))
        self.targets = [target] * len(self.layers) if isinstance(target, int | float) else list(target)
        if len(self.targets) != len(self.layers):
            raise ArgumentError(
                f"target is one number, or one for each of {len(self.layers)} layers, but got {len(self.targets)}"
            )
        if min(self.targets) < 1:
            raise ArgumentError(f"no distribution has a kurtosis below 1, but got target={target}")
        self.weight = weight

    def __call__(self, loss: Tensor | None = None) -> Tensor:
        """The penalty, a scalar; ``loss``, the task's loss, is not used."""
        values = [
            (kurtosis(latent_weights(layer)) - target).square()
            for layer, target in zip(self.layers, self.targets, strict=True)
        ]
        return self.weight * torch.stack(values).mean()

    @staticmethod
    def _named(model: nn.Module, names: Iterable[str]) -> list[nn.Module]:
        modules = dict(model.named_modules())
        names = list(names)
        if missing := [name for name in names if name not in modules]:
            raise ArgumentError(f"the model has no module {missing[0]!r}")
        if not names:
            raise ArgumentError("layers names no layer; leave it out for the binary layers")
        for name in names:
            latent_weights(modules[name])  # raises
        return [modules[name] for name in names]


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
