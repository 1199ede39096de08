"""Activations of 8 or 16 bits: modules that round to evenly spaced values, of which one is exactly 0.

An affine quantiser gives x a code q, an integer of its type, and returns the value of the code, with the operations of
ONNX's QuantizeLinear and DequantizeLinear in the same order, all in float32::

    (1)  q = clip(round(x / s) + z, least, most)      halves are rounded to even
    (2)  y = (q - z) * s

The scale s is learned (LSQ) or observed (MovingAverage). The zero point z is a code, so y = 0 exactly where q = z. The
gradient ignores the rounding: it is 1 inside of the range and 0 outside.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from .operators import standard_operator, traces_operators
from .precision import widened
from .ranks import extremes

CODE_TYPES = (torch.uint8, torch.int8, torch.uint16, torch.int16)

SMALLEST_SCALE = 2.0**-120
"""Scales below this are no normal numbers after some products."""


class AffineQuantizer(nn.Module):
    """The base of LSQ and MovingAverage.

    Args:
        dtype: The type of the codes: torch.uint8, int8, uint16 or int16.
        zero_point: The code of 0. None takes it from the range of x: all codes are used then. With 0, unsigned codes
            suit the output of a ReLU, and signed ones values on both sides of 0.

    Attributes:
        dtype: Same as the argument.
        least, most: The range of the codes.

    Shapes:
        Any to the same, float32; under autocast too.

    Raises:
        ArgumentError: If dtype is another type, or the zero point is no code of it; in eval mode before there is a
            range.
    """

    def __init__(self, dtype: torch.dtype = torch.uint8, zero_point: int | None = None) -> None:
        super().__init__()
        kind = type(self).__name__
        if dtype not in CODE_TYPES:
            raise ArgumentError(f"{kind} takes a dtype of torch.uint8, int8, uint16 or int16, but got {dtype}")
        self.dtype = dtype
        self.least, self.most = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        if zero_point is not None and not self.least <= zero_point <= self.most:
            raise ArgumentError(
                f"{kind} takes a zero_point that is a code of {_name(dtype)}, from {self.least} to {self.most}, "
                f"but got {zero_point}"
            )
        self._fixed = zero_point
        self._has_range = False
        self._observed: list[tuple[Tensor, Tensor]] | None = None

    def affine(self) -> tuple[Tensor, Tensor]:
        """s, a positive float32 scalar, and z, an int32 scalar."""
        raise NotImplementedError

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Takes s and z from the range of x, two scalars; it is extended to 0."""
        raise NotImplementedError

    def _knows_range(self) -> Tensor:
        """A bool scalar: whether there is a range."""
        raise NotImplementedError

    def _train_on(self, x: Tensor) -> None:
        """Looks at a batch in training mode."""
        raise NotImplementedError

    def _gradient_scale(self, x: Tensor, zero_point: Tensor) -> Tensor | None:
        """The factor of the gradient of s; None if s has none."""
        return None

    @contextmanager
    def observing(self) -> Iterator[None]:
        """While this context is open, x is returned unchanged; afterwards the range is that of all x.

        Raises:
            ArgumentError: If there was no x, or it was 0 everywhere or not finite.
        """
        observed: list[tuple[Tensor, Tensor]] = []
        self._observed = observed
        try:
            yield
        finally:
            self._observed = None
        if not observed:
            raise ArgumentError("none of the data reaches it")
        low, high = (
            torch.stack([least for least, _ in observed]).min(),
            torch.stack([most for _, most in observed]).max(),
        )
        self._take(low, high)

    def _take(self, low: Tensor, high: Tensor) -> None:
        if not (torch.isfinite(low) and torch.isfinite(high) and (low < 0 or high > 0)):
            raise ArgumentError(
                f"{type(self).__name__} takes its range from data, but these are from {low:g} to {high:g}; expected "
                "finite numbers which are not all 0"
            )
        with torch.no_grad():
            self.set_range(low, high)

    def forward(self, x: Tensor) -> Tensor:
        """Quantises x: any shape to the same."""
        if self._observed is not None:
            self._observed.append(extremes(x.detach()))
            return x
        if not traces_operators():
            if self.training:
                self._train_on(x)
                self._has_range = True
            elif not self._ready():
                raise ArgumentError(
                    f"{type(self).__name__} has no range yet: run a batch in training mode, "
                    "or calibrate_(model, batches)"
                )
        scale, zero_point = self.affine()
        if traces_operators():
            constants = [scale, zero_point.to(self.dtype)]
            codes = standard_operator("QuantizeLinear", [x, *constants], self.dtype, x.shape)
            return standard_operator("DequantizeLinear", [codes, *constants], torch.float32, x.shape)
        if scale.dtype == torch.float32:
            x = widened(x)  # as it is in the exported model
        low, high = (self.least - zero_point).to(x.dtype), (self.most - zero_point).to(x.dtype)
        return fake_quantize(x, scale, low, high, self._gradient_scale(x, zero_point))

    def _ready(self) -> bool:
        """Whether there is a range. It is remembered, since a compiler cannot read the tensor that says so."""
        self._has_range = self._has_range or bool(self._knows_range())
        return self._has_range

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        known = self._knows_range()
        self._has_range = not known.is_meta and bool(known)

    def _affine_of(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """s and z for a range, which is extended to 0. A range of nothing but 0 has s = 1."""
        low, high = low.clamp_max(0), high.clamp_min(0)
        if self._fixed is None:
            scale = _positive((high - low) / (self.most - self.least))
            return scale, (self.least - (low / scale).round()).clamp(self.least, self.most).int()
        below, above = self._fixed - self.least, self.most - self._fixed
        scale = torch.maximum(-low / below if below else -low * 0, high / above if above else high * 0)
        return _positive(scale), torch.full_like(low, self._fixed, dtype=torch.int32)

    def extra_repr(self) -> str:
        """The type of the codes, and the zero point if it is fixed."""
        return _name(self.dtype) if self._fixed is None else f"{_name(self.dtype)}, zero_point={self._fixed}"


class LSQ(AffineQuantizer):
    """A scale that is learned, as the step size of Learned Step Size Quantization.

    With the position v = x / s, and the codes from -Q_n to Q_p around z, the gradient of s is that of the paper::

        dy/ds = g * (-Q_n if v <= -Q_n, Q_p if v >= Q_p, else round(v) - v),  g = 1 / sqrt(N * Q_p)

    N is the number of features of one sample. Where Q_n > Q_p, it is Q_n in g. The first batch in training mode (of all
    ranks, in a distributed training) sets s and z so that its range is covered. The paper starts with 2 mean|x| /
    sqrt(Q_p), which is right for 2 to 4 bits, and wastes half of the codes of 8 bits and nearly all of 16. If s becomes
    negative, |s| is used.

    Args:
        dtype, zero_point: Same as in AffineQuantizer.

    Examples:
        >>> quantize = LSQ(torch.uint8, zero_point=0)
        >>> quantize(torch.tensor([-1.0, 0.0, 0.501, 2.55]))
        tensor([0.0000, 0.0000, 0.5000, 2.5500], grad_fn=<_FakeQuantizeBackward>)

    References:
        Esser et al., "Learned Step Size Quantization", ICLR 2020, arXiv 1902.08153.
    """

    zero_point: Tensor
    initialised: Tensor

    def __init__(self, dtype: torch.dtype = torch.uint8, zero_point: int | None = None) -> None:
        super().__init__(dtype, zero_point)
        self.step = nn.Parameter(torch.ones(()))
        self.register_buffer("zero_point", torch.tensor(zero_point or 0, dtype=torch.int32))
        self.register_buffer("initialised", torch.tensor(False))

    def affine(self) -> tuple[Tensor, Tensor]:
        """|s| and z."""
        return self.step.abs().clamp_min(SMALLEST_SCALE), self.zero_point

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Sets s and z from the range of x."""
        scale, zero_point = self._affine_of(low, high)
        self.step.copy_(scale)
        self.zero_point.copy_(zero_point)
        self.initialised.fill_(True)

    def _knows_range(self) -> Tensor:
        return self.initialised

    def _train_on(self, x: Tensor) -> None:
        if not self._ready():
            self._take(*extremes(x.detach()))

    def _gradient_scale(self, x: Tensor, zero_point: Tensor) -> Tensor:
        features = max(x[0].numel() if x.ndim > 1 else x.numel(), 1)
        return (features * torch.maximum(self.most - zero_point, zero_point - self.least)).to(x.dtype).rsqrt()


class MovingAverage(AffineQuantizer):
    """A range that is observed: the moving average of the least and the largest number of a batch.

    Every batch in training mode moves it, then it is quantised by the new range. In a distributed training a batch is
    that of all ranks. In eval mode the range stays.

    Args:
        dtype, zero_point: Same as in AffineQuantizer.
        momentum: The weight of a batch, above 0 and at most 1; the first batch has the weight 1.

    Raises:
        ArgumentError: If the momentum is out of range, and as in AffineQuantizer.

    References:
        Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
        CVPR 2018, arXiv 1712.05877, section 3.1.
    """

    low: Tensor
    high: Tensor
    batches: Tensor

    def __init__(self, dtype: torch.dtype = torch.uint8, zero_point: int | None = None, momentum: float = 0.01) -> None:
        super().__init__(dtype, zero_point)
        if not 0 < momentum <= 1:
            raise ArgumentError(f"MovingAverage takes a momentum above 0 and at most 1, but got {momentum}")
        self.momentum = momentum
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))
        self.register_buffer("batches", torch.tensor(0))

    def affine(self) -> tuple[Tensor, Tensor]:
        """s and z of the present range."""
        return self._affine_of(self.low, self.high)

    def set_range(self, low: Tensor, high: Tensor) -> None:
        """Sets the range, which counts as one batch."""
        self.low.copy_(low)
        self.high.copy_(high)
        self.batches.fill_(1)

    def _knows_range(self) -> Tensor:
        return self.batches > 0

    def _train_on(self, x: Tensor) -> None:
        with torch.no_grad():
            weight = torch.where(self.batches == 0, 1.0, self.momentum).to(self.low.dtype)
            for average, value in zip((self.low, self.high), extremes(x), strict=True):
                average.lerp_(value.to(average.dtype), weight)
            self.batches += 1


class WeightQuantizer(nn.Module):
    """Weights of 8 bits: codes from -127 to 127, zero point 0, one scale per output channel.

    Args:
        weight: Float weights [OC, ...].
        learned: If False, the scale is the largest |w| of the channel / 127 at every forward pass, and no gradient
            flows through it. If True, it is a parameter with that initial value and the gradient of LSQ, where N is the
            number of the channel's weights.
    """

    def __init__(self, weight: Tensor, learned: bool = False) -> None:
        super().__init__()
        self.step = nn.Parameter(_fitted(weight)) if learned else None

    def scale(self, weight: Tensor) -> Tensor:
        """float32 [OC]; positive, also where all weights are 0."""
        return _fitted(weight) if self.step is None else self.step.abs().clamp_min(SMALLEST_SCALE)

    def codes(self, weight: Tensor) -> Tensor:
        """int8 of the weights' shape."""
        return (weight / _column(self.scale(weight), weight)).round().clamp(-_MOST, _MOST).to(torch.int8)

    def forward(self, weight: Tensor) -> Tensor:
        """Quantises weights [OC, ...]."""
        scale = self.scale(weight)
        if traces_operators():
            zeros = torch.zeros_like(scale, dtype=torch.int8)
            constants = [self.codes(weight), scale, zeros]
            return standard_operator("DequantizeLinear", constants, torch.float32, weight.shape, {"axis": 0})
        if self.step is None:
            bound, gradient_scale = torch.inf, None  # no weight is outside
        else:
            bound, gradient_scale = float(_MOST), scale.new_tensor(weight[0].numel() * _MOST).rsqrt()
        high = scale.new_tensor(bound)
        return fake_quantize(weight, _column(scale, weight), -high, high, gradient_scale)

    def extra_repr(self) -> str:
        """Whether the scales are learned."""
        return "learned" if self.step is not None else ""


_MOST = 127  # without -128, the range is the same on both sides


def fake_quantize(x: Tensor, scale: Tensor, low: Tensor, high: Tensor, gradient_scale: Tensor | None = None) -> Tensor:
    """``clip(round(x / scale), low, high) * scale``, with the gradients of LSQ.

    Args:
        x: Any shape.
        scale: Broadcasts against x; positive.
        low, high: Scalars: the codes' range around the zero point.
        gradient_scale: The factor of the scale's gradient; None for no gradient.
    """
    return _FakeQuantize.apply(x, scale if gradient_scale is not None else scale.detach(), low, high, gradient_scale)


class _FakeQuantize(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, scale: Tensor, low: Tensor, high: Tensor, gradient_scale: Tensor | None) -> Tensor:
        return (x / scale).round().clamp(low, high) * scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, low, high, gradient_scale = ctx.saved_tensors
        (grad,) = grads
        position = x / scale
        below, above = position <= low, position >= high
        to_x = torch.where(below | above, torch.zeros_like(grad), grad) if ctx.needs_input_grad[0] else None
        to_scale = None
        if ctx.needs_input_grad[1]:
            slope = torch.where(below, low, torch.where(above, high, position.round() - position))
            shared = [axis for axis in range(x.ndim) if axis >= scale.ndim or scale.shape[axis] == 1]
            to_scale = (grad * slope).sum(shared, keepdim=scale.ndim > 0) * gradient_scale
        return to_x, to_scale, None, None, None


def _fitted(weight: Tensor) -> Tensor:
    """The scales at which the largest |w| of each channel has the largest code; [OC]."""
    return _positive(weight.detach().abs().flatten(1).amax(1) / _MOST)


def _positive(scale: Tensor) -> Tensor:
    return torch.where(scale >= SMALLEST_SCALE, scale, torch.ones_like(scale))


def _column(values: Tensor, weight: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (weight.ndim - 1))


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
