"""QuickNet: residual binary 3x3 convolutions, and everything between them as cheap as it gets in float."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.domains import Signs, WeightDomain
from ..layers.estimators import Estimator
from ..layers.modules import Binarize, BinaryConv2d


class QuickBlock(nn.Module):
    """``x + bn(relu(conv(binarize(x))))`` with a binary 3x3 convolution whose padding is +1."""

    def __init__(
        self, channels: int, *, domain: WeightDomain, estimator: str | Estimator, weight_estimator: str | Estimator
    ) -> None:
        super().__init__()
        self.binarize = Binarize(estimator=estimator)
        self.conv = BinaryConv2d(
            channels, channels, 3, padding=1, padding_value=1, domain=domain, estimator=weight_estimator
        )
        self.relu = nn.ReLU()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return x + self.bn(self.relu(self.conv(self.binarize(x))))


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """Halve the image without aliasing: ReLU, a 3x3 maximum, a blur of stride 2, a 1x1 convolution; all float."""
    blur = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
    row = torch.tensor([1.0, 2.0, 1.0]) / 4
    with torch.no_grad():
        blur.weight.copy_(torch.outer(row, row).expand_as(blur.weight))
    blur.weight.requires_grad_(False)
    return nn.Sequential(
        nn.ReLU(),
        nn.MaxPool2d(3, 1, 1),
        blur,
        nn.Conv2d(in_channels, out_channels, 1, bias=False),
        nn.BatchNorm2d(out_channels),
    )


class QuickNet(nn.Module):
    """A float stem, sections of QuickBlocks with transitions between them, a float head; see quicknet.

    Attributes:
        stem, sections, head: The parts.
        example_input_array: float32 [1, C, H, W], the shape that an export assumes.
    """

    def __init__(self, stem: nn.Sequential, sections: nn.Sequential, head: nn.Sequential, example: Tensor) -> None:
        super().__init__()
        self.stem, self.sections, self.head = stem, sections, head
        self.example_input_array = example

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.head(self.sections(self.stem(x)))


def quicknet(
    classes: int = 1000,
    *,
    in_channels: int = 3,
    image_size: int = 224,
    stem_channels: int = 8,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (4, 4, 4, 4),
    domain: WeightDomain = Signs(),  # noqa: B008 (frozen)
    estimator: str | Estimator = "clip",
    weight_estimator: str | Estimator = "clip",
) -> QuickNet:
    """A network in the style of QuickNet; the defaults are its middle size for ImageNet.

    Args:
        classes: Outputs.
        in_channels, image_size: Of the (square) input.
        stem_channels: Of the first convolution; stride 2, as the depthwise one behind it.
        widths: Channels of each section; all but the first one halve the image.
        blocks: Binary convolutions of each section.
        domain: The two weight values.
        estimator, weight_estimator: The gradients of activations and of weights.

    Raises:
        ValueError: If widths and blocks differ in length.

    References:
        Bannink et al., "Larq Compute Engine", MLSys 2021, arXiv 2011.09398.
    """
    if len(widths) != len(blocks) or not widths:
        raise ValueError(f"widths and blocks are one number a section, but got {len(widths)} and {len(blocks)} of them")
    channels = widths[0]
    stem = nn.Sequential(
        nn.Conv2d(in_channels, stem_channels, 3, 2, 1, bias=False),
        nn.BatchNorm2d(stem_channels),
        nn.ReLU(),
        nn.Conv2d(stem_channels, stem_channels, 3, 2, 1, groups=stem_channels, bias=False),
        nn.Conv2d(stem_channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )
    sections = nn.Sequential()
    for width, count in zip(widths, blocks, strict=True):
        section = nn.Sequential()
        if len(sections):
            section.append(transition(channels, width))
        for _ in range(count):
            section.append(QuickBlock(width, domain=domain, estimator=estimator, weight_estimator=weight_estimator))
        sections.append(section)
        channels = width
    head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return QuickNet(stem, sections, head, torch.zeros(1, in_channels, image_size, image_size))
