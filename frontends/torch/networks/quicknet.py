"""QuickNet: residual binary 3x3 convolutions, with other layers between them that cost little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.domains import Signs
from .config import NetworkConfig, NetworkOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_WIDTHS = (64, 128, 256, 512)
_BLOCKS_PER_SECTION = (4, 4, 4, 4)


class QuickBlock(nn.Module):
    """``x + bn(relu(conv(binarize(x))))`` with a binary 3x3 convolution whose padded pixels are +1."""

    def __init__(self, config: NetworkConfig, channels: int) -> None:
        super().__init__()
        self.binarize = config.binarize(channels)
        self.conv = config.conv2d(channels, channels, 3, padding_value=1)
        self.relu = nn.ReLU()
        self.bn = nn.BatchNorm2d(channels)
        self.stream = config.stream()

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return self.stream(x + self.bn(self.relu(self.conv(self.binarize(x)))))


def transition(config: NetworkConfig, in_channels: int, out_channels: int) -> nn.Sequential:
    """Halves the image without aliasing: ReLU, 2x2 max pooling, fixed blur of stride 2, 1x1 convolution; not binary."""
    blur = config.multibit_conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    with torch.no_grad():
        blur.weight.copy_(torch.outer(row, row).expand_as(blur.weight))
    blur.weight.requires_grad_(False)
    return nn.Sequential(
        nn.ReLU(),
        nn.MaxPool2d(2, 1),
        blur,
        config.multibit_conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
        config.stream(),
    )


class QuickNet(nn.Module):
    """A stem, sections of QuickBlock with a transition between them, and a head.

    All but the QuickBlocks is float, or has 8 bits (NetworkConfig).

    Args:
        config: Input, output and binary layers.
        stem_channels: Output channels of the first convolution; None is a quarter of ``widths[0]``. It has stride 2,
            and so has the depthwise convolution that follows it.
        widths: Channels of each section. Every section but the first halves the image.
        blocks: Binary convolutions of each section.

    Attributes:
        stem, sections, head: The parts.
        example_input_array: float32 [1, C, H, W], the input shape that an export assumes.

    Raises:
        ArgumentError: If widths and blocks differ in length, or the image is too small for the number of sections.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        stem_channels: int | None = None,
        widths: Sequence[int] = _WIDTHS,
        blocks: Sequence[int] = _BLOCKS_PER_SECTION,
    ) -> None:
        super().__init__()
        if len(widths) != len(blocks) or not widths:
            raise ArgumentError(
                f"widths and blocks need one number per section each, but have {len(widths)} and {len(blocks)} numbers"
            )
        if -(-config.image_size // 4) >> len(widths) - 1 < 1:
            raise ArgumentError(
                f"image_size={config.image_size} cannot be halved {len(widths) + 1} times, "
                f"twice in the stem and once per section after the first"
            )
        channels = widths[0]
        stem = max(channels // 4, 1) if stem_channels is None else stem_channels
        self.stem = nn.Sequential(
            config.multibit_conv2d(config.in_channels, stem, 3, 2, 1, bias=False),
            nn.BatchNorm2d(stem),
            nn.ReLU(),
            config.multibit_conv2d(stem, stem, 3, 2, 1, groups=stem, bias=False),
            nn.BatchNorm2d(stem, affine=False),
            config.multibit_conv2d(stem, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
            config.stream(),
        )
        self.sections = nn.Sequential()
        for width, count in zip(widths, blocks, strict=True):
            section = nn.Sequential()
            if len(self.sections):
                section.append(transition(config, channels, width))
            for _ in range(count):
                section.append(QuickBlock(config, width))
            self.sections.append(section)
            channels = width
        self.head = nn.Sequential(
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), config.multibit_linear(channels, config.classes)
        )
        self.example_input_array = config.example_input()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.head(self.sections(self.stem(x)))


def quicknet(
    classes: int = 1000,
    *,
    stem_channels: int | None = None,
    widths: Sequence[int] = _WIDTHS,
    blocks: Sequence[int] = _BLOCKS_PER_SECTION,
    **options: Unpack[NetworkOptions],
) -> QuickNet:
    """A network in the style of QuickNet; the defaults give its medium size for ImageNet.

    QuickNetSmall has ``widths=(32, 64, 256, 512)``, QuickNetLarge ``blocks=(6, 8, 12, 6)``. The authors' code
    (larq_zoo) clips gradients and latent weights at 1.25, where this one clips gradients at 1. Its convolutions of
    stride 2 pad an even image at the bottom and at the right, these ones at the top and at the left.

    Args:
        classes: Number of outputs.
        stem_channels, widths, blocks: Same as in QuickNet.
        options: Other attributes of NetworkConfig; the default domain is Signs, the default estimator ``"clip"``.

    Raises:
        ArgumentError: If widths and blocks differ in length, or the image is too small for the number of sections.

    References:
        Bannink et al., "Larq Compute Engine", MLSys 2021, arXiv 2011.09398.
    """
    config = NetworkConfig(classes=classes, domain=Signs(), estimator="clip")
    return QuickNet(replace(config, **options), stem_channels=stem_channels, widths=widths, blocks=blocks)
