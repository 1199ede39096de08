"""AdaBin: weights and activations each take two arbitrary values; and the activation Maxout.

References:
    Tu et al., "AdaBin: Improving Binary Neural Networks with Adaptive Binary Sets", ECCV 2022, arXiv 2208.08084.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain

from ..layers.domains import WeightValues
from ..layers.estimators import Estimator, binarize
from ..layers.estimators import estimator as estimator_of
from ..layers.operators import symbolic, traces_operators

_EPSILON = 1e-5


@dataclass(frozen=True)
class Adaptive:
    """Weights are mean - deviation and mean + deviation of the latent weights of their output channel.

    ``w = alpha * sign((w - beta) / alpha) + beta``, where beta is the mean and alpha the standard deviation of the
    channel. Both are computed at every forward pass, and gradients flow through both. These weights cannot be pruned.
    The authors take the estimator ``"ede"`` for the layer.

    References:
        arXiv 2208.08084, section 3.2.
    """

    def build(self, weight: Tensor) -> WeightValues:
        """Builds a module without parameters."""
        return _AdaptiveValues()


class _AdaptiveValues(WeightValues):
    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        deviation, mean = (number.reshape(-1, *[1] * (weight.ndim - 1)) for number in self(weight))
        return binarize((weight - mean) / deviation, 0.0, SIGN, estimator)

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        rows = weight.flatten(1)
        mean = rows.mean(1)
        return ((rows - mean[:, None]).square().mean(1) + _EPSILON**2).sqrt(), mean


class AdaptiveBinarize(nn.Module):
    """``y = alpha * (sign((x - beta) / alpha) + beta)`` with learned alpha and beta: any two values, and a threshold.

    The deployed form is ``hi = alpha * beta + |alpha|`` where x > beta, and ``lo = alpha * beta - |alpha|`` elsewhere.

    Args:
        estimator: The gradient: a name (estimators.ESTIMATORS) or an Estimator. The authors take Bi-Real Net's
            polynomial for activations, and EDE for weights.

    Shapes:
        Any to the same, float32.

    References:
        arXiv 2208.08084, section 3.3.
    """

    def __init__(self, estimator: str | Estimator = "polynomial") -> None:
        super().__init__()
        self.estimator = estimator_of(estimator)
        self.alpha = nn.Parameter(torch.ones(()))
        self.beta = nn.Parameter(torch.zeros(()))
        self._frozen = (-1.0, 1.0)

    def freeze(self) -> None:
        """Stores lo and hi as numbers, for an export.

        Raises:
            ArgumentError: If they are not two different finite numbers.
        """
        lo, hi = (value.item() for value in self.domain())
        self._frozen = BinaryDomain(lo, hi).lo, hi

    def domain(self) -> tuple[Tensor, Tensor]:
        """Lo and hi, scalars."""
        middle, half = self.alpha * self.beta, self.alpha.abs()
        return middle - half, middle + half

    def forward(self, x: Tensor) -> Tensor:
        """Binarises x."""
        if traces_operators():
            attributes = dict(zip(("lo", "hi"), self._frozen, strict=True))
            return symbolic("Binarize", [x, self.beta], attributes, x.shape)
        lo, hi = self.domain()
        alpha = self.alpha.abs()
        smooth = alpha * binarize((x - self.beta) / alpha, 0.0, SIGN, self.estimator) + self.alpha * self.beta
        return torch.where(x > self.beta, hi, lo).detach() + (smooth - smooth.detach())  # adds an exact 0


class Maxout(nn.Module):
    """``positive * max(x, 0) + negative * min(x, 0)``: two learned slopes per channel, where a PReLU has one.

    Args:
        channels: Size of axis 1 of ``x``.
        positive, negative: The initial slopes.

    Shapes:
        float32 [N, channels, ...] to the same.

    References:
        arXiv 2208.08084, section 3.4.
    """

    def __init__(self, channels: int, positive: float = 1.0, negative: float = 0.25) -> None:
        super().__init__()
        self.positive = nn.Parameter(torch.full((channels,), positive))
        self.negative = nn.Parameter(torch.full((channels,), negative))

    def forward(self, x: Tensor) -> Tensor:
        """Activates x."""
        shape = (-1, *[1] * (x.ndim - 2))
        return x.clamp_min(0) * self.positive.reshape(shape) + x.clamp_max(0) * self.negative.reshape(shape)

    def extra_repr(self) -> str:
        """The number of channels."""
        return f"{len(self.positive)}"
