"""RBONN: latent weights and scales trained as a bilinear pair, and weights of small scales set back.

The deployed weights are plain {-a, +a} per output channel. What differs is how they are trained. With a constant c, a
learned scale s [OC], latent weights w, the signs b = sign(w), and G = dL/dW::

    (1)  W     = c * |s| * b
    (2)  dL/dw = G * |s| + lambda * (w - W)
    (3)  dL/ds = sign(s) * (sum G * w - lambda * sum (w - W) * c * b)        sums over a channel

(2) and (3) are those of the product |s| * w, in which w stands for c * b, plus those of the reconstruction error
``lambda / 2 * sum (w - W)^2``. So neither has the factor c, and no gradient is clipped. The recurrent part sets weights
back: a training pass takes the signs of ``w - u * g`` with the last gradient g of w and a learned u [OC], but only in
the channels with the smallest scales, whose weights would otherwise learn least (Density-ReLU).

References:
    Xu et al., "Recurrent Bilinear Optimization for Binary Neural Networks" (RBONN), ECCV 2022, arXiv 2209.01542. The
    gradients and constants are those of the authors' code. The paper's equations, as its authors repeat them in a later
    book, set back along the last weights instead of the last gradient, and choose channels by the weights too. The
    authors' code compares the indices of a sort where the equations, and this file, compare ranks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.domains import WeightValues
from ..layers.estimators import Estimator
from ..layers.modules import BinaryLayer

_SMALLEST = 1e-6  # the smallest |s|: dL/dW is recovered by a division


@dataclass(frozen=True)
class RBONN:
    """A WeightDomain: ``-a`` and ``+a``, with a learned a = c * |s| per output channel, and RBONN's gradients.

    Call :func:`backtrack_` after every optimiser step; without it, training has the bilinear gradients alone. The
    authors train with Adam, no weight decay, and a tenth of the rate for u (:func:`rbonn_parameter_groups`); they do
    not clamp latent weights. The layer's estimator is not used.

    Attributes:
        constant: c.
        reconstruction: lambda, the weight of the reconstruction error.
        backtrack: The initial u.
        threshold: The share of channels, those with the largest scales, that are never set back.
        init: The initial s: ``"normal"``, as in the authors' code, draws it from a normal distribution. ``"fit"`` makes
            a the mean of |w|, for weights of a trained float network.

    Raises:
        ArgumentError: If a number is out of range, or ``init`` unknown.

    Examples:
        >>> from sbnn_tvm.frontends.torch import BinaryConv2d
        >>> layer = BinaryConv2d(8, 8, 3, domain=RBONN())
        >>> optimizer = torch.optim.Adam(rbonn_parameter_groups(layer, 1e-3), lr=1e-3)
        >>> layer(torch.randn(1, 8, 5, 5)).square().mean().backward()
        >>> optimizer.step()
        >>> backtrack_(layer)
    """

    constant: float = 0.02
    reconstruction: float = 1e-4
    backtrack: float = 0.2
    threshold: float = 0.6
    init: Literal["normal", "fit"] = "normal"

    def __post_init__(self) -> None:
        if self.constant <= 0 or self.reconstruction < 0 or self.backtrack < 0 or not 0 <= self.threshold <= 1:
            raise ArgumentError(
                f"RBONN takes a constant above 0, reconstruction and backtrack of at least 0, and a threshold from "
                f"0 to 1, but got {self}"
            )
        if self.init not in ("normal", "fit"):
            raise ArgumentError(f"RBONN takes init='normal' or 'fit', but got {self.init!r}")

    def build(self, weight: Tensor) -> WeightValues:
        """Builds two parameters [OC], s and u, and a buffer of the weights' shape."""
        return BilinearValues(self, weight.detach())


class BilinearValues(WeightValues):
    """s, u, and what to set back.

    Attributes:
        scale, recurrence: s and u, parameters float32 [OC].
        last: The last gradients of the weights in the channels to set back, 0 elsewhere; float32 of the weights' shape.
    """

    last: Tensor

    def __init__(self, domain: RBONN, weight: Tensor) -> None:
        super().__init__()
        self.domain = domain
        fitted = weight.abs().flatten(1).mean(1) / domain.constant
        self.scale = nn.Parameter(fitted if domain.init == "fit" else torch.randn_like(fitted))
        self.recurrence = nn.Parameter(torch.full_like(fitted, domain.backtrack))
        self.register_buffer("last", torch.zeros_like(weight))

    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        """The signs of the weights; in training of those set back, with the gradients of w, s and u."""
        if self.training:
            weight = weight - _column(self.recurrence, weight) * self.last
        return _Bilinear.apply(weight, self.scale, self.domain.constant, self.domain.reconstruction)

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        """``c * |s|`` [OC], without a gradient (the signs have it), and no offset."""
        return self.domain.constant * self.scale.detach().abs().clamp_min(_SMALLEST), None

    def remember(self, gradient: Tensor) -> None:
        """Stores the last gradient of the weights where the next training pass sets them back."""
        channels = len(self.scale)
        rank = self.scale.detach().abs().argsort().argsort()
        sparse = rank < int(channels * (1 - self.domain.threshold))
        finite = gradient.nan_to_num(0.0, 0.0, 0.0)  # a GradScaler skips steps that overflow
        self.last.copy_(torch.where(_column(sparse, gradient), finite, 0))

    def extra_repr(self) -> str:
        """The number of channels."""
        return f"{len(self.scale)} x s, u"


class _Bilinear(torch.autograd.Function):
    """S, with the gradients (2) and (3) from ``dL/dS = a * G``."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor, constant: float, reconstruction: float) -> Tensor:
        ctx.save_for_backward(weight, scale)
        ctx.constant, ctx.reconstruction = constant, reconstruction
        return _signs(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        weight, scale = ctx.saved_tensors
        magnitude = _column(scale.abs().clamp_min(_SMALLEST), weight)
        binary = ctx.constant * _signs(weight)
        gradient = grads[0] / (ctx.constant * magnitude)
        error = ctx.reconstruction * (weight - binary * magnitude)
        of_scale = (gradient * weight - error * binary).flatten(1).sum(1)
        return gradient * magnitude + error, of_scale * torch.where(scale < 0, -1.0, 1.0), None, None


def backtrack_(model: nn.Module) -> None:
    """Remembers the gradients that RBONN's next training pass sets weights back along.

    Call it after the optimiser's step and before ``zero_grad``. Gradients are then averaged over processes, unscaled
    and clipped, if they are at all. They are part of the state dict.

    Args:
        model: Its layers with the domain RBONN are changed in place.

    Raises:
        ArgumentError: If the model has no such layer, or its weights have no gradient.
    """
    found = list(_bilinear_layers(model))
    if not found:
        raise ArgumentError("the model has no layers to set back; make them with domain=RBONN()")
    for layer, values in found:
        gradient = layer.latent().grad
        if gradient is None:
            raise ArgumentError(
                "a layer with domain=RBONN() has no gradient to set its weights back along; "
                "call backtrack_ after loss.backward() and optimizer.step(), and before optimizer.zero_grad()"
            )
        values.remember(gradient)


def rbonn_parameter_groups(model: nn.Module, rate: float) -> list[dict[str, Any]]:
    """A model's parameters for an optimiser, with RBONN's u at a tenth of the rate, as its authors train it.

    Args:
        model: A model with layers of domain RBONN.
        rate: The learning rate of all other parameters.

    Returns:
        Two groups; the second has u.
    """
    own = [values.recurrence for _, values in _bilinear_layers(model)]
    known = {id(parameter) for parameter in own}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in known]
    return [{"params": rest, "lr": rate}, {"params": own, "lr": 0.1 * rate}]


def _bilinear_layers(model: nn.Module) -> Iterator[tuple[BinaryLayer, BilinearValues]]:
    for module in model.modules():
        if isinstance(module, BinaryLayer) and isinstance(module.values, BilinearValues):
            yield module, module.values


def _signs(weight: Tensor) -> Tensor:
    return torch.where(weight > 0, weight.new_tensor(1.0), weight.new_tensor(-1.0))


def _column(numbers: Tensor, weight: Tensor) -> Tensor:
    """Numbers [OC], shaped to broadcast to the weights."""
    return numbers.reshape(-1, *[1] * (weight.ndim - 1))
