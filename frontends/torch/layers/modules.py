"""Binary layers for PyTorch: Binarize, BinaryConv2d and BinaryLinear, and the activation RPReLU.

Layers keep *latent* float weights, which the optimiser updates, and compute with their signs S: +1 where the latent
weight is positive, -1 elsewhere, also where it is 0. The forward pass has the operations of the ai.sbnn operators in
the same order::

    y = conv(pad(x), S) * scale + conv(pad(x), ones) * offset (+ bias)

With two-valued inputs the convolutions sum integers, which is exact. The scale multiplies afterwards.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain
from sbnn_tvm.errors import ArgumentError

from .convolution import Window, convolve
from .domains import ScaledSigns, WeightDomain
from .estimators import Estimator, binarize
from .estimators import estimator as estimator_of
from .operators import symbolic, traces_operators
from .precision import warn_of_narrow_weights, widened, without_autocast
from .quantizers import Quantizer
from .two_bits import TwoBitValues

Padding = int | tuple[int, int] | tuple[int, int, int, int] | Literal["same", "valid"]


@runtime_checkable
class Freezes(Protocol):
    """A module whose exported operator has attributes that are learned, so that a trace needs them as numbers."""

    def freeze(self) -> None:
        """Stores the attributes as numbers; called before the trace."""


class Binarize(nn.Module):
    """``y = hi if x > t else lo``: the activation before a binary layer; NaN becomes lo.

    Args:
        channels: Number of thresholds; None for a single one.
        threshold: The (initial) value of the thresholds.
        learned: Whether the thresholds are trained (RSign of ReActNet, arXiv 2003.03488).
        domain: lo and hi.
        estimator: The gradient: a name (estimators.ESTIMATORS) or an Estimator.
        channel_axis: The axis of ``x`` with ``channels`` entries.

    Shapes:
        Any to the same, float32; under autocast too.

    Examples:
        >>> Binarize()(torch.tensor([-0.5, 0.0, 0.5]))
        tensor([-1., -1.,  1.])
    """

    def __init__(
        self,
        channels: int | None = None,
        threshold: float = 0.0,
        *,
        learned: bool = False,
        domain: BinaryDomain = SIGN,
        estimator: str | Estimator = "polynomial",
        channel_axis: int = 1,
    ) -> None:
        super().__init__()
        self.channels, self.domain, self.channel_axis = channels, domain, channel_axis
        self.estimator = estimator_of(estimator)
        values = torch.full(() if channels is None else (channels,), float(threshold))
        self.threshold: Tensor
        if learned:
            self.threshold = nn.Parameter(values)
        else:
            self.register_buffer("threshold", values)

    def forward(self, x: Tensor) -> Tensor:
        """Binarises x."""
        threshold = self.threshold
        if self.channels is not None:
            axis = self.channel_axis + (x.ndim if self.channel_axis < 0 else 0)
            if not 0 <= axis < x.ndim or x.shape[axis] != self.channels:
                raise ArgumentError(
                    f"Binarize has {self.channels} thresholds along axis {self.channel_axis}, "
                    f"but its input has shape {list(x.shape)}"
                )
            threshold = threshold.reshape(-1, *[1] * (x.ndim - axis - 1))
        if traces_operators():
            attributes = {"lo": float(self.domain.lo), "hi": float(self.domain.hi)}
            return symbolic("Binarize", [x, threshold], attributes, x.shape)
        if threshold.dtype == torch.float32:
            x = widened(x)  # as it is in the exported model
        return binarize(x, threshold, self.domain, self.estimator)

    def extra_repr(self) -> str:
        """Number of thresholds and domain."""
        learned = ", learned" if isinstance(self.threshold, nn.Parameter) else ""
        return f"{self.channels or 1} threshold(s){learned}, domain={self.domain}"


class RPReLU(nn.Module):
    """A PReLU with learned shifts, ``prelu(x + before) + after``; slope and shifts are one number per channel.

    Args:
        channels: Size of axis 1 of ``x``.

    Shapes:
        float32 [N, channels, ...] to the same.

    References:
        Liu et al., "ReActNet", ECCV 2020, arXiv 2003.03488.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.before = nn.Parameter(torch.zeros(channels))
        self.prelu = nn.PReLU(channels)
        self.after = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Activates x."""
        shape = (-1, *[1] * (x.ndim - 2))
        return self.prelu(x + self.before.reshape(shape)) + self.after.reshape(shape)


class BinaryLayer(nn.Module):
    """The base of BinaryConv2d and BinaryLinear: latent weights, their signs and the two weight values.

    Attributes:
        weight: The latent weights, float32 [OC, ...].
        bias: float32 [OC] or None.
        values: The module that computes scale and offset.
        binarize: The module that binarises or quantises the input first; None if the input is binary already.
        estimator: The gradient of the signs.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def _setup(
        self,
        weight: Tensor,
        bias: bool,
        domain: WeightDomain,
        estimator: str | Estimator,
        binarize: nn.Module | None,
    ) -> None:
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # same as in torch's layers
        self.weight = nn.Parameter(weight)
        self.register_parameter("bias", nn.Parameter(torch.zeros(len(weight))) if bias else None)
        self.domain = domain
        self.values = domain.build(weight)
        self.estimator = estimator_of(estimator)
        self.binarize = binarize

    def latent(self) -> nn.Parameter:
        """The latent weights: ``weight``, or ``weight_orig`` if ``torch.nn.utils.prune`` masks the layer."""
        return self.weight_orig if self.mask() is not None else self.weight  # type: ignore[return-value]

    def mask(self) -> Tensor | None:
        """The mask of ``torch.nn.utils.prune``, of the weights' shape; None without pruning.

        It is 0 where a weight is pruned.
        """
        mask = self._buffers.get("weight_mask")
        if mask is not None and not self.values.prunable:
            raise ArgumentError(
                f"weights of a layer with domain={self.domain} are pruned, but neither of its two values stands for "
                f"a pruned weight; use TwoValues(), Bits() or ScaledBits()"
            )
        return mask

    def affine(self) -> tuple[Tensor, Tensor | None]:
        """The factors [OC] of D and T in ``y = D * scale + T * offset``; None in place of an offset of 0.

        A quantiser in ``binarize`` multiplies both by its scale.
        """
        scale, offset = self.values(self.weight)
        if not isinstance(self.binarize, Quantizer):
            return scale, offset
        of_activations = self.binarize.scale()
        return scale * of_activations, None if offset is None else offset * of_activations

    def residual(self) -> Tensor | None:
        """The difference of the weights from the two values (``WeightValues.residual``), or None.

        A quantiser in ``binarize`` multiplies it by its scale.
        """
        rest = self.values.residual(self.weight)
        return rest * self.binarize.scale() if rest is not None and isinstance(self.binarize, Quantizer) else rest

    def forward(self, x: Tensor) -> Tensor:
        """Binarises x if the layer has a ``binarize``, and multiplies it by the weights."""
        if traces_operators():
            y = self._operator(self.binarised(x))
        else:
            with _computed_once(self), without_autocast(x):
                weight = self.weight
                warn_of_narrow_weights(self, weight, "its sums are exact, but its scales")
                y = self._product(self.binarised(widened(x))).to(weight.dtype)
        if self.bias is None:
            return y
        return y + self.bias[(..., *[None] * len(self.weight.shape[2:]))]

    def _product(self, x: Tensor) -> Tensor:
        """The product of a binarised input and the weights, in float32."""
        raise NotImplementedError

    def _operator(self, x: Tensor) -> Tensor:
        """The same as operators of ai.sbnn, with the constants that the exporter attached."""
        raise NotImplementedError

    def binarised(self, x: Tensor) -> Tensor:
        """The input after ``binarize``; for a quantiser the integers, without its scale."""
        if self.binarize is None:
            return x
        return self.binarize.integers(x) if isinstance(self.binarize, Quantizer) else self.binarize(x)

    def integers(self) -> Tensor:
        """The integers that multiply the activations: the signs, or the odd integers of two-bit weights."""
        return self.values.integers(self.weight) if isinstance(self.values, TwoBitValues) else self.signs()

    def signs(self) -> Tensor:
        """The weights' signs, float32 of the weights' shape, with the estimator's gradient; -1 where pruned."""
        mask = self.mask()
        if mask is None:
            return self.values.signs(self.weight, self.estimator)
        signs = self.values.signs(self.latent() * mask, self.estimator)
        return torch.where(mask > 0, signs, signs.new_tensor(-1.0))

    def density(self) -> float:
        """The share of weights whose sign is +1."""
        with torch.no_grad():
            return float((self.signs() > 0).float().mean())

    def _symbolic(self, name: str, x: Tensor, attributes: dict, shape: tuple[int, ...], rank: int) -> Tensor:
        """The layer as an ai.sbnn operator on the constants that the exporter attached.

        Two-bit weights need two operators.
        """

        def operator(bits: str, scale: str) -> Tensor:
            constants = [getattr(self, f"packed_{each}") for each in (bits, scale, "offset")]
            return symbolic(name, [x, *constants], attributes, shape)

        if not isinstance(self.values, TwoBitValues):
            return operator("weight", "scale")
        both = operator("weight", "twos") + operator("low_weight", "ones")
        return both * self.get_buffer("packed_scale").reshape(-1, *[1] * (rank - 1))


class BinaryConv2d(BinaryLayer):
    """A 2-D convolution with two-valued weights.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation, groups, bias: Same as in nn.Conv2d.
        padding: Pixels: one number, (vertical, horizontal), (top, left, bottom, right), "same" or "valid".
        padding_value: The value of padded pixels: 0 (contributes nothing), -1 or +1.
        domain: The two weight values (domains).
        estimator: The gradient of the weights' signs: a name (estimators.ESTIMATORS) or an Estimator.
        binarize: Binarises the input first (usually a Binarize), or quantises it to a few bits (quantizers). None if
            the input is binary already.

    Shapes:
        float32 [N, in_channels, H, W] to float32 [N, out_channels, H', W'].

    Raises:
        ArgumentError: If an argument is out of range.

    Examples:
        >>> layer = BinaryConv2d(16, 32, 3, padding=1, binarize=Binarize())
        >>> layer(torch.randn(1, 16, 8, 8)).shape
        torch.Size([1, 32, 8, 8])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: Padding = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = False,
        *,
        padding_value: int = 0,
        domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
        estimator: str | Estimator = "clip",
        binarize: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise ArgumentError(
                f"groups={groups} must divide in_channels={in_channels} and out_channels={out_channels}"
            )
        if padding_value not in (-1, 0, 1):
            raise ArgumentError(f"padding_value must be -1, 0 or 1, but got {padding_value}")
        if padding_value and isinstance(binarize, Quantizer):
            raise ArgumentError(f"a layer that quantises its input pads with 0, but got padding_value={padding_value}")
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = _pair(kernel_size), _pair(stride), _pair(dilation)
        self.pads = _pads(padding, self.kernel_size, self.stride, self.dilation)
        self.padding_value = padding_value
        weight = torch.empty(out_channels, in_channels // groups, *self.kernel_size)
        self._setup(weight, bias, domain, estimator, binarize)

    def _product(self, x: Tensor) -> Tensor:
        if x.ndim == 3:
            return self._product(x[None])[0]
        scale, offset = self.affine()
        rest = self.residual()
        x, padding = self._padded(x)
        return convolve(
            x,
            widened(self.integers()),
            widened(scale),
            None if offset is None else widened(offset),
            None if rest is None else widened(rest),
            Window(self.stride, padding, self.dilation, self.groups),
        )

    def _padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The input, and the zeros around it that the convolution shall add; else the input is padded already."""
        top, left, bottom, right = self.pads
        if (self.padding_value == 0 and (top, left) == (bottom, right)) or not any(self.pads):
            return x, (top, left)
        return functional.pad(x, (left, right, top, bottom), value=float(self.padding_value)), (0, 0)

    def _operator(self, x: Tensor) -> Tensor:
        attributes = {
            "weight_shape": list(self.weight.shape),
            "strides": list(self.stride),
            "pads": list(self.pads),
            "dilations": list(self.dilation),
            "group": self.groups,
            "pad_value": self.padding_value,
        }
        top, left, bottom, right = self.pads
        height, width = (
            (size - d * (k - 1) - 1) // s + 1
            for size, k, s, d in zip(
                (x.shape[2] + top + bottom, x.shape[3] + left + right),
                self.kernel_size,
                self.stride,
                self.dilation,
                strict=True,
            )
        )
        y = self._symbolic("BinaryConv2d", x, attributes, (x.shape[0], self.out_channels, height, width), 3)
        rest = self._buffers.get("packed_residual")
        if rest is None:
            return y
        padded = functional.pad(x, (left, right, top, bottom)) if any(self.pads) else x
        return y + functional.conv2d(padded, rest, None, self.stride, 0, self.dilation, self.groups)

    def extra_repr(self) -> str:
        """The arguments of nn.Conv2d, and the domain."""
        text = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        if any(self.pads):
            text += f", pads={self.pads}, padding_value={self.padding_value}"
        if self.dilation != (1, 1):
            text += f", dilation={self.dilation}"
        if self.groups != 1:
            text += f", groups={self.groups}"
        return f"{text}, bias={self.bias is not None}, domain={self.domain}"


class BinaryLinear(BinaryLayer):
    """A linear layer with two-valued weights.

    Args:
        in_features, out_features, bias: Same as in nn.Linear.
        domain, estimator, binarize: Same as in BinaryConv2d.

    Shapes:
        float32 [..., in_features] to float32 [..., out_features].
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = False,
        *,
        domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
        estimator: str | Estimator = "clip",
        binarize: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self._setup(torch.empty(out_features, in_features), bias, domain, estimator, binarize)

    def _product(self, x: Tensor) -> Tensor:
        scale, offset = self.affine()
        y = functional.linear(x, widened(self.integers())) * widened(scale)
        if offset is not None:
            y = y + x.sum(-1, keepdim=True) * widened(offset)
        rest = self.residual()
        return y if rest is None else y + functional.linear(x, widened(rest))

    def _operator(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.out_features)
        y = self._symbolic("BinaryLinear", x, {"in_features": self.in_features}, shape, 1)
        rest = self._buffers.get("packed_residual")
        return y if rest is None else y + functional.linear(x, rest)

    def extra_repr(self) -> str:
        """The arguments of nn.Linear, and the domain."""
        return f"{self.in_features}, {self.out_features}, bias={self.bias is not None}, domain={self.domain}"


def _computed_once(layer: BinaryLayer) -> AbstractContextManager[None]:
    """A context in which parametrised weights keep their value: spectral_norm changes them at every reading."""
    return parametrize.cached() if parametrize.is_parametrized(layer) else nullcontext()


def binary_layers(model: nn.Module) -> list[BinaryLayer]:
    """The binary layers of a model, in the order in which it registers them.

    Raises:
        ArgumentError: If there are none.
    """
    layers = [module for module in model.modules() if isinstance(module, BinaryLayer)]
    if not layers:
        raise ArgumentError("the model has no binary layers; make them with binarize_ or BinaryConv2d")
    return layers


def clamp_latent_(model: nn.Module, bound: float = 1.0) -> None:
    """Clamps the latent weights of a model's binary layers to [-bound, bound], in place.

    Call it after each optimiser step. The clipping estimators give latent weights far from 0 no gradient, so these
    would never change sign again. SBNN (arXiv 2306.13515) uses the bound 1.5, most other methods 1.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, BinaryLayer):
                if parametrize.is_parametrized(module, "weight"):
                    # right_inverse sets the parameters that the weights are computed from
                    module.weight = module.weight.clamp(-bound, bound)  # type: ignore[assignment]
                else:
                    module.latent().clamp_(-bound, bound)


def _pair(value: int | tuple[int, ...]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ArgumentError(f"kernel_size, stride and dilation are one or two positive numbers, but got {value}")
    return pair[0], pair[1]


def _pads(
    padding: Padding, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[int, int, int, int]:
    """(top, left, bottom, right)."""
    if padding == "valid":
        return (0, 0, 0, 0)
    if padding == "same":
        if stride != (1, 1):
            raise ArgumentError(f"padding='same' needs stride 1, but got {stride}")
        vertical, horizontal = (d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
        return (vertical // 2, horizontal // 2, vertical - vertical // 2, horizontal - horizontal // 2)
    amounts = (padding,) * 2 if isinstance(padding, int) else padding
    if isinstance(amounts, str) or len(amounts) not in (2, 4) or min(amounts) < 0:
        raise ArgumentError(f"padding is 'same', 'valid', or one, two or four numbers from 0, but got {padding!r}")
    return (*amounts, *amounts)[:4]
