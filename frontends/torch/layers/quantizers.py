"""Activations of n bits: modules that quantise to evenly spaced levels, and their gradients.

A quantiser compares x with ``L = 2^n - 1`` thresholds. Its values are a scale times the integers ``lo + step * q``,
where the code q, from 0 to L, is the number of thresholds that x exceeds. The forward pass, the exported operator
``Quantize`` and the compiled kernel all compute this comparison, so they agree at ties too. A layer with a quantiser
convolves the integers, which is exact, and multiplies by both scales afterwards.

The gradient ignores the rounding: q gets the gradient of the *position* of x, a differentiable function that rounds
to q.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sbnn_tvm.algebra.domain import MOST_BITS
from sbnn_tvm.errors import ArgumentError

from .operators import symbolic, traces_operators
from .ranks import Moments


class Quantizer(nn.Module):
    """The base of all quantisers. The values are ``scale() * (lo + step * q)``.

    Attributes:
        bits: n.
        highest: The highest code, L.
        lo: The integer of code 0.
        step: The distance of two consecutive integers.
        delta: Strength of the gradient scaling (EWGS); 0 for the plain straight-through estimator.
    """

    lo = 0
    step = 1
    delta = 0.0

    def __init__(self, bits: int) -> None:
        super().__init__()
        if not 1 <= bits <= MOST_BITS:
            raise ArgumentError(f"{type(self).__name__} takes 1 to {MOST_BITS} bits, but got {bits}")
        self.bits, self.highest = bits, (1 << bits) - 1

    def thresholds(self) -> Tensor:
        """The values that x must exceed for the codes 1 to L: float32 [L], ascending."""
        raise NotImplementedError

    def scale(self) -> Tensor:
        """The factor of the integers: a float32 scalar, positive."""
        raise NotImplementedError

    def position(self, x: Tensor) -> Tensor:
        """The position of x among the codes, from 0 to L, before rounding; differentiable."""
        raise NotImplementedError

    def integers(self, x: Tensor) -> Tensor:
        """``lo + step * q`` for every element of x, without the scale; NaN has code 0."""
        if traces_operators():
            attributes = {"lo": float(self.lo), "step": float(self.step)}
            return symbolic("Quantize", [x, self.get_buffer("packed_thresholds")], attributes, x.shape)
        code = torch.zeros_like(x)
        for threshold in self.thresholds().detach():
            code += x > threshold
        if not torch.is_grad_enabled():
            return code * self.step + self.lo
        return rounded(self.position(x), code, self.delta / self.highest) * self.step + self.lo

    def forward(self, x: Tensor) -> Tensor:
        """Quantises x: any shape to the same, float32."""
        return self.integers(x) * self.scale()

    def _steps(self) -> Tensor:
        """1/2, 3/2 ... L - 1/2: the positions of the thresholds."""
        return torch.arange(self.highest, dtype=torch.float32, device=self._device()) + 0.5

    def _device(self) -> torch.device:
        return next((tensor.device for tensor in (*self.parameters(), *self.buffers())), torch.device("cpu"))

    def extra_repr(self) -> str:
        """The number of bits."""
        return f"{self.bits} bits"


class DoReFa(Quantizer):
    """Unsigned levels from 0 to c: ``round(clip(x, 0, c) * L / c) * c / L``.

    Args:
        bits: n, 1 to 4.
        clip: c, or its initial value; positive.
        learned: Whether c is trained; |c| is used. Its gradient comes from all x, with the factor 1 from those above c.

    References:
        Zhou et al., "DoReFa-Net", arXiv 1606.06160 (with c = 1); Choi et al., "PACT", arXiv 1805.06085 (c learned).
    """

    clip: Tensor

    def __init__(self, bits: int, clip: float = 1.0, *, learned: bool = False) -> None:
        super().__init__(bits)
        _check_positive("DoReFa", "clip", clip)
        _register(self, "clip", clip, learned)

    def thresholds(self) -> Tensor:
        """``(j - 1/2) * c / L``."""
        return self._steps() * self.scale()

    def scale(self) -> Tensor:
        """``c / L``."""
        return self.clip.abs() / self.highest

    def position(self, x: Tensor) -> Tensor:
        """``clip(x, 0, c) * L / c``."""
        return torch.minimum(x.clamp_min(0), self.clip.abs()) / self.scale()


class Symmetric(Quantizer):
    """Levels on both sides of 0, without 0 itself: ``s * {-L, -L + 2, ..., L}``.

    One bit gives a sign with the clipping estimator, two bits give s times {-3, -1, +1, +3}.

    Args:
        bits: n, 1 to 4.
        scale: s, or its initial value; positive.
        learned: Whether s is trained; |s| is used.
    """

    factor: Tensor

    def __init__(self, bits: int, scale: float = 1.0, *, learned: bool = False) -> None:
        super().__init__(bits)
        _check_positive("Symmetric", "scale", scale)
        self.lo, self.step = -self.highest, 2
        _register(self, "factor", scale, learned)

    def thresholds(self) -> Tensor:
        """The even multiples of s between the levels."""
        return (self._steps() * 2 - self.highest) * self.scale()

    def scale(self) -> Tensor:
        """s."""
        return self.factor.abs()

    def position(self, x: Tensor) -> Tensor:
        """``(clip(x / s, -L, L) + L) / 2``."""
        return ((x / self.scale()).clamp(-self.highest, self.highest) + self.highest) / 2


class EWGS(Quantizer):
    """Unsigned levels of x between a learned l and u, with a learned output scale and element-wise gradient scaling.

    With g the gradient of the loss with respect to x_q::

        (1)  x_n = clip((x - l) / (u - l), 0, 1)
        (2)  x_q = round(x_n * L) / L,  values = |scale| * x_q
        (3)  gradient of x_n = g * (1 + delta * sign(g) * (x_n - x_q))

    The first batch in training mode sets ``l = min(x)`` and ``u = 3 * std(x) / sqrt(1 - 2 / pi)``: three deviations of
    the normal distribution whose positive part has the deviation of x. It also sets ``scale = u - l``, which keeps the
    size of the values and is this project's choice. These choices suit rectified values: without a ReLU before the
    quantiser, most of x falls into one or two levels. In a distributed training (torch.distributed) min and std are
    those of all ranks' batches, so ranks start with equal levels; all of them must run their first batch.

    Args:
        bits: n, 1 to 4.
        delta: 0 gives the plain straight-through estimator.

    Raises:
        ArgumentError: In eval mode before the first batch, or if the first batch has u <= l (it is constant, or far
            from 0).

    References:
        Lee, Kim, Ham, "Network Quantization with Element-wise Gradient Scaling", CVPR 2021, arXiv 2104.00903.
    """

    initialised: Tensor

    def __init__(self, bits: int, delta: float = 1e-3) -> None:
        super().__init__(bits)
        self.delta = delta
        self.lower = nn.Parameter(torch.zeros(()))
        self.upper = nn.Parameter(torch.ones(()))
        self.output_scale = nn.Parameter(torch.ones(()))
        self.register_buffer("initialised", torch.tensor(False))

    def initialise(self, x: Tensor) -> None:
        """Sets l, u and the scale from a batch."""
        with torch.no_grad():
            moments = Moments.of(x)
            lower, upper = moments.least, 3 * moments.deviation / math.sqrt(1 - 2 / math.pi)
            if not upper > lower:
                raise ArgumentError(
                    f"EWGS starts with levels from min(x) to {3 / math.sqrt(1 - 2 / math.pi):.2f} deviations of x, but "
                    f"the first batch gives {lower:g} to {upper:g}: its values are equal or far from 0; put a "
                    "batch norm before it, or set lower, upper and initialised"
                )
            self.lower.copy_(lower)
            self.upper.copy_(upper)
            self.output_scale.copy_(upper - lower)
            self.initialised.fill_(True)

    def integers(self, x: Tensor) -> Tensor:
        """The codes; the first batch in training mode initialises the quantiser."""
        if not traces_operators() and not self.initialised:
            if not self.training:
                raise ArgumentError("EWGS takes its levels from the first batch: run one in training mode first")
            self.initialise(x)
        return super().integers(x)

    def thresholds(self) -> Tensor:
        """``l + (j - 1/2) * (u - l) / L``."""
        return self.lower + self._steps() * ((self.upper - self.lower) / self.highest)

    def scale(self) -> Tensor:
        """``|scale| / L``."""
        return self.output_scale.abs() / self.highest

    def position(self, x: Tensor) -> Tensor:
        """``x_n * L``."""
        return ((x - self.lower) / (self.upper - self.lower)).clamp(0, 1) * self.highest

    def extra_repr(self) -> str:
        """Bits and delta."""
        return f"{self.bits} bits, delta={self.delta:g}"


def rounded(position: Tensor, code: Tensor, delta: float = 0.0) -> Tensor:
    """The code q; its gradient g becomes ``g * (1 + delta * sign(g) * (p - q))`` at the position p, elementwise."""
    return _Rounded.apply(position, code, delta)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, position: Tensor, code: Tensor, delta: float) -> Tensor:
        ctx.delta = delta
        if delta:
            ctx.save_for_backward(position, code)
        return code.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        if ctx.delta:
            position, code = ctx.saved_tensors
            grad = grad * (1 + ctx.delta * grad.sign() * (position - code))
        return grad, None, None


def _register(module: Quantizer, name: str, value: float, learned: bool) -> None:
    tensor = torch.tensor(float(value))
    if learned:
        module.register_parameter(name, nn.Parameter(tensor))
    else:
        module.register_buffer(name, tensor)


def _check_positive(kind: str, name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise ArgumentError(f"{kind} takes a positive {name}, but got {value}")
