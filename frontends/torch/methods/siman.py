"""SiMaN: the bit of a weight tells whether its magnitude is large, not whether it is positive.

This file has the domain ``Magnitudes``, the activation ``BinarizeAboveMean``, and the optimiser's parameter groups.

References:
    Lin et al., "SiMaN: Sign-to-Magnitude Network Binarization", IEEE TPAMI 45(5), 2023, arXiv 2102.07981.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.errors import ArgumentError

from ..layers import modules
from ..layers.domains import WeightValues
from ..layers.estimators import Estimator, binarize
from ..layers.estimators import estimator as estimator_of
from ..layers.operators import symbolic, traces_operators
from ..layers.training_state import Scheduled

_EPSILON = 1e-5


def optimal_ones(magnitudes: Tensor) -> Tensor:
    """The number of ones of the bits b that maximise cos(m, b), for magnitudes m.

    Among all b with k ones, the best has them at the k largest magnitudes. So the result is the k that maximises the
    sum of the k largest magnitudes over sqrt(k). For many numbers its share is 1/e = 0.368 if they are Laplacian, 0.541
    if Gaussian, 2/3 if uniform.

    Args:
        magnitudes: [rows, n], not negative.

    Returns:
        int64 [rows], from 1 to n.

    Examples:
        >>> optimal_ones(torch.tensor([[1.0, 0.9, 0.1, 0.1], [1.0, 1.0, 1.0, 1.0]])).tolist()
        [2, 4]
    """
    return _optimal_ones(_ascending(magnitudes.detach()))


def _optimal_ones(ascending: Tensor) -> Tensor:
    count = torch.arange(1, ascending.shape[1] + 1, device=ascending.device)
    return (ascending.double().flip(1).cumsum(1) / count.sqrt()).argmax(1) + 1


@dataclass(frozen=True)
class Magnitudes:
    """The bit of a weight is 1 if its magnitude is among the largest of its output channel; its sign is not used.

    Latent weights are centred and standardised per channel. The gradient treats the bits as if they were the magnitudes
    of the result, so the layer's ``estimator`` is not used. The bits are set in forward passes in training mode, and
    stay as they are in eval mode. In the same passes outliers among the latent weights are clamped in place: magnitudes
    outside the percentiles [p, 100 - p] of the layer, with p = ``clamp`` * (1 - progress); see ``set_progress``. A
    scale per channel is learned; its initial value is the mean magnitude. Only ``values="bits"`` can be pruned.

    Attributes:
        values: Weights are -a and +a (``"signs"``), or 0 and a (``"bits"``, a >= 0).
        rule: With ``"half"``, half of each channel's bits are 1, rounded down. With ``"optimal"``, the number of ones
            is that of ``optimal_ones``.
        clamp: p at the beginning, in per cent.

    References:
        arXiv 2102.07981; the half, the clamp and the scale are those of the published training.
    """

    values: Literal["signs", "bits"] = "signs"
    rule: Literal["half", "optimal"] = "half"
    clamp: float = 15.0

    def __post_init__(self) -> None:
        if self.values not in ("signs", "bits") or self.rule not in ("half", "optimal") or not 0 <= self.clamp < 50:
            raise ArgumentError(
                f"Magnitudes takes values='signs' or 'bits', rule='half' or 'optimal' and a clamp from 0 to below 50 "
                f"per cent, but got values={self.values!r}, rule={self.rule!r}, clamp={self.clamp}"
            )

    def build(self, weight: Tensor) -> WeightValues:
        """Builds one parameter [OC], and the bits."""
        return _MagnitudeValues(self, weight.detach())


class _MagnitudeValues(WeightValues, Scheduled):
    bits: Tensor

    def __init__(self, domain: Magnitudes, weight: Tensor) -> None:
        super().__init__()
        self.domain = domain
        self.prunable = domain.values == "bits"
        self.scale = nn.Parameter(weight.abs().flatten(1).mean(1))
        self.register_buffer("bits", self._encode(self._magnitudes(weight)))

    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        """+1 where the bit is 1; the gradient is that of the magnitudes."""
        if self.training:
            self._clamp_(weight)
        magnitudes = self._magnitudes(weight)
        if self.training:
            self.bits.copy_(self._encode(magnitudes.detach()))
        signs = torch.where(self.bits, 1.0, -1.0).to(weight.dtype)
        per_magnitude = 1 if self.domain.values == "signs" else 2  # S = 2 B - 1
        return signs + per_magnitude * (magnitudes - magnitudes.detach())  # adds an exact 0

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """The scale, and the offset that makes -1 the value 0."""
        if self.domain.values == "signs":
            return self.scale, None
        half = self.scale.abs() / 2
        return half, half

    @torch.compiler.disable  # numpy selects
    @torch.no_grad()
    def _clamp_(self, weight: Tensor) -> None:
        """Centres latent weights per channel, and clamps magnitudes to two percentiles of the layer."""
        centred = weight - _mean(weight)
        magnitudes = centred.abs()
        share = self.domain.clamp / 100 * (1 - float(self.progress))
        last = weight.numel() - 1
        ranks = round(share * last), round((1 - share) * last)
        if ranks != (0, last):  # the smallest and the largest clamp nothing
            lowest, highest = (_smallest(magnitudes.reshape(1, -1), rank) for rank in ranks)
            centred = centred.sign() * magnitudes.clamp(lowest, highest)
        weight.copy_(centred)

    def _magnitudes(self, weight: Tensor) -> Tensor:
        centred = weight - _mean(weight)
        deviation = centred.flatten(1).square().mean(1).sqrt().reshape(_mean(weight).shape)
        return (centred / (deviation + _EPSILON)).abs()

    @torch.compiler.disable
    def _encode(self, magnitudes: Tensor) -> Tensor:
        """1 for the largest magnitudes of each channel; of equal ones, the first are the larger."""
        rows = magnitudes.flatten(1)
        n = rows.shape[1]
        if self.domain.rule == "optimal":
            ascending = _ascending(rows)
            ones = _optimal_ones(ascending)[:, None]
            border = ascending.gather(1, n - ones)
        else:
            ones = torch.full((len(rows), 1), n // 2, device=rows.device)
            border = _smallest(rows, min(n - n // 2, n - 1))[:, None]
        above, equal = rows > border, rows == border
        first = equal.cumsum(1) <= ones - above.sum(1, keepdim=True)
        return (above | (equal & first)).reshape(magnitudes.shape)

    def extra_repr(self) -> str:
        """The number of scales."""
        return f"{len(self.scale)} x a"


def _mean(weight: Tensor) -> Tensor:
    """The mean of each output channel, shaped to broadcast."""
    return weight.flatten(1).mean(1).reshape(-1, *[1] * (weight.ndim - 1))


def _ascending(rows: Tensor) -> Tensor:
    """Sorted rows, [rows, n]. On the CPU numpy sorts ten times faster than torch."""
    return torch.from_numpy(np.sort(_numbers(rows), axis=1)).to(rows) if rows.is_cpu else rows.sort(1).values


def _smallest(rows: Tensor, rank: int) -> Tensor:
    """The number of each row, [rows, n], that has a rank from 0 in ascending order: [rows]."""
    if rows.is_cpu:
        return torch.from_numpy(np.partition(_numbers(rows), rank, axis=1)[:, rank]).to(rows)
    return rows.kthvalue(rank + 1, 1).values


def _numbers(rows: Tensor) -> np.ndarray:
    return rows.detach().float().numpy()  # numpy has no bfloat16


class BinarizeAboveMean(nn.Module):
    """``y = +1 if x > mean else -1``, with the mean of the sample: over all axes but the first.

    In training the gradient is that of standardised values, whose range suits the estimator. The standard deviation
    does not change a sign, so deployed models do not compute it.

    Args:
        estimator: The gradient: a name (estimators.ESTIMATORS) or an Estimator.

    Shapes:
        float32 [N, ...] to the same.

    Examples:
        >>> BinarizeAboveMean()(torch.tensor([[1.0, 2.0, 9.0], [-1.0, -2.0, -3.0]]))
        tensor([[-1., -1.,  1.],
                [ 1., -1., -1.]])
    """

    def __init__(self, estimator: str | Estimator = "polynomial") -> None:
        super().__init__()
        self.estimator = estimator_of(estimator)

    def forward(self, x: Tensor) -> Tensor:
        """Binarises x."""
        axes = tuple(range(1, x.ndim))
        mean = x.mean(axes, keepdim=True)
        if traces_operators():
            return symbolic("Binarize", [x, mean], {"lo": -1.0, "hi": 1.0}, x.shape)
        deviation = x.std(axes, keepdim=True, correction=0)
        return binarize((x - mean) / (deviation + _EPSILON), 0.0, SIGN, self.estimator)


def parameter_groups(model: nn.Module, weight_decay: float, of_binary: float = 0.0) -> list[dict[str, Any]]:
    """A model's parameters for an optimiser, with a separate weight decay for the latent weights.

    Weight decay pulls latent weights towards 0, where magnitudes carry little information and signs flip by chance.

    Args:
        model: Any module.
        weight_decay: Weight decay of all other parameters.
        of_binary: Weight decay of the latent weights of binary layers.

    Returns:
        Two groups; one of them may be empty.

    Examples:
        >>> model = nn.Sequential(nn.Conv2d(1, 8, 3), modules.BinaryConv2d(8, 8, 3))
        >>> optimizer = torch.optim.SGD(parameter_groups(model, 5e-4), lr=0.1, momentum=0.9)
    """
    latent = {id(module.latent()) for module in model.modules() if isinstance(module, modules.BinaryLayer)}
    parameters = list(model.parameters())
    return [
        {"params": [each for each in parameters if id(each) not in latent], "weight_decay": weight_decay},
        {"params": [each for each in parameters if id(each) in latent], "weight_decay": of_binary},
    ]
