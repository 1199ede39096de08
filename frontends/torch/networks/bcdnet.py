"""BCDNet: ReActNet whose later blocks gather context by shifted binary 1x1 convolutions in place of 3x3 ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from ..layers.modules import BinaryConv2d, RPReLU
from .config import NetworkConfig, NetworkOptions
from .reactnet import ReActBlock

if TYPE_CHECKING:
    from typing_extensions import Unpack

BlockKind = Literal["conv", "mlp"]
_CONV: tuple[BlockKind, int, int] = ("conv", 16, 1)
_MLP: tuple[BlockKind, int, int] = ("mlp", 16, 1)

# Kind, output channels (as a multiple of the stem's channels) and stride of each block. ReActNet-A has five blocks
# with the multiple 16. Two of them remain, and ten MLP blocks have as many multiply-accumulates as the other three.
_BCDNET_A: tuple[tuple[BlockKind, int, int], ...] = (
    ("conv", 2, 1),
    ("conv", 4, 2),
    ("conv", 4, 1),
    ("conv", 8, 2),
    ("conv", 8, 1),
    ("conv", 16, 2),
    *[_CONV] * 2,
    *[_MLP] * 10,
    ("conv", 32, 2),
    ("conv", 32, 1),
)


def shift_quarters(x: Tensor, rows: int, columns: int) -> Tensor:
    """Shifts the four quarters of the channels down, up, right and left, in this order; the shifts are circular.

    Args:
        x: [N, C, H, W], C a multiple of 4.
        rows: Pixels by which the first two quarters are shifted.
        columns: Pixels by which the last two quarters are shifted.

    Raises:
        ArgumentError: If the number of channels is not a multiple of 4.
    """
    if x.shape[1] % 4:
        raise ArgumentError(f"the channels are shifted in quarters, but there are {x.shape[1]} of them")
    down, up, right, left = x.chunk(4, 1)
    return torch.cat([down.roll(rows, 2), up.roll(-rows, 2), right.roll(columns, 3), left.roll(-columns, 3)], 1)


class DynamicShift(nn.Module):
    """Adds to each channel a number that two small float layers compute from the means of all channels.

    References:
        Xing et al., "Towards Accurate Binary Neural Networks via Modeling Contextual Dependencies" (BCDNet), ECCV 2022,
        arXiv 2209.01404; this makes the paper's version B.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(channels // reduction, 1)
        self.layers = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to the same."""
        return x + self.layers(x)


class MLPBlock(nn.Module):
    """Three binary 1x1 convolutions of the same bits: unshifted, shifted by one pixel, and shifted far.

    ``act(bn(conv(b) + conv(near(b)) + conv(far(b))) + x)``, where b are the signs of x. Each shift moves the four
    quarters of the channels in four directions (shift_quarters).

    Args:
        config: The binary layers; the published networks set ``learn_threshold``.
        channels: A multiple of 4.
        groups: Groups of the convolutions.
        far: Pixels of the long shift. None is half the image, as in the paper; the authors' code uses 3.
        dynamic: Whether the thresholds of the signs depend on the image (DynamicShift).

    Shapes:
        float32 [N, channels, H, W] to the same.

    Raises:
        ArgumentError: If the number of channels is not a multiple of 4.
    """

    def __init__(
        self,
        config: NetworkConfig,
        channels: int,
        *,
        groups: int = 1,
        far: int | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        if channels % 4:
            raise ArgumentError(f"an MLP block shifts its channels in quarters, but has {channels} of them")

        def conv() -> BinaryConv2d:
            return config.conv2d(channels, channels, 1, groups=groups)

        self.far = far
        self.shift = DynamicShift(channels) if dynamic else nn.Identity()
        self.binarize = config.binarize(channels)
        self.conv, self.conv_near, self.conv_far = conv(), conv(), conv()
        self.bn = nn.BatchNorm2d(channels)
        self.act = RPReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes the channels of each pixel with those of a neighbour and of a distant pixel."""
        bits = self.binarize(self.shift(x))
        height, width = x.shape[2:]
        far = (height // 2, width // 2) if self.far is None else (self.far, self.far)
        y = self.conv(bits) + self.conv_near(shift_quarters(bits, 1, 1)) + self.conv_far(shift_quarters(bits, *far))
        return self.act(self.bn(y) + x)


class BCDNet(nn.Module):
    """A float stem, a chain of ReActBlock and MLPBlock, and a float head.

    Args:
        config: Input, output and binary layers; the published networks set ``learn_threshold``.
        width: Output channels of the stem, which halves the image.
        blocks: For each block its kind, ``"conv"`` (ReActBlock) or ``"mlp"`` (MLPBlock), its output channels, as a
            multiple of ``width``, and its stride. An MLP block keeps the channels and has stride 1.
        groups, far, dynamic: Same as in MLPBlock.

    Attributes:
        stem, blocks, head: The parts.
        example_input_array: float32 [1, C, H, W], the input shape that an export assumes.

    Raises:
        ArgumentError: If a block cannot have its channels or its stride.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        width: int = 32,
        blocks: Sequence[tuple[BlockKind, int, int]] = _BCDNET_A,
        groups: int = 1,
        far: int | None = None,
        dynamic: bool = False,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(config.in_channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))
        channels, size = width, -(-config.image_size // 2)
        self.blocks = nn.Sequential()
        for kind, multiple, stride in blocks:
            if kind == "conv":
                self.blocks.append(ReActBlock(config, channels, multiple * width, stride, odd_size=size % 2 == 1))
            elif kind != "mlp":
                raise ArgumentError(f"a block is 'conv' or 'mlp', but got {kind!r}")
            elif (multiple * width, stride) != (channels, 1):
                raise ArgumentError(
                    f"an MLP block keeps channels and size, but has {channels} to {multiple * width} channels "
                    f"and stride {stride}"
                )
            else:
                self.blocks.append(MLPBlock(config, channels, groups=groups, far=far, dynamic=dynamic))
            channels, size = multiple * width, -(-size // stride)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, config.classes))
        self.example_input_array = config.example_input()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.head(self.blocks(self.stem(x)))


def bcdnet(
    classes: int = 1000,
    *,
    width: int = 32,
    blocks: Sequence[tuple[BlockKind, int, int]] = _BCDNET_A,
    groups: int = 1,
    far: int | None = None,
    dynamic: bool = False,
    **options: Unpack[NetworkOptions],
) -> BCDNet:
    """A network in the style of BCDNet: convolution blocks, and binary MLP blocks with shifted branches.

    The blocks are the paper's. Their number is this project's choice, so that the default has the 4.82e9 binary
    multiply-accumulates that are published for BCDNet-A. The paper averages two heads at inference; this network has
    one.

    Args:
        classes: Number of outputs.
        width, blocks, groups, far, dynamic: Same as in BCDNet.
        options: Other attributes of NetworkConfig; by default the thresholds are learned.

    Raises:
        ArgumentError: If a block cannot have its channels or its stride.

    References:
        Xing et al., "Towards Accurate Binary Neural Networks via Modeling Contextual Dependencies", ECCV 2022,
        arXiv 2209.01404.
    """
    config = NetworkConfig(classes=classes, learn_threshold=True)
    return BCDNet(replace(config, **options), width=width, blocks=blocks, groups=groups, far=far, dynamic=dynamic)
