"""ResNet in the style of Bi-Real Net: a shortcut around every binary convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from .config import BI_REAL_SIGNS, NetworkConfig, NetworkOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_WIDTHS = (64, 128, 256, 512)
_BLOCKS_PER_STAGE = (4, 4, 4, 4)


class ResidualBlock(nn.Module):
    """One binary 3x3 convolution with a shortcut around it: ``act(bn(conv(binarize(x))) + shortcut(x))``.

    The shortcut is the identity if the shape does not change. Otherwise it is average pooling, a 1x1 convolution that
    is not binary, and a batch norm.

    Args:
        config: The binary layers, the 1x1 convolution, and the codes of the result, if it has any.
        in_channels, out_channels: Channels of input and output.
        stride: 1 or 2.
        odd_size: Whether height and width of the input are odd; matters for stride 2 only.
        prelu: Whether a PReLU follows the addition.

    References:
        Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278.
    """

    def __init__(
        self, config: NetworkConfig, in_channels: int, out_channels: int, stride: int, *, odd_size: bool, prelu: bool
    ) -> None:
        super().__init__()
        self.binarize = config.binarize(in_channels)
        self.conv = config.conv2d(in_channels, out_channels, 3, stride)
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=odd_size, count_include_pad=False))
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(config.multibit_conv2d(in_channels, out_channels, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))
        self.act = nn.PReLU(out_channels) if prelu else nn.Identity()
        self.stream = config.stream()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H / stride, W / stride]."""
        return self.stream(self.act(self.bn(self.conv(self.binarize(x))) + self.shortcut(x)))


class ResNet(nn.Module):
    """A stem, stages of ResidualBlock, and a head; stem and head are float, or have 8 bits (NetworkConfig).

    Args:
        config: Input, output and binary layers.
        widths: Channels of each stage. Every stage but the first halves the image.
        blocks: Binary convolutions of each stage, which is twice the usual count of two-convolution blocks.
        stem: ``"small"`` is a 3x3 convolution; ``"imagenet"`` is a 7x7 one with stride 2 and a 3x3 max pooling.
        prelu: Whether a PReLU follows each addition.

    Attributes:
        stem, layers, head: The parts; ``layers[stage][block]``.
        example_input_array: float32 [1, C, H, W], the input shape that an export assumes.

    Raises:
        ArgumentError: If widths and blocks differ in length, or the stem is unknown.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        widths: Sequence[int] = _WIDTHS,
        blocks: Sequence[int] = _BLOCKS_PER_STAGE,
        stem: Literal["small", "imagenet"] = "small",
        prelu: bool = False,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) or not widths:
            raise ArgumentError(
                f"widths and blocks need one number per stage each, but have {len(widths)} and {len(blocks)} numbers"
            )
        if stem not in ("small", "imagenet"):
            raise ArgumentError(f"stem is 'small' or 'imagenet', but got {stem!r}")
        channels, size = widths[0], config.image_size
        if stem == "small":
            first = config.multibit_conv2d(config.in_channels, channels, 3, padding=1, bias=False)
        else:
            first = config.multibit_conv2d(config.in_channels, channels, 7, 2, padding=3, bias=False)
        self.stem = nn.Sequential(first, nn.BatchNorm2d(channels))
        if stem == "imagenet":
            self.stem.append(nn.MaxPool2d(3, 2, padding=1))
            size = -(-size // 4)
        self.stem.append(config.stream())
        self.layers = nn.Sequential()
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            layer = nn.Sequential()
            for index in range(count):
                stride = 2 if stage and not index else 1
                layer.append(ResidualBlock(config, channels, width, stride, odd_size=size % 2 == 1, prelu=prelu))
                channels, size = width, -(-size // stride)
            self.layers.append(layer)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), config.multibit_linear(channels, config.classes)
        )
        self.example_input_array = config.example_input()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.head(self.layers(self.stem(x)))


def resnet(
    classes: int = 10,
    *,
    widths: Sequence[int] = _WIDTHS,
    blocks: Sequence[int] = _BLOCKS_PER_STAGE,
    stem: Literal["small", "imagenet"] = "small",
    prelu: bool = False,
    **options: Unpack[NetworkOptions],
) -> ResNet:
    """A residual network in the style of Bi-Real Net, by default for images of 32x32 pixels.

    Args:
        classes: Number of outputs.
        widths, blocks, stem, prelu: Same as in ResNet.
        options: Other attributes of NetworkConfig; the default image size is 32, the default domain BI_REAL_SIGNS.

    Raises:
        ArgumentError: If widths and blocks differ in length, or the stem is unknown.
    """
    config = NetworkConfig(classes=classes, image_size=32, domain=BI_REAL_SIGNS)
    return ResNet(replace(config, **options), widths=widths, blocks=blocks, stem=stem, prelu=prelu)


def resnet18(classes: int = 1000, *, prelu: bool = False, **options: Unpack[NetworkOptions]) -> ResNet:
    """Bi-Real Net 18 for ImageNet: sixteen binary 3x3 convolutions with 10,985,472 binary weights.

    Args:
        classes: Number of outputs.
        prelu: Whether a PReLU follows each addition.
        options: Other attributes of NetworkConfig; the default domain is BI_REAL_SIGNS.

    References:
        Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278.
    """
    config = NetworkConfig(classes=classes, domain=BI_REAL_SIGNS)
    return ResNet(replace(config, **options), stem="imagenet", prelu=prelu)
