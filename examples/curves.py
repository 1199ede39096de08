"""A network for curves, such as those of MNIST-1D: a curve is an image of one row."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, ScaledSigns, WeightDomain


class Block(nn.Module):
    """x -> PReLU(x + norm(1x3 binary convolution(x)))."""

    def __init__(self, channels: int, domain: WeightDomain, weight_estimator: str) -> None:
        super().__init__()
        self.conv = BinaryConv2d(
            *(channels, channels, (1, 3)),
            padding=(0, 1),
            domain=domain,
            estimator=weight_estimator,
            binarize=Binarize(channels, learned=True),
        )
        self.norm = nn.BatchNorm2d(channels)
        self.activation = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, of the shape of x."""
        return self.activation(x + self.norm(self.conv(x)))


def curve_network(
    width: int = 64,
    *,
    classes: int = 10,
    in_channels: int = 1,
    image_size: int = 40,
    domain: WeightDomain = ScaledSigns(),  # noqa: B008 (frozen)
    weight_estimator: str = "clip",
) -> nn.Sequential:
    """A float stem on every second point, three pairs of blocks with poolings between them, a float head.

    Args:
        width: Channels of the blocks.
        classes: Number of outputs.
        in_channels, image_size: Of the curves, [N, in_channels, 1, image_size]; at least 8 points.
        domain, weight_estimator: Of the binary layers.
    """

    def blocks() -> list[nn.Module]:
        return [Block(width, domain, weight_estimator) for _ in range(2)]

    stem = nn.Conv2d(in_channels, width, (1, 5), (1, 2), (0, 2), bias=False)
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(stem, nn.BatchNorm2d(width)),
            body1=nn.Sequential(*blocks(), nn.MaxPool2d((1, 2))),
            body2=nn.Sequential(*blocks(), nn.MaxPool2d((1, 2))),
            body3=nn.Sequential(*blocks(), nn.Flatten()),
            head=nn.Linear((image_size + 1) // 8 * width, classes),
        )
    )
    model.example_input_array = torch.zeros(1, in_channels, 1, image_size)
    return model
