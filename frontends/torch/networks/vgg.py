"""VGG: a chain of binary convolutions with max pooling, sized by arguments; the default is VGG-Small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor, nn

from sbnn_tvm.errors import ArgumentError

from .config import NetworkConfig, NetworkOptions

if TYPE_CHECKING:
    from typing_extensions import Unpack

_VGG_SMALL = ((128, 128), (256, 256), (512, 512))


class VGG(nn.Module):
    """Stages of 3x3 convolutions, then linear layers; the first and the last layer are float, or have 8 bits.

    Args:
        config: Input, output and binary layers.
        stages: Output channels of the 3x3 convolutions, stage by stage. Each stage ends with a 2x2 max pooling.
        hidden: Output features of binary linear layers before the float one.

    Attributes:
        features: ``conv -> batch norm -> [max pool] -> Binarize``, repeated.
        classifier: The linear layers.
        example_input_array: float32 [1, C, H, W], the input shape that an export assumes.

    Raises:
        ArgumentError: If the image is too small for the number of poolings, or the config has ``stream_bits``.
    """

    def __init__(
        self, config: NetworkConfig, *, stages: Sequence[Sequence[int]] = _VGG_SMALL, hidden: Sequence[int] = ()
    ) -> None:
        super().__init__()
        if config.image_size >> len(stages) < 1:
            raise ArgumentError(f"image_size={config.image_size} cannot be halved {len(stages)} times, once per stage")
        if config.stream_bits is not None:
            raise ArgumentError(f"stream_bits={config.stream_bits} is for networks with shortcuts, and VGG has none")
        features: list[nn.Module] = []
        channels, size = config.in_channels, config.image_size
        for stage in stages:
            for index, width in enumerate(stage):
                if features:
                    features += [config.binarize(channels), config.conv2d(channels, width, 3)]
                else:
                    features.append(config.multibit_conv2d(channels, width, 3, padding=1, bias=False))
                features.append(nn.BatchNorm2d(width))
                channels = width
                if index == len(stage) - 1:
                    features.append(nn.MaxPool2d(2))
            size //= 2
        classifier: list[nn.Module] = []
        inputs = channels * size * size
        for width in hidden:
            classifier += [config.binarize(inputs), config.linear(inputs, width), nn.BatchNorm1d(width)]
            inputs = width
        classifier.append(config.multibit_linear(inputs, config.classes))
        self.features, self.classifier = nn.Sequential(*features), nn.Sequential(*classifier)
        self.example_input_array = config.example_input()

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes] from images [N, C, H, W]."""
        return self.classifier(self.features(x).flatten(1))


def vgg_small(
    classes: int = 10,
    *,
    stages: Sequence[Sequence[int]] = _VGG_SMALL,
    hidden: Sequence[int] = (),
    **options: Unpack[NetworkOptions],
) -> VGG:
    """A network like VGG; the defaults give VGG-Small, which many papers on binary networks train on CIFAR-10.

    Args:
        classes: Number of outputs.
        stages, hidden: Same as in VGG.
        options: Other attributes of NetworkConfig; the default image size is 32.

    Raises:
        ArgumentError: If the image is too small for the number of poolings.

    References:
        Zhang et al., "LQ-Nets", ECCV 2018, arXiv 1807.10029 (VGG-Small).
    """
    config = NetworkConfig(classes=classes, image_size=32)
    return VGG(replace(config, **options), stages=stages, hidden=hidden)
