"""Weights of two bits: a times -3, -1, +1 or +3, which are two binary layers of the same input."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .domains import WeightValues
from .quantizers import rounded


@dataclass(frozen=True)
class TwoBits:
    """A WeightDomain: weights are ``a * (2 * S1 + S0)`` with signs S1 and S0 and one a per output channel.

    The four values are those nearest to the latent weight; at the middle between two the lower one. The layer exports
    as two binary layers, an addition and a multiplication with a, all exact but the last. The layer's estimator has no
    part in it: the gradient is that of ``clip(w / a, -3, 3)``.

    Attributes:
        learned: False: a is half the mean of |w| over the channel's latent weights at every forward pass, and no
            gradient flows through it; then the levels have the weights' mean magnitude where both are as frequent.
            True: a is a parameter, initialised that way, used as |a|.
    """

    learned: bool = False

    def build(self, weight: Tensor) -> WeightValues:
        """One parameter [OC] where ``learned``, else none."""
        return TwoBitValues(weight, self.learned)


class TwoBitValues(WeightValues):
    """Gives a, [OC], and the odd integers of latent weights."""

    def __init__(self, weight: Tensor, learned: bool) -> None:
        super().__init__()
        self.a = nn.Parameter(_half_mean(weight)) if learned else None

    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        """``a`` and no offset, from latent weights [OC, ...]."""
        return (_half_mean(weight) if self.a is None else self.a.abs()), None

    def planes(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Where S1 and S0 are +1, bool of the weights' shape."""
        code = self._code(weight)
        return code > 1, code % 2 > 0

    def integers(self, weight: Tensor) -> Tensor:
        """``2 * S1 + S0``, with that gradient."""
        position = ((weight / self._column(weight)).clamp(-3, 3) + 3) / 2
        return rounded(position, self._code(weight).to(weight.dtype)) * 2 - 3

    def _column(self, weight: Tensor) -> Tensor:
        a = self(weight)[0].reshape(-1, *[1] * (weight.ndim - 1))
        return torch.where(a > 0, a, torch.ones_like(a))  # any integers do where they are multiplied with 0

    def _code(self, weight: Tensor) -> Tensor:
        edge = 2 * self._column(weight).detach()
        return (weight > -edge).int() + (weight > 0).int() + (weight > edge).int()


def _half_mean(weight: Tensor) -> Tensor:
    return weight.detach().abs().flatten(1).mean(1) / 2
