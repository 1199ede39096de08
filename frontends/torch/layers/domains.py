"""The two values of a layer's weights: which numbers describe them, and how these are learned.

A binary weight is ``scale * S + offset``. Unless a domain defines S differently, ``S = +1`` where the latent weight is
positive and ``S = -1`` elsewhere, so a latent weight of exactly 0 counts as -1. A WeightDomain is the choice of the
values, as plain data. It builds a WeightValues module, which computes ``S``, ``scale`` and ``offset`` from latent
weights and owns the learned parameters.

A weight that ``torch.nn.utils.prune`` masks takes the value of ``S = -1``: 0 in {0, a}, the first of {a, b}. Domains
that are symmetric about 0 cannot be pruned, since neither -a nor +a stands for a missing connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.errors import ArgumentError

from .estimators import Estimator, Slope, binarize

SignGradient = Literal["scaled", "unscaled", "xnor"]


class WeightDomain(Protocol):
    """The choice of the two weight values."""

    def build(self, weight: Tensor) -> WeightValues:
        """Returns the module that holds the values; latent weights [OC, ...] may give their initial numbers."""


class WeightValues(nn.Module):
    """Computes the signs of latent weights and the two values of each output channel.

    Attributes:
        prunable: Whether the value of ``S = -1`` may stand for a pruned weight.
        gradient: How the scale enters the gradient of the latent weights (ScaledSigns).
    """

    prunable = False
    gradient: SignGradient = "scaled"

    def signs(self, weight: Tensor, estimator: Estimator) -> Tensor:
        """S in {-1, +1}, of the shape of the latent weights [OC, ...], with the estimator's gradient."""
        if self.gradient == "scaled":
            return binarize(weight, 0.0, SIGN, estimator)
        return binarize(weight, 0.0, SIGN, _BesideScale(estimator, self.gradient, self(weight)[0].detach()))

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Scale [OC] and offset [OC] from latent weights [OC, ...]; the offset is None if it is 0."""
        raise NotImplementedError

    def residual(self, weight: Tensor) -> Tensor | None:
        """The difference of the weights from the two values, float32, mostly 0; None if all weights are binary."""
        return None


@dataclass(frozen=True)
class Signs:
    """Weights are -1 and +1.

    References:
        Hubara et al., "Binarized Neural Networks", NeurIPS 2016, arXiv 1602.02830.
    """

    def build(self, weight: Tensor) -> WeightValues:
        """Builds a module without parameters."""
        return _Ones()


@dataclass(frozen=True)
class ScaledSigns:
    """Weights are -a and +a, with one scale `a` per output channel.

    With ``W = a * sign(w)``, n weights per channel, and the estimator's slope in place of the derivative of sign, the
    gradients of the latent weights to choose from are::

        "scaled"      dL/dw = dL/dW * a * slope(w)
        "unscaled"    dL/dw = dL/dW * slope(w)
        "xnor"        dL/dw = dL/dW * (1 / n + a * slope(w))

    The first follows from the forward pass if `a` is a constant: a channel of small weights gets small gradients. The
    second is that of ``(a * sign(w)).detach() - clip(w).detach() + clip(w)``, as the released code of Bi-Real Net,
    ReActNet and BCDNet has it. The third adds what a weight contributes to the mean. They differ in the sizes of steps
    with SGD. Adam divides most of the factor `a` out again.

    Attributes:
        learned: If False, a is the mean of |w| over the channel's latent weights at every forward pass, and no gradient
            flows through it but the 1 / n of ``"xnor"``. If True, a is a parameter with that initial value.
        gradient: ``"scaled"``, ``"unscaled"`` or ``"xnor"``. Where a is 0, the others act as ``"scaled"``, whose
            gradient is 0.

    Raises:
        ArgumentError: If the gradient is none of the three, or ``"xnor"`` is asked of a learned scale.

    References:
        Rastegari et al., "XNOR-Net", ECCV 2016, arXiv 1603.05279 (the mean is the least-squares optimum; "xnor" is the
        gradient of its section 3.1); Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278 (its magnitude-aware
        gradient is "scaled"; its code has "unscaled").
    """

    learned: bool = False
    gradient: SignGradient = "scaled"

    def __post_init__(self) -> None:
        if self.gradient not in ("scaled", "unscaled", "xnor"):
            raise ArgumentError(f"ScaledSigns takes gradient='scaled', 'unscaled' or 'xnor', but got {self.gradient!r}")
        if self.learned and self.gradient == "xnor":
            raise ArgumentError(
                "gradient='xnor' is that of a scale computed from the weights, but learned=True makes it a parameter; "
                "take gradient='scaled' or 'unscaled'"
            )

    def build(self, weight: Tensor) -> WeightValues:
        """Builds one parameter [OC] if ``learned``, otherwise none."""
        values = LearnedValues(_mean_magnitude(weight), None) if self.learned else _MeanMagnitude()
        values.gradient = self.gradient
        return values


@dataclass(frozen=True)
class TwoValues:
    """Weights are any two values, with a learned scale (tau) and a learned offset (phi).

    Attributes:
        per: One pair of values for the ``"layer"``, or one for each output ``"channel"``.
        init: ``"unit"`` starts with the values -1 and +1. ``"fit"`` starts with the mean of the positive latent weights
            and the mean of the others.

    References:
        Schiavone, Galati, Zuluaga, "Binary Domain Generalization for Sparsifying Binary Neural Networks" (SBNN),
        ECML-PKDD 2023, arXiv 2306.13515.
    """

    per: Literal["layer", "channel"] = "layer"
    init: Literal["unit", "fit"] = "fit"

    def __post_init__(self) -> None:
        if self.per not in ("layer", "channel") or self.init not in ("unit", "fit"):
            raise ArgumentError(
                f"TwoValues takes per='layer' or 'channel' and init='unit' or 'fit', "
                f"but got per={self.per!r}, init={self.init!r}"
            )

    def build(self, weight: Tensor) -> WeightValues:
        """Builds two parameters, each [OC] with ``per="channel"``, otherwise [1]."""
        rows = weight.detach().reshape(len(weight) if self.per == "channel" else 1, -1)
        if self.init == "unit":
            return LearnedValues(rows.new_ones(len(rows)), rows.new_zeros(len(rows)))
        above = rows > 0
        hi, lo = _mean_where(rows, above), _mean_where(rows, ~above)
        return LearnedValues((hi - lo) / 2, (hi + lo) / 2)


@dataclass(frozen=True)
class Bits:
    """Weights are 0 and 1: 0 where the latent weight is not positive."""

    def build(self, weight: Tensor) -> WeightValues:
        """Builds a module without parameters."""
        return _HalfScale(None)


@dataclass(frozen=True)
class ScaledBits:
    """Weights are 0 and a, with a learned a >= 0 whose initial value is the mean of the positive latent weights.

    In files both scale and offset are a / 2, so a kernel can compute a layer by adding the inputs of the set weights.

    Attributes:
        per: One a for the ``"layer"``, or one for each output ``"channel"``.
    """

    per: Literal["layer", "channel"] = "channel"

    def __post_init__(self) -> None:
        if self.per not in ("layer", "channel"):
            raise ArgumentError(f"ScaledBits takes per='layer' or 'channel', but got {self.per!r}")

    def build(self, weight: Tensor) -> WeightValues:
        """Builds one parameter, [OC] with ``per="channel"``, otherwise [1]."""
        rows = weight.detach().reshape(len(weight) if self.per == "channel" else 1, -1)
        return _HalfScale(_mean_where(rows, rows > 0))


class _BesideScale:
    """The slope of S that gives the gradients of ScaledSigns, since ``dL/dS = dL/dW * scale``.

    Args:
        estimator: The slope for a constant scale.
        gradient: ``"unscaled"`` or ``"xnor"``.
        scale: The factor of S, [OC].
    """

    def __init__(self, estimator: Slope, gradient: SignGradient, scale: Tensor) -> None:
        self.estimator, self.gradient = estimator, gradient
        self.scale = torch.where(scale == 0, torch.ones_like(scale), scale)  # dL/dS is 0 there, without this nan

    def slope(self, u: Tensor) -> Tensor:
        """The slope for latent weights [OC, ...]."""
        scale, slope = self.scale.reshape(-1, *[1] * (u.ndim - 1)), self.estimator.slope(u)
        return slope / scale if self.gradient == "unscaled" else slope + 1 / (u[0].numel() * scale)


class _Ones(WeightValues):
    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        return weight.new_ones(len(weight)), None


class _MeanMagnitude(WeightValues):
    def forward(self, weight: Tensor) -> tuple[Tensor, None]:
        return _mean_magnitude(weight), None


class LearnedValues(WeightValues):
    """``tau * S + phi``; phi is None if it is 0."""

    def __init__(self, tau: Tensor, phi: Tensor | None) -> None:
        super().__init__()
        self.tau = nn.Parameter(tau)
        self.phi = None if phi is None else nn.Parameter(phi)
        self.prunable = phi is not None

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tau and phi, expanded to [OC]."""
        return self.tau.expand(len(weight)), None if self.phi is None else self.phi.expand(len(weight))

    def extra_repr(self) -> str:
        """The number of parameters."""
        return f"{len(self.tau)} x (tau{'' if self.phi is None else ', phi'})"


class _HalfScale(WeightValues):
    prunable = True

    def __init__(self, scale: Tensor | None) -> None:
        super().__init__()
        self.scale = None if scale is None else nn.Parameter(scale)

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        half = weight.new_full((1,), 0.5) if self.scale is None else self.scale.abs() / 2  # the same float for both
        return half.expand(len(weight)), half.expand(len(weight))

    def extra_repr(self) -> str:
        return "" if self.scale is None else f"{len(self.scale)} x a"


def _mean_magnitude(weight: Tensor) -> Tensor:
    return weight.detach().abs().flatten(1).mean(1)


def _mean_where(rows: Tensor, mask: Tensor) -> Tensor:
    """The mean of the masked values of each row; 0 for a row without any."""
    return torch.where(mask, rows, 0).sum(1) / mask.sum(1).clamp_min(1)
