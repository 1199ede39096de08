"""ReActNet: a MobileNet-v1 of binary convolutions, whose signs and activations learn where to lie; also in groups."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..layers.domains import ScaledSigns, WeightDomain
from ..layers.estimators import Estimator
from ..layers.modules import Binarize, BinaryConv2d, RPReLU

# Output channels and stride of each block of ReActNet-A, in units of the stem's channels.
_BLOCKS = ((2, 1), (4, 2), (4, 1), (8, 2), (8, 1), (16, 2), *[(16, 1)] * 5, (32, 2), (32, 1))


class ReActBlock(nn.Module):
    """A binary 3x3 and a binary 1x1 convolution, a shortcut around each.

    Twice as many output as input channels come from two 1x1 convolutions of the same bits, side by side, so that the
    shortcut fits both. With stride 2 the first shortcut is an average pooling.

    Args:
        in_channels, out_channels: Equal, or twice as many.
        stride: 1 or 2.
        odd_size: With stride 2: whether the image has odd sides.
        groups: Of the 3x3 convolution.
        domain, estimator, weight_estimator: As of reactnet.

    Raises:
        ValueError: If the channels are neither kept nor doubled.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        odd_size: bool,
        groups: int = 1,
        domain: WeightDomain,
        estimator: str | Estimator,
        weight_estimator: str | Estimator,
    ) -> None:
        super().__init__()
        if out_channels not in (in_channels, 2 * in_channels):
            raise ValueError(f"a block keeps its channels or doubles them, but has {in_channels} to {out_channels}")

        def conv(size: int, stride: int, groups: int = 1) -> nn.Sequential:
            layer = BinaryConv2d(
                in_channels,
                in_channels,
                size,
                stride,
                size // 2,
                groups=groups,
                domain=domain,
                estimator=weight_estimator,
            )
            return nn.Sequential(layer, nn.BatchNorm2d(in_channels))

        self.binarize_3x3 = Binarize(in_channels, learned=True, estimator=estimator)
        self.conv_3x3 = conv(3, stride, groups)
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=odd_size, count_include_pad=False) if stride > 1 else nn.Identity()
        self.act_3x3 = RPReLU(in_channels)
        self.binarize_1x1 = Binarize(in_channels, learned=True, estimator=estimator)
        self.convs_1x1 = nn.ModuleList(conv(1, 1) for _ in range(out_channels // in_channels))
        self.act_1x1 = RPReLU(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H / stride, W / stride]."""
        x = self.act_3x3(self.conv_3x3(self.binarize_3x3(x)) + self.pool(x))
        bits = self.binarize_1x1(x)
        halves = [conv(bits) + x for conv in self.convs_1x1]
        return self.act_1x1(halves[0] if len(halves) == 1 else torch.cat(halves, 1))


class ReActNet(nn.Module):
    """A float stem, ReActBlocks, a float head; see reactnet.

    Attributes:
        stem, blocks, head: The parts.
        example_input_array: float32 [1, C, H, W], the shape that an export assumes.
    """

    def __init__(self, stem: nn.Sequential, blocks: nn.Sequential, head: nn.Sequential, example: Tensor) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, blocks, head
        self.example_input_array = example

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.head(self.blocks(self.stem(x)))


def reactnet(
    classes: int = 1000,
    *,
    in_channels: int = 3,
    image_size: int = 224,
    width: int = 32,
    blocks: Sequence[tuple[int, int]] = _BLOCKS,
    groups: int | Sequence[int] = 1,
    domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
    estimator: str | Estimator = "polynomial",
    weight_estimator: str | Estimator = "clip",
) -> ReActNet:
    """A network of ReActNet's blocks; the defaults are ReActNet-A for ImageNet.

    Args:
        classes: Outputs.
        in_channels, image_size: Of the (square) input.
        width: Channels of the stem, which halves the image.
        blocks: Output channels of each block as multiples of ``width``, and its stride.
        groups: Of the 3x3 convolution of every block, or of each.
        domain: The two weight values.
        estimator, weight_estimator: The gradients of activations and of weights.

    Raises:
        ValueError: If a block neither keeps nor doubles its channels, or its groups do not divide them.

    References:
        Liu et al., "ReActNet", ECCV 2020, arXiv 2003.03488.
    """
    groups = [groups] * len(blocks) if isinstance(groups, int) else groups
    if len(groups) != len(blocks):
        raise ValueError(
            f"groups is one number, or one for each of {len(blocks)} blocks, but got {len(groups)} of them"
        )
    stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))
    channels, size = width, -(-image_size // 2)
    body = nn.Sequential()
    for (multiple, stride), group in zip(blocks, groups, strict=True):
        body.append(
            ReActBlock(
                channels,
                multiple * width,
                stride,
                odd_size=size % 2 == 1,
                groups=group,
                domain=domain,
                estimator=estimator,
                weight_estimator=weight_estimator,
            )
        )
        channels, size = multiple * width, -(-size // stride)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return ReActNet(stem, body, head, torch.zeros(1, in_channels, image_size, image_size))


def group_mobilenet(
    classes: int = 1000,
    *,
    groups: int | Sequence[int] = (1, 2, 2, 4, 4, *[8] * 6, 16, 16),
    in_channels: int = 3,
    image_size: int = 224,
    width: int = 32,
    blocks: Sequence[tuple[int, int]] = _BLOCKS,
    domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
    estimator: str | Estimator = "polynomial",
    weight_estimator: str | Estimator = "clip",
) -> ReActNet:
    """A MobileNet-v1 whose depthwise convolutions are binary group convolutions, with shortcuts as in ReActNet.

    Binary depthwise convolutions learn badly: their sums have nine terms. The paper therefore takes groups of several
    channels, and finds their number layer by layer with an evolutionary search; here they are arguments, and the
    default is ours, not its result.

    Args:
        groups: Of the 3x3 convolution of every block, or of each.
        classes, in_channels, image_size, width, blocks, domain, estimator, weight_estimator: As of reactnet.

    Raises:
        ValueError: As reactnet.

    References:
        Phan et al., "Binarizing MobileNet via Evolution-based Searching", CVPR 2020, arXiv 2005.06305.
    """
    return reactnet(
        classes,
        in_channels=in_channels,
        image_size=image_size,
        width=width,
        blocks=blocks,
        groups=groups,
        domain=domain,
        estimator=estimator,
        weight_estimator=weight_estimator,
    )
