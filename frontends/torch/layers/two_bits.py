"""Weights of two bits, a times -3, -1, +1 or +3: two binary layers with the same input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .domains import WeightValues
from .quantizers import rounded


@dataclass(frozen=True)
class TwoBits:
    """A WeightDomain: weights are ``a * (2 * S1 + S0)`` with signs S1 and S0, and one scale `a` per output channel.

    Each latent weight takes the nearest of the four values; halfway between two it takes the lower one. The layer
    exports as two binary layers, an addition and a multiplication by a; all but the multiplication are exact. The
    layer's estimator is not used: the gradient is that of ``clip(w / a, -3, 3)``.

    Attributes:
        learned: If False, a is half the mean of |w| over the channel's latent weights at every forward pass, and no
            gradient flows through it; the levels then have the weights' mean magnitude if both magnitudes are equally
            frequent. If True, a is a parameter with that initial value, and |a| is used.
    """

    learned: bool = False

    def build(self, weight: Tensor) -> WeightValues:
        """Builds one parameter [OC] if ``learned``, otherwise none."""
        return TwoBitValues(weight, self.learned)


class TwoBitValues(WeightValues):
    """Computes a, [OC], and the odd integers of latent weights."""

    def __init__(self, weight: Tensor, learned: bool) -> None:
        super().__init__()
        self.a = nn.Parameter(_half_mean(weight)) if learned else None

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        """``a`` and no offset, from latent weights [OC, ...]."""
        return (_half_mean(weight) if self.a is None else self.a.abs()), None

    def planes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Two bool tensors of the weights' shape: where S1 is +1, and where S0 is +1."""
        code = self._code(weight)
        return code > 1, code % 2 > 0

    def integers(self, weight: Tensor) -> Tensor:
        """``2 * S1 + S0``, with the gradient of ``clip(w / a, -3, 3)``."""
        position = ((weight / self._column(weight)).clamp(-3, 3) + 3) / 2
        return rounded(position, self._code(weight).to(weight.dtype)) * 2 - 3

    def _column(self, weight: Tensor) -> Tensor:
        a = self(weight)[0].reshape(-1, *[1] * (weight.ndim - 1))
        return torch.where(a > 0, a, torch.ones_like(a))  # with a = 0 the integers do not matter

    def _code(self, weight: Tensor) -> Tensor:
        edge = 2 * self._column(weight).detach()
        return (weight > -edge).int() + (weight > 0).int() + (weight > edge).int()


def _half_mean(weight: Tensor) -> Tensor:
    return weight.detach().abs().flatten(1).mean(1) / 2
