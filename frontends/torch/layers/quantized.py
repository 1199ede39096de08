"""Layers of 8 bits: QuantizedConv2d and QuantizedLinear, beside the binary layers of a network.

Published binary networks keep their first, last, 1x1 and depthwise layers at 8 bits. Such a layer rounds its input and
its weights to codes of 8 bits, and computes with their values::

    y = conv(Q(x), Q(w)) (+ bias)

It is exported as QuantizeLinear, DequantizeLinear and a float convolution, which any runtime of ONNX computes, with one
byte per weight. A compiler sees that all operands are integers times a scale, and sums the integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sbnn_tvm.errors import ArgumentError

from .affine_quantizers import LSQ, AffineQuantizer, MovingAverage, WeightQuantizer
from .precision import warn_of_narrow_weights, widened, without_autocast

Ranges = Literal["learned", "observed"]


@dataclass(frozen=True)
class EightBit:
    """How 8-bit layers, and residual streams of 8 or 16 bits, get the scales of their codes.

    Attributes:
        activations: ``"learned"`` trains the scale (LSQ); ``"observed"`` takes it from the data (MovingAverage).
        weights: ``"learned"`` trains one scale per output channel (LSQ); ``"observed"`` takes it from the largest
            weight of the channel at every forward pass.

    Raises:
        ArgumentError: If an attribute is neither of the two.
    """

    activations: Ranges = "learned"
    weights: Ranges = "observed"

    def __post_init__(self) -> None:
        for name in ("activations", "weights"):
            if (value := getattr(self, name)) not in ("learned", "observed"):
                raise ArgumentError(f"EightBit takes {name}='learned' or 'observed', but got {value!r}")

    def quantizer(self, dtype: torch.dtype = torch.uint8, zero_point: int | None = None) -> AffineQuantizer:
        """A quantiser of activations."""
        return (LSQ if self.activations == "learned" else MovingAverage)(dtype, zero_point)

    def conv2d(self, *args: Any, **kwargs: Any) -> QuantizedConv2d:
        """A convolution that quantises its input; arguments of nn.Conv2d."""
        return QuantizedConv2d(*args, **kwargs, quantize=self.quantizer(), learned=self.weights == "learned")

    def linear(self, *args: Any, **kwargs: Any) -> QuantizedLinear:
        """A linear layer that quantises its input; arguments of nn.Linear."""
        return QuantizedLinear(*args, **kwargs, quantize=self.quantizer(), learned=self.weights == "learned")


class _QuantizedLayer(nn.Module):
    """What both layers have beside their float counterpart, which is the next base class."""

    weight: Tensor

    def __init__(
        self, *args: Any, quantize: AffineQuantizer | None = None, learned: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.quantize = quantize
        self.weight_quantizer = WeightQuantizer(self.weight, learned)


class QuantizedConv2d(_QuantizedLayer, nn.Conv2d):
    """A 2-D convolution whose weights and input have 8 bits.

    Args:
        args, kwargs: Same as in nn.Conv2d. Padded pixels are 0, which is exact.
        quantize: Quantises the input first (LSQ, MovingAverage). None if the input is quantised already.
        learned: Whether the scales of the weights are trained (WeightQuantizer).

    Attributes:
        weight, bias: As in nn.Conv2d; float32. The optimiser updates the float weights.
        quantize: Same as the argument.
        weight_quantizer: Rounds the weights.

    Shapes:
        float32 [N, in_channels, H, W] to float32 [N, out_channels, H', W']; under autocast too.

    Examples:
        >>> layer = QuantizedConv2d(3, 16, 3, padding=1, quantize=LSQ())
        >>> layer(torch.randn(1, 3, 8, 8)).shape
        torch.Size([1, 16, 8, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Quantises x if the layer has a ``quantize``, and the weights, and convolves them."""
        return quantized_product(self, x, self.weight, self.bias, self._conv_forward)


class QuantizedLinear(_QuantizedLayer, nn.Linear):
    """A linear layer whose weights and input have 8 bits.

    Args:
        args, kwargs: Same as in nn.Linear.
        quantize, learned: Same as in QuantizedConv2d.

    Attributes:
        weight, bias, quantize, weight_quantizer: Same as in QuantizedConv2d.

    Shapes:
        float32 [..., in_features] to float32 [..., out_features]; under autocast too.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Quantises x if the layer has a ``quantize``, and the weights, and multiplies them."""
        return quantized_product(self, x, self.weight, self.bias, functional.linear)


def quantized_product(
    layer: nn.Module, x: Tensor, weight: Tensor, bias: Tensor | None, product: Callable[..., Tensor]
) -> Tensor:
    """A product of quantised input and weights, not narrower than float32.

    Args:
        layer: Has a ``quantize``, or None, and a ``weight_quantizer``.
        x, weight, bias: Its operands.
        product: Of these three.
    """
    warn_of_narrow_weights(layer, weight, "its scales")
    with without_autocast(x):
        x = widened(x)
        if layer.quantize is not None:
            x = layer.quantize(x)  # type: ignore[operator]
        weights = layer.weight_quantizer(widened(weight))  # type: ignore[operator]
        return product(x, weights, None if bias is None else widened(bias)).to(weight.dtype)
