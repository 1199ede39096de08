"""Two families of binary networks, sized by arguments: a float stem, a binary body, a float head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ..layers.domains import ScaledSigns, WeightDomain
from ..layers.estimators import Estimator
from ..layers.modules import Binarize, BinaryConv2d, BinaryLinear


class VGG(nn.Module):
    """Stages of binary convolutions; see vgg_small.

    Attributes:
        features: ``conv -> batch norm -> [max pool] -> Binarize``, repeated; the first convolution is float.
        classifier: Binary linear layers, and a float one.
        example_input_array: float32 [1, C, H, W], the shape that an export assumes.
    """

    def __init__(self, features: nn.Sequential, classifier: nn.Sequential, example: Tensor) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier
        self.example_input_array = example

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.classifier(self.features(x).flatten(1))


def vgg_small(
    classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    stages: Sequence[Sequence[int]] = ((128, 128), (256, 256), (512, 512)),
    hidden: Sequence[int] = (),
    domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
    estimator: str | Estimator = "polynomial",
    weight_estimator: str | Estimator = "clip",
    learn_threshold: bool = False,
) -> VGG:
    """A VGG-like network; the defaults are VGG-Small, as many binary networks use it on CIFAR-10.

    Args:
        classes: Outputs.
        in_channels, image_size: Of the (square) input.
        stages: Output channels of the 3x3 convolutions, stage by stage; a stage ends with a 2x2 max pooling.
        hidden: Features of binary linear layers before the float one.
        domain: The two weight values.
        estimator, weight_estimator: The gradients of activations and of weights.
        learn_threshold: Whether the thresholds are learned, one per channel.

    Raises:
        ValueError: If the image is too small for that many poolings.

    References:
        Zhang et al., "LQ-Nets", ECCV 2018, arXiv 1807.10029 (VGG-Small).
    """
    if image_size >> len(stages) < 1:
        raise ValueError(f"image_size={image_size} cannot be halved {len(stages)} times, once a stage")

    def activation(channels: int) -> Binarize:
        return Binarize(channels if learn_threshold else None, learned=learn_threshold, estimator=estimator)

    features: list[nn.Module] = []
    channels, size = in_channels, image_size
    for stage in stages:
        for index, width in enumerate(stage):
            if features:
                features += [
                    activation(channels),
                    BinaryConv2d(channels, width, 3, padding=1, domain=domain, estimator=weight_estimator),
                ]
            else:
                features.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            features.append(nn.BatchNorm2d(width))
            channels = width
            if index == len(stage) - 1:
                features.append(nn.MaxPool2d(2))
        size //= 2
    classifier: list[nn.Module] = []
    inputs = channels * size * size
    for width in hidden:
        classifier += [
            activation(inputs),
            BinaryLinear(inputs, width, domain=domain, estimator=weight_estimator),
            nn.BatchNorm1d(width),
        ]
        inputs = width
    classifier.append(nn.Linear(inputs, classes))
    example = torch.zeros(1, in_channels, image_size, image_size)
    return VGG(nn.Sequential(*features), nn.Sequential(*classifier), example)


class ResidualBlock(nn.Module):
    """One binary 3x3 convolution with a shortcut around it: ``act(bn(conv(binarize(x))) + shortcut(x))``.

    The shortcut is the identity, or average pooling, a float 1x1 convolution and a batch norm.

    References:
        Liu et al., "Bi-Real Net", ECCV 2018, arXiv 1808.00278.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        *,
        odd_size: bool,
        binarize: Binarize,
        domain: WeightDomain,
        weight_estimator: str | Estimator,
        prelu: bool,
    ) -> None:
        super().__init__()
        self.binarize = binarize
        self.conv = BinaryConv2d(
            in_channels, out_channels, 3, stride, padding=1, domain=domain, estimator=weight_estimator
        )
        self.bn = nn.BatchNorm2d(out_channels)
        self.shortcut = nn.Sequential()
        if stride != 1:
            self.shortcut.append(nn.AvgPool2d(stride, ceil_mode=odd_size, count_include_pad=False))
        if stride != 1 or in_channels != out_channels:
            self.shortcut.append(nn.Conv2d(in_channels, out_channels, 1, bias=False))
            self.shortcut.append(nn.BatchNorm2d(out_channels))
        self.act = nn.PReLU(out_channels) if prelu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """[N, in, H, W] to [N, out, H / stride, W / stride]."""
        return self.act(self.bn(self.conv(self.binarize(x))) + self.shortcut(x))


class ResNet(nn.Module):
    """A float stem, stages of ResidualBlock, a float head; see resnet.

    Attributes:
        stem, layers, head: The parts; ``layers[stage][block]``.
        example_input_array: float32 [1, C, H, W], the shape that an export assumes.
    """

    def __init__(self, stem: nn.Sequential, layers: nn.Sequential, head: nn.Sequential, example: Tensor) -> None:
        super().__init__()
        self.stem, self.layers, self.head = stem, layers, head
        self.example_input_array = example

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.head(self.layers(self.stem(x)))


def resnet(
    classes: int = 10,
    *,
    in_channels: int = 3,
    image_size: int = 32,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (4, 4, 4, 4),
    stem: Literal["small", "imagenet"] = "small",
    prelu: bool = False,
    domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
    estimator: str | Estimator = "polynomial",
    weight_estimator: str | Estimator = "clip",
    learn_threshold: bool = False,
) -> ResNet:
    """A residual network in the style of Bi-Real Net, with a shortcut around every binary convolution.

    Args:
        classes: Outputs.
        in_channels, image_size: Of the (square) input.
        widths: Channels of each stage; all but the first stage halve the image.
        blocks: Binary convolutions of each stage (twice the usual count of two-convolution blocks).
        stem: ``"small"`` is a 3x3 convolution; ``"imagenet"`` a 7x7 one with stride 2, and a 3x3 max pooling.
        prelu: Whether a PReLU follows each addition.
        domain: The two weight values.
        estimator, weight_estimator: The gradients of activations and of weights.
        learn_threshold: Whether the thresholds are learned, one per channel (RSign).

    Raises:
        ValueError: If widths and blocks differ in length, or the stem is unknown.
    """
    if len(widths) != len(blocks) or not widths:
        raise ValueError(f"widths and blocks are one number a stage, but got {len(widths)} and {len(blocks)} of them")
    if stem not in ("small", "imagenet"):
        raise ValueError(f"stem is 'small' or 'imagenet', but got {stem!r}")
    channels, size = widths[0], image_size
    if stem == "small":
        head_of = [nn.Conv2d(in_channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]
    else:
        head_of = [nn.Conv2d(in_channels, channels, 7, 2, padding=3, bias=False), nn.BatchNorm2d(channels)]
        head_of.append(nn.MaxPool2d(3, 2, padding=1))
        size = -(-size // 4)
    layers = nn.Sequential()
    for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
        layer = nn.Sequential()
        for index in range(count):
            stride = 2 if stage and not index else 1
            binarize = Binarize(channels if learn_threshold else None, learned=learn_threshold, estimator=estimator)
            layer.append(
                ResidualBlock(
                    channels,
                    width,
                    stride,
                    odd_size=size % 2 == 1,
                    binarize=binarize,
                    domain=domain,
                    weight_estimator=weight_estimator,
                    prelu=prelu,
                )
            )
            channels, size = width, -(-size // stride)
        layers.append(layer)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
    return ResNet(nn.Sequential(*head_of), layers, head, torch.zeros(1, in_channels, image_size, image_size))


def resnet18(
    classes: int = 1000,
    *,
    image_size: int = 224,
    prelu: bool = False,
    domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
    estimator: str | Estimator = "polynomial",
    weight_estimator: str | Estimator = "clip",
    learn_threshold: bool = False,
) -> ResNet:
    """Bi-Real Net 18 for ImageNet: sixteen binary 3x3 convolutions with 10,985,472 binary weights.

    Args:
        classes, image_size, prelu, domain, estimator, weight_estimator, learn_threshold: As of resnet.
    """
    return resnet(
        classes,
        image_size=image_size,
        stem="imagenet",
        prelu=prelu,
        domain=domain,
        estimator=estimator,
        weight_estimator=weight_estimator,
        learn_threshold=learn_threshold,
    )
