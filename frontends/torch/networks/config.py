"""The configuration that all networks take: their input and output, and how their layers are binary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.domains import ScaledSigns, WeightDomain
from ..layers.estimators import Estimator
from ..layers.modules import Binarize, BinaryConv2d, BinaryLinear
from ..layers.quantized import EightBit

BI_REAL_SIGNS = ScaledSigns(gradient="unscaled")
"""The weights of Bi-Real Net, ReActNet and BCDNet, in their authors' code: the scale does not multiply the gradient."""


@dataclass(frozen=True)
class NetworkConfig:
    """Input, output and binary layers of a network. What differs between networks, such as widths, is not part of it.

    Attributes:
        classes: Number of outputs.
        in_channels: Channels of the input images.
        image_size: Height and width of the input images, in pixels.
        domain: The two values of the binary weights.
        estimator: The gradient of the activations' signs: a name (``estimators.ESTIMATORS``) or an Estimator.
        weight_estimator: The same for the weights' signs.
        learn_threshold: Whether each channel has a trained activation threshold (RSign); otherwise the threshold is 0.
        eight_bit: The layers that are not binary have 8 bits: the first and the last one, 1x1 convolutions of shortcuts
            and depthwise convolutions. None leaves them float.
        stream_bits: The values that shortcuts carry from block to block have codes of 8 or 16 bits, with the zero point
            0. None leaves them float.

    Raises:
        ArgumentError: If ``stream_bits`` is none of these.

    Examples:
        >>> from sbnn_tvm.frontends.torch import QuickNet
        >>> config = NetworkConfig(classes=10, image_size=32)
        >>> QuickNet(config, widths=(16, 32), blocks=(1, 1))(torch.zeros(1, 3, 32, 32)).shape
        torch.Size([1, 10])
    """

    classes: int = 1000
    in_channels: int = 3
    image_size: int = 224
    domain: WeightDomain = ScaledSigns()  # noqa: RUF009 (frozen)
    estimator: str | Estimator = "polynomial"
    weight_estimator: str | Estimator = "clip"
    learn_threshold: bool = False
    eight_bit: EightBit | None = None
    stream_bits: Literal[8, 16] | None = None

    def __post_init__(self) -> None:
        if self.stream_bits not in (None, 8, 16):
            raise ArgumentError(f"stream_bits is 8, 16 or None, but got {self.stream_bits!r}")

    def binarize(self, channels: int) -> Binarize:
        """The activation before a binary layer with ``channels`` inputs."""
        return Binarize(
            channels if self.learn_threshold else None, learned=self.learn_threshold, estimator=self.estimator
        )

    def conv2d(
        self,
        in_channels: int,
        out_channels: int,
        size: int,
        stride: int = 1,
        *,
        groups: int = 1,
        padding_value: int = 0,
    ) -> BinaryConv2d:
        """A binary convolution with a ``size`` x ``size`` kernel and ``size // 2`` pixels of padding."""
        return BinaryConv2d(
            in_channels,
            out_channels,
            size,
            stride,
            size // 2,
            groups=groups,
            padding_value=padding_value,
            domain=self.domain,
            estimator=self.weight_estimator,
        )

    def linear(self, in_features: int, out_features: int) -> BinaryLinear:
        """A binary linear layer without bias."""
        return BinaryLinear(in_features, out_features, domain=self.domain, estimator=self.weight_estimator)

    def multibit_conv2d(self, *args: Any, **kwargs: Any) -> nn.Conv2d:
        """A convolution that is not binary: float, or of 8 bits. The arguments are those of nn.Conv2d."""
        return nn.Conv2d(*args, **kwargs) if self.eight_bit is None else self.eight_bit.conv2d(*args, **kwargs)

    def multibit_linear(self, in_features: int, out_features: int) -> nn.Linear:
        """A linear layer that is not binary, with a bias: float, or of 8 bits."""
        if self.eight_bit is None:
            return nn.Linear(in_features, out_features)
        return self.eight_bit.linear(in_features, out_features)

    def stream(self) -> nn.Module:
        """What follows each addition of a shortcut: a quantiser, or nothing."""
        if self.stream_bits is None:
            return nn.Identity()
        ranges = self.eight_bit or EightBit()
        return ranges.quantizer(torch.int8 if self.stream_bits == 8 else torch.int16, zero_point=0)

    def example_input(self) -> Tensor:
        """Zeros, float32 [1, in_channels, image_size, image_size]: the input shape that an export assumes."""
        return torch.zeros(1, self.in_channels, self.image_size, self.image_size)


class NetworkOptions(TypedDict, total=False):
    """Keywords of factories such as ``resnet18``: the attributes of NetworkConfig but ``classes``, all optional."""

    in_channels: int
    image_size: int
    domain: WeightDomain
    estimator: str | Estimator
    weight_estimator: str | Estimator
    learn_threshold: bool
    eight_bit: EightBit | None
    stream_bits: Literal[8, 16] | None
