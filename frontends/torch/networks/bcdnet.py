"""BCDNet: the early blocks of ReActNet, then blocks of binary 1x1 convolutions that gather context by shifted maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from sbnn_tvm.errors import ArgumentError

from ..layers.affine_quantizers import WeightQuantizer
from ..layers.modules import RPReLU
from ..layers.quantized import EightBit, quantized_product
from .config import BI_REAL_SIGNS, NetworkConfig, NetworkOptions
from .reactnet import ReActBlock

if TYPE_CHECKING:
    from typing_extensions import Unpack

BlockKind = Literal["conv", "shift", "point"]
Block = tuple[BlockKind, int, int]
"""Kind, output channels (as a multiple of the stem's channels) and stride of a block."""

_MLP: tuple[Block, ...] = (("shift", 32, 1), ("shift", 32, 1), ("shift", 32, 1), ("point", 32, 1))
_BCDNET_A: tuple[Block, ...] = (
    ("conv", 2, 1),
    ("conv", 4, 2),
    ("conv", 4, 1),
    ("conv", 8, 2),
    ("conv", 8, 1),
    ("conv", 16, 2),
    ("conv", 16, 1),
    ("conv", 16, 1),
    ("conv", 16, 1),
    ("conv", 32, 2),
    *_MLP * 3,
)

_REDUCTION = 4


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


class Context(nn.Module):
    """Thresholds of a binarisation and terms to add to the convolutions after it, from the means of all channels.

    ``z = W1 mean(x)``, thresholds ``W2 z``, terms ``W3 z`` of each convolution; z has a quarter of the channels.

    Args:
        channels: Channels of x, which is binarised with the thresholds, and of each convolution's output.
        convolutions: Number of the convolutions that read the bits.
    """

    def __init__(self, channels: int, convolutions: int) -> None:
        super().__init__()
        hidden = max(channels // _REDUCTION, 1)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.threshold = nn.Conv2d(hidden, channels, 1, bias=False)
        self.terms = nn.ModuleList(nn.Conv2d(hidden, channels, 1, bias=False) for _ in range(convolutions))

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """[N, C, H, W] to the thresholds and the terms, each [N, C, 1, 1]."""
        z = self.reduce(functional.adaptive_avg_pool2d(x, 1))
        return self.threshold(z), [term(z) for term in self.terms]


class DynamicBlock(ReActBlock):
    """A ReActBlock whose thresholds depend on the image: the convolution blocks of BCDNet-B.

    Each of its two steps is ``act(bn(conv(sign(x - threshold)) + term) + shortcut(x))`` with a Context, where the
    learned thresholds of ReActBlock are added to the computed ones. The authors have published the figure of this block
    but not its code. In the figure the maps W1, W2 and W3 are linear, without bias. The quarter of the channels is
    derived: with it the float multiply-accumulates are the published 0.14e8, 0.02e8 more than without.
    """

    def __init__(
        self, config: NetworkConfig, in_channels: int, out_channels: int, stride: int, *, odd_size: bool
    ) -> None:
        super().__init__(config, in_channels, out_channels, stride, odd_size=odd_size)
        self.context_3x3 = Context(in_channels, 1)
        self.context_1x1 = Context(in_channels, len(self.convs_1x1))

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H / stride, W / stride]."""
        threshold, (term,) = self.context_3x3(x)
        conv, norm = self.conv_3x3
        x = self.stream_3x3(self.act_3x3(norm(conv(self.binarize_3x3(x - threshold)) + term) + self.pool(x)))
        threshold, terms = self.context_1x1(x)
        bits = self.binarize_1x1(x - threshold)
        halves = []
        for half, term in zip(self.convs_1x1, terms, strict=True):
            assert isinstance(half, nn.Sequential)
            halves.append(half[1](half[0](bits) + term) + x)
        return self.stream_1x1(self.act_1x1(halves[0] if len(halves) == 1 else torch.cat(halves, 1)))


class MLPBlock(nn.Module):
    """Binary 1x1 convolutions of the same bits, each shifted by another distance.

    ``act(bn(conv_0(shift(b, d_0)) + conv_1(shift(b, d_1)) + ...) + x)``, where b are the signs of x. A shift moves the
    four quarters of the channels in four directions (shift_quarters).

    Args:
        config: The binary layers; the published networks set ``learn_threshold``.
        channels: A multiple of 4 if there are shifts.
        distances: Pixels of each shift; 0 does not shift, None is half the image, rounded down.

    Shapes:
        float32 [N, channels, H, W] to the same.

    Raises:
        ArgumentError: If there are shifts, and the number of channels is not a multiple of 4.
    """

    def __init__(self, config: NetworkConfig, channels: int, distances: Sequence[int | None]) -> None:
        super().__init__()
        if channels % 4 and any(distance != 0 for distance in distances):
            raise ArgumentError(f"an MLP block shifts its channels in quarters, but has {channels} of them")
        self.distances = tuple(distances)
        self.binarize = config.binarize(channels)
        self.convs = nn.ModuleList(config.conv2d(channels, channels, 1) for _ in self.distances)
        self.bn = nn.BatchNorm2d(channels)
        self.act = RPReLU(channels)
        self.stream = config.stream()

    def forward(self, x: Tensor) -> Tensor:
        """Mixes the channels of each pixel with those of its neighbours and of distant pixels."""
        bits = self.binarize(x)
        height, width = x.shape[2:]
        maps = []
        for conv, distance in zip(self.convs, self.distances, strict=True):
            rows, columns = (height // 2, width // 2) if distance is None else (distance, distance)
            maps.append(conv(shift_quarters(bits, rows, columns) if distance != 0 else bits))
        return self.stream(self.act(self.bn(reduce(torch.add, maps)) + x))


class TwoHeads(nn.Linear):
    """A classifier that learns the labels (this layer), and one that learns a teacher's scores (``teacher``).

    Args:
        features, classes: Same as in nn.Linear.
        separate: Whether forward returns the scores of both in training mode, to train each with a loss of its own.
        eight_bit: Input and weights have 8 bits; None leaves them float.

    Shapes:
        float32 [N, features] to [N, classes], or to two of these. In eval mode, or without ``separate``, the result is
        the mean of both, computed with the mean of their weights: a deployed network holds one classifier.
    """

    def __init__(self, features: int, classes: int, *, separate: bool, eight_bit: EightBit | None = None) -> None:
        super().__init__(features, classes)
        self.teacher = nn.Linear(features, classes)
        self.separate, self.has_eight_bits = separate, eight_bit is not None
        if eight_bit is not None:
            self.quantize = eight_bit.quantizer()
            self.weight_quantizer = WeightQuantizer(self.weight, eight_bit.weights == "learned")

    def forward(self, input: Tensor) -> Tensor | tuple[Tensor, Tensor]:  # type: ignore[override]
        """The scores."""
        if self.training and self.separate:
            return self._scores(input, self.weight, self.bias), self._scores(
                input, self.teacher.weight, self.teacher.bias
            )
        return self._scores(input, (self.weight + self.teacher.weight) / 2, (self.bias + self.teacher.bias) / 2)

    def _scores(self, input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if self.has_eight_bits:
            return quantized_product(self, input, weight, bias, functional.linear)
        return functional.linear(input, weight, bias)


class BCDNet(nn.Module):
    """A stem, a chain of convolution and MLP blocks, and a head with two classifiers.

    Stem and head are float, or have 8 bits (NetworkConfig). The convolutions of Context are float: they read means.

    Args:
        config: Input, output and binary layers; the published networks set ``learn_threshold``.
        width: Output channels of the stem, which halves the image.
        blocks: For each block its kind, its output channels, as a multiple of ``width``, and its stride. ``"conv"`` is
            a ReActBlock, or a DynamicBlock with ``dynamic``. ``"shift"`` is an MLPBlock with shifts by 0, 1 and ``far``
            pixels, ``"point"`` one without shifts; both keep the channels and have stride 1.
        far: Pixels of the long shift. The authors' code uses 3. None is half the image, as in the paper's formula; at
            the 7x7 pixels of the published network this is 3 as well.
        dynamic: Whether the thresholds of the convolution blocks depend on the image: the paper's version B.
        separate_heads: Same as in TwoHeads.

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
        blocks: Sequence[Block] = _BCDNET_A,
        far: int | None = 3,
        dynamic: bool = False,
        separate_heads: bool = False,
    ) -> None:
        super().__init__()
        stem = config.multibit_conv2d(config.in_channels, width, 3, 2, 1, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), config.stream())
        convolutions = DynamicBlock if dynamic else ReActBlock
        distances: dict[str, tuple[int | None, ...]] = {"shift": (0, 1, far), "point": (0,)}
        channels, size = width, -(-config.image_size // 2)
        self.blocks = nn.Sequential()
        for kind, multiple, stride in blocks:
            if kind == "conv":
                self.blocks.append(convolutions(config, channels, multiple * width, stride, odd_size=size % 2 == 1))
            elif kind not in distances:
                raise ArgumentError(f"a block is 'conv', 'shift' or 'point', but got {kind!r}")
            elif (multiple * width, stride) != (channels, 1):
                raise ArgumentError(
                    f"an MLP block keeps channels and size, but has {channels} to {multiple * width} channels "
                    f"and stride {stride}"
                )
            else:
                self.blocks.append(MLPBlock(config, channels, distances[kind]))
            channels, size = multiple * width, -(-size // stride)
        classifiers = TwoHeads(channels, config.classes, separate=separate_heads, eight_bit=config.eight_bit)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), classifiers)
        self.example_input_array = config.example_input()

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits [N, classes] from images [N, C, H, W]; two of them in training mode with ``separate_heads``."""
        return self.head(self.blocks(self.stem(x)))


def bcdnet(
    classes: int = 1000,
    *,
    width: int = 32,
    blocks: Sequence[Block] = _BCDNET_A,
    far: int | None = 3,
    dynamic: bool = False,
    separate_heads: bool = False,
    **options: Unpack[NetworkOptions],
) -> BCDNet:
    """A network in the style of BCDNet; the defaults give BCDNet-A for ImageNet, ``dynamic=True`` gives BCDNet-B.

    BCDNet-A is the authors' code (github.com/Sense-GVT/BCDNet): ten convolution blocks, then three times three MLP
    blocks with shifts and one without, at 1024 channels and 7x7 pixels. DynamicBlock says what is known of version B.

    The authors train with ``separate_heads=True`` and the loss ``(cross_entropy(first, labels) + distillation(second,
    teacher's scores)) / 2``. Without it an ordinary training loop trains the mean.

    Args:
        classes: Number of outputs.
        width, blocks, far, dynamic, separate_heads: Same as in BCDNet.
        options: Other attributes of NetworkConfig; by default the thresholds are learned, and the domain is
            BI_REAL_SIGNS.

    Raises:
        ArgumentError: If a block cannot have its channels or its stride.

    References:
        Xing et al., "Towards Accurate Binary Neural Networks via Modeling Contextual Dependencies", ECCV 2022,
        arXiv 2209.01404.
    """
    config = NetworkConfig(classes=classes, domain=BI_REAL_SIGNS, learn_threshold=True)
    return BCDNet(
        replace(config, **options),
        width=width,
        blocks=blocks,
        far=far,
        dynamic=dynamic,
        separate_heads=separate_heads,
    )
