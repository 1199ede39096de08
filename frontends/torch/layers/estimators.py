"""Straight-through estimators: the gradients that training uses in place of those of a binarisation.

The derivative of ``y = hi if x > t else lo`` is 0 almost everywhere. Each estimator replaces the derivative of
``sign(u)`` at ``u = x - t`` by that of a smooth function, the *slope*::

    (1)  y = tau * sign(x - t) + phi,  tau = (hi - lo) / 2,  phi = (hi + lo) / 2
    (2)  dL/dx = dL/dy * tau * slope(x - t)     from (1), with slope in place of the derivative of sign
    (3)  dL/dt = -dL/dx                         from (1); summed over the axes that t is broadcast to
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.errors import ArgumentError

from .training_state import Scheduled


class Slope(Protocol):
    """What a gradient needs of an estimator."""

    def slope(self, u: Tensor) -> Tensor:
        """The replacement for the derivative of ``sign(u)``, elementwise."""


class Estimator(nn.Module, ABC):
    """A replacement for the derivative of sign.

    A state dict loads whatever estimator it was saved with, since inference does not use it: the schedule of another
    one is ignored.
    """

    @abstractmethod
    def slope(self, u: Tensor) -> Tensor:
        """The replacement for the derivative of ``sign(u)``, elementwise."""

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for key in [key for key in state_dict if key.startswith(prefix) and key[len(prefix) :] not in self._buffers]:
            del state_dict[key]
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __repr__(self) -> str:
        return type(self).__name__


class Identity(Estimator):
    """Slope 1 everywhere: the derivative of the identity.

    References:
        Bengio, Leonard, Courville, "Estimating or Propagating Gradients Through Stochastic Neurons", arXiv 1308.3432.
    """

    def slope(self, u: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(u)


class Clip(Estimator):
    """Slope 1 where ``|u| <= 1``, otherwise 0: the derivative of hardtanh.

    References:
        Hubara et al., "Binarized Neural Networks", NeurIPS 2016, arXiv 1602.02830.
    """

    def slope(self, u: Tensor) -> Tensor:
        """1 on [-1, 1], otherwise 0."""
        return u.abs().le_(1)


class Polynomial(Estimator):
    """Slope ``2 - 2|u|`` where ``|u| < 1``, otherwise 0: the derivative of a piecewise quadratic function.

    References:
        Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278.
    """

    def slope(self, u: Tensor) -> Tensor:
        """2 - 2|u| on [-1, 1], otherwise 0."""
        return u.abs().mul_(-2).add_(2).clamp_min_(0)


class EDE(Estimator, Scheduled):
    """The error decay estimator: slope ``k t (1 - tanh(t u)^2)``, which becomes steeper during training.

    ``t`` grows from 0.1 to 10, evenly in its logarithm, and ``k = max(1 / t, 1)``; ``set_progress`` sets it.

    References:
        Qin et al., "Forward and Backward Information Retention for Accurate Binary Neural Networks" (IR-Net),
        CVPR 2020, arXiv 1909.10788.
    """

    def slope(self, u: Tensor) -> Tensor:
        """K t (1 - tanh(t u)^2)."""
        t = 10.0 ** (2 * self.progress - 1)
        return t.clamp_min(1) * (1 - torch.tanh(t * u).square())  # k t = max(1, t)


ESTIMATORS: dict[str, type[Estimator]] = {"identity": Identity, "clip": Clip, "polynomial": Polynomial, "ede": EDE}


def estimator(choice: str | Estimator) -> Estimator:
    """Returns an estimator by its name.

    Args:
        choice: A key of ``ESTIMATORS``, or an Estimator, which is returned unchanged.

    Raises:
        ArgumentError: If no estimator has that name, or the object is no complete module.
    """
    if isinstance(choice, Estimator):
        if "_modules" not in vars(choice):
            raise ArgumentError(f"{type(choice).__name__}.__init__ does not call super().__init__(), as a module must")
        return choice
    if choice not in ESTIMATORS:
        raise ArgumentError(f"unknown estimator {choice!r}; pass {', '.join(ESTIMATORS)} or an Estimator object")
    return ESTIMATORS[choice]()


class _Binarize(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, threshold: Tensor | float, domain: BinaryDomain, estimator: Slope) -> Tensor:
        if not all(float(value).is_integer() and abs(value) <= 128 for value in (domain.lo, domain.hi)):
            return torch.where(x > threshold, x.new_tensor(domain.hi), x.new_tensor(domain.lo))
        # Arithmetic on small integers is exact, in all float types, and several times faster.
        return (x > threshold).to(x.dtype).mul_(domain.hi - domain.lo).add_(domain.lo)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, threshold, ctx.domain, ctx.estimator = inputs
        ctx.fixed = None if isinstance(threshold, Tensor) else threshold
        ctx.save_for_backward(x, *([threshold] if isinstance(threshold, Tensor) else []))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, *thresholds = ctx.saved_tensors
        threshold = thresholds[0] if thresholds else ctx.fixed
        slope = ctx.estimator.slope(x - threshold)
        grad = grads[0] * (slope if ctx.domain.tau == 1 else ctx.domain.tau * slope)
        to_threshold = -grad.sum_to_size(threshold.shape) if thresholds and ctx.needs_input_grad[1] else None
        return grad, to_threshold, None, None


def binarize(
    x: Tensor,
    threshold: Tensor | float = 0.0,
    domain: BinaryDomain = SIGN,
    estimator: Slope = Clip(),  # noqa: B008 (it has no state)
) -> Tensor:
    """``hi`` where ``x > threshold``, otherwise ``lo`` (also where x is NaN), with an estimated gradient.

    Args:
        x: Any shape.
        threshold: A number, or a tensor that broadcasts to the shape of ``x``.
        domain: lo and hi.
        estimator: Gives the gradients with respect to ``x`` and ``threshold``.

    Returns:
        A tensor with the shape and dtype of ``x``.
    """
    return _Binarize.apply(x, threshold, domain, estimator)
