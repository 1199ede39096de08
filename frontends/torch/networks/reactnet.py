"""ReActNet: MobileNet-v1 with binary convolutions, learned thresholds and learned activations; also with groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.modules import RPReLU
from .config import BI_REAL_SIGNS, NetworkConfig, NetworkOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

# Output channels (as multiples of the stem's channels) and stride of each block.
_REACTNET_A = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))


class ReActBlock(nn.Module):
    """A binary 3x3 convolution and a binary 1x1 convolution, each with a shortcut around it.

    To double the channels, two 1x1 convolutions read the same bits and their outputs are concatenated, so that the
    shortcut fits both. With stride 2 the first shortcut is an average pooling.

    Args:
        config: The binary layers, and the codes of both results, if they have any.
        in_channels, out_channels: Channels of input and output: equal, or twice as many outputs.
        stride: 1 or 2.
        odd_size: Whether height and width of the input are odd; matters for stride 2 only.
        groups: Groups of the 3x3 convolution.

    Raises:
        ArgumentError: If the channels are neither kept nor doubled.
    """

    def __init__(
        self,
        config: NetworkConfig,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        odd_size: bool,
        groups: int = 1,
    ) -> None:
        super().__init__()
        if out_channels not in (in_channels, 2 * in_channels):
            raise ArgumentError(f"a block keeps its channels or doubles them, but has {in_channels} to {out_channels}")

        def conv(size: int, stride: int, groups: int = 1) -> nn.Sequential:
            layer = config.conv2d(in_channels, in_channels, size, stride, groups=groups)
            return nn.Sequential(layer, nn.BatchNorm2d(in_channels))

        self.binarize_3x3 = config.binarize(in_channels)
        self.conv_3x3 = conv(3, stride, groups)
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=odd_size, count_include_pad=False) if stride > 1 else nn.Identity()
        self.act_3x3 = RPReLU(in_channels)
        self.binarize_1x1 = config.binarize(in_channels)
        self.convs_1x1 = nn.ModuleList(conv(1, 1) for _ in range(out_channels // in_channels))
        self.act_1x1 = RPReLU(out_channels)
        self.stream_3x3, self.stream_1x1 = config.stream(), config.stream()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H / stride, W / stride]."""
        x = self.stream_3x3(self.act_3x3(self.conv_3x3(self.binarize_3x3(x)) + self.pool(x)))
        bits = self.binarize_1x1(x)
        halves = [conv(bits) + x for conv in self.convs_1x1]
        return self.stream_1x1(self.act_1x1(halves[0] if len(halves) == 1 else torch.cat(halves, 1)))


class ReActNet(nn.Module):
    """A stem, a chain of ReActBlock, and a head; stem and head are float, or have 8 bits (NetworkConfig).

    Args:
        config: Input, output and binary layers; the published networks set ``learn_threshold``.
        width: Output channels of the stem, which halves the image.
        blocks: For each block its output channels, as a multiple of ``width``, and its stride.
        groups: Groups of the 3x3 convolutions: one number for all blocks, or one per block.

    Attributes:
        stem, blocks, head: The parts.
        example_input_array: float32 [1, C, H, W], the input shape that an export assumes.

    Raises:
        ArgumentError: If a block neither keeps nor doubles its channels, or its groups do not divide them.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        width: int = 32,
        blocks: Sequence[tuple[int, int]] = _REACTNET_A,
        groups: int | Sequence[int] = 1,
    ) -> None:
        super().__init__()
        groups = [groups] * len(blocks) if isinstance(groups, int) else groups
        if len(groups) != len(blocks):
            raise ArgumentError(f"groups is one number, or one for each of {len(blocks)} blocks, but got {len(groups)}")
        stem = config.multibit_conv2d(config.in_channels, width, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), config.stream())
        channels, size = width, -(-config.image_size // 2)
        self.blocks = nn.Sequential()
        for (multiple, stride), group in zip(blocks, groups, strict=True):
            self.blocks.append(
                ReActBlock(config, channels, multiple * width, stride, odd_size=size % 2 == 1, groups=group)
            )
            channels, size = multiple * width, -(-size // stride)
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), config.multibit_linear(channels, config.classes)
        )
        self.example_input_array = config.example_input()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.head(self.blocks(self.stem(x)))


def reactnet(
    classes: int = 1000,
    *,
    width: int = 32,
    blocks: Sequence[tuple[int, int]] = _REACTNET_A,
    groups: int | Sequence[int] = 1,
    **options: Unpack[NetworkOptions],
) -> ReActNet:
    """A network in the style of ReActNet; the defaults give ReActNet-A for ImageNet.

    Args:
        classes: Number of outputs.
        width, blocks, groups: Same as in ReActNet.
        options: Other attributes of NetworkConfig; by default the thresholds are learned, and the domain is
            BI_REAL_SIGNS.

    Raises:
        ArgumentError: If a block neither keeps nor doubles its channels, or its groups do not divide them.

    References:
        Liu et al., "ReActNet", ECCV 2020, arXiv 2003.03488.
    """
    config = NetworkConfig(classes=classes, domain=BI_REAL_SIGNS, learn_threshold=True)
    return ReActNet(replace(config, **options), width=width, blocks=blocks, groups=groups)


def group_mobilenet(
    classes: int = 1000,
    *,
    groups: int | Sequence[int] = (1, 2, 2, 4, 4, *[8] * 6, 16, 16),
    width: int = 32,
    blocks: Sequence[tuple[int, int]] = _REACTNET_A,
    **options: Unpack[NetworkOptions],
) -> ReActNet:
    """MobileNet-v1 with binary group convolutions in place of depthwise ones, and with the shortcuts of ReActNet.

    Binary depthwise convolutions learn badly because each of their sums has only nine terms. The paper therefore
    groups several channels, and finds the number of groups of each layer by an evolutionary search. Here the numbers
    are an argument. The default is this project's choice, not the result of the paper's search.

    Args:
        classes: Number of outputs.
        groups, width, blocks: Same as in ReActNet.
        options: Same as in reactnet.

    Raises:
        ArgumentError: Same as in reactnet.

    References:
        Phan et al., "Binarizing MobileNet via Evolution-based Searching", CVPR 2020, arXiv 2005.06305.
    """
    return reactnet(classes, width=width, blocks=blocks, groups=groups, **options)
