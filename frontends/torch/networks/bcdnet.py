"""BCDNet: ReActNet whose later blocks see their context through shifted 1x1 convolutions, not through 3x3 ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..layers.domains import ScaledSigns, WeightDomain
from ..layers.estimators import Estimator
from ..layers.modules import Binarize, BinaryConv2d, RPReLU
from .reactnet import ReActBlock

Kind = Literal["conv", "mlp"]
_CONV: tuple[Kind, int, int] = ("conv", 16, 1)
_MLP: tuple[Kind, int, int] = ("mlp", 16, 1)

# Kind, output channels in units of the stem's, and stride of each block. Of ReActNet-A's five blocks of 16 units, two
# are kept, and ten MLP blocks have as many multiply-accumulates as the other three.
_BLOCKS: tuple[tuple[Kind, int, int], ...] = (
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
    """Moves a quarter of the channels down, one up, one right and one left; what leaves the image enters opposite.

    Args:
        x: [N, C, H, W], C a multiple of 4.
        rows, columns: How far, in pixels.

    Raises:
        ValueError: If the channels do not divide into quarters.
    """
    if x.shape[1] % 4:
        raise ValueError(f"the channels are shifted in quarters, but there are {x.shape[1]} of them")
    down, up, right, left = x.chunk(4, 1)
    return torch.cat([down.roll(rows, 2), up.roll(-rows, 2), right.roll(columns, 3), left.roll(-columns, 3)], 1)


class DynamicShift(nn.Module):
    """Moves each channel by what two small float layers make of the means of all channels.

    References:
        Xing et al., "Towards Accurate Binary Neural Networks via Modeling Contextual Dependencies" (BCDNet), ECCV 2022,
        arXiv 2209.01404, of which it makes version B.
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
    """Three binary 1x1 convolutions of the same bits: in place, shifted by a pixel, and shifted far.

    ``act(bn(conv(b) + conv(near(b)) + conv(far(b))) + x)``, where b are the signs of x, and each shift moves four
    quarters of the channels into four directions (shift_quarters).

    Args:
        channels: A multiple of 4.
        groups: Of the convolutions.
        far: Pixels of the long shift; None is half the image, as in the paper (the authors' code has 3).
        dynamic: Whether the thresholds of the signs depend on the image (DynamicShift).
        domain, estimator, weight_estimator: As of bcdnet.

    Shapes:
        float32 [N, channels, H, W] to the same.

    Raises:
        ValueError: If the channels do not divide into quarters.
    """

    def __init__(
        self,
        channels: int,
        *,
        groups: int = 1,
        far: int | None = None,
        dynamic: bool = False,
        domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
        estimator: str | Estimator = "polynomial",
        weight_estimator: str | Estimator = "clip",
    ) -> None:
        super().__init__()
        if channels % 4:
            raise ValueError(f"an MLP block shifts its channels in quarters, but has {channels} of them")

        def conv() -> BinaryConv2d:
            return BinaryConv2d(channels, channels, 1, groups=groups, domain=domain, estimator=weight_estimator)

        self.far = far
        self.shift = DynamicShift(channels) if dynamic else nn.Identity()
        self.binarize = Binarize(channels, learned=True, estimator=estimator)
        self.conv, self.conv_near, self.conv_far = conv(), conv(), conv()
        self.bn = nn.BatchNorm2d(channels)
        self.act = RPReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """Mixes the channels of each pixel with those of its neighbours and of a distant one."""
        bits = self.binarize(self.shift(x))
        height, width = x.shape[2:]
        far = (height // 2, width // 2) if self.far is None else (self.far, self.far)
        y = self.conv(bits) + self.conv_near(shift_quarters(bits, 1, 1)) + self.conv_far(shift_quarters(bits, *far))
        return self.act(self.bn(y) + x)


class BCDNet(nn.Module):
    """A float stem, ReActBlocks and MLPBlocks, a float head; see bcdnet.

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


def bcdnet(
    classes: int = 1000,
    *,
    in_channels: int = 3,
    image_size: int = 224,
    width: int = 32,
    blocks: Sequence[tuple[Kind, int, int]] = _BLOCKS,
    groups: int = 1,
    far: int | None = None,
    dynamic: bool = False,
    domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
    estimator: str | Estimator = "polynomial",
    weight_estimator: str | Estimator = "clip",
) -> BCDNet:
    """A network in the style of BCDNet: blocks of convolutions, and binary MLPs with shifted branches.

    The blocks are the paper's; their number is ours, chosen so that the default has the 4.82e9 binary
    multiply-accumulates that are published for BCDNet-A. Its two heads, averaged at inference, are one here.

    Args:
        classes: Outputs.
        in_channels, image_size: Of the (square) input.
        width: Channels of the stem, which halves the image.
        blocks: Of each block: ``"conv"`` (ReActBlock) or ``"mlp"`` (MLPBlock), its output channels as a multiple of
            ``width``, and its stride. An MLP block keeps both.
        groups, far, dynamic: Of the MLP blocks.
        domain: The two weight values.
        estimator, weight_estimator: The gradients of activations and of weights.

    Raises:
        ValueError: If a block cannot have its channels or its stride.

    References:
        Xing et al., "Towards Accurate Binary Neural Networks via Modeling Contextual Dependencies", ECCV 2022,
        arXiv 2209.01404.
    """
    stem = nn.Sequential(nn.Conv2d(in_channels, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width))
    channels, size = width, -(-image_size // 2)
    body = nn.Sequential()
    for kind, multiple, stride in blocks:
        if kind == "conv":
            body.append(
                ReActBlock(
                    channels,
                    multiple * width,
                    stride,
                    odd_size=size % 2 == 1,
                    domain=domain,
                    estimator=estimator,
                    weight_estimator=weight_estimator,
                )
            )
        elif kind != "mlp":
            raise ValueError(f"a block is 'conv' or 'mlp', but got {kind!r}")
        elif (multiple * width, stride) != (channels, 1):
            raise ValueError(
                f"an MLP block keeps channels and size, but has {channels} to {multiple * width} channels "
                f"and stride {stride}"
            )
        else:
            body.append(
                MLPBlock(
                    channels,
                    groups=groups,
                    far=far,
                    dynamic=dynamic,
                    domain=domain,
                    estimator=estimator,
                    weight_estimator=weight_estimator,
                )
            )
        channels, size = multiple * width, -(-size // stride)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return BCDNet(stem, body, head, torch.zeros(1, in_channels, image_size, image_size))
