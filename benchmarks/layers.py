"""The convolutions that the benchmarks measure."""

from __future__ import annotations

from dataclasses import dataclass

from sbnn_tvm.schedules.shapes import Conv2dShape


@dataclass(frozen=True)
class Layer:
    """A convolution, repeated in a chain.

    Every second link has input and output channels swapped, so that each output fits as the next input.

    Attributes:
        name: Its name in the tables.
        shape: The first link.
        links: Number of convolutions in the chain.
        binary: Whether it is also measured as a binary layer.
    """

    name: str
    shape: Conv2dShape
    links: int = 4
    binary: bool = True

    @property
    def shapes(self) -> list[Conv2dShape]:
        """The convolutions of the chain, in order."""
        s = self.shape
        back = Conv2dShape(s.batch, s.height, s.width, s.out_channels, s.in_channels, s.kernel, s.strides, s.padding)
        return [back if i % 2 else s for i in range(self.links)]


def convolution(size: int, channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> Conv2dShape:
    """A convolution of one square image, padded so that only its stride reduces the size."""
    pad = kernel // 2
    return Conv2dShape(1, size, size, channels, out_channels, (kernel, kernel), (stride, stride), (pad, pad, pad, pad))


def square(size: int, channels: int) -> Layer:
    """A 3x3 convolution whose output has the size and the channels of its input."""
    return Layer(f"3x3 {size}x{size} {channels}", convolution(size, channels, channels))


BINARY_LAYERS = (square(56, 64), square(28, 128), square(14, 256), square(7, 512))
"""The 3x3 convolutions of a ResNet-18 for 224x224 images."""

FLOAT_LAYERS = (
    Layer("stem 7x7/2 224x224 3-64", Conv2dShape(1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)), 1, binary=False),
    Layer("1x1 56x56 64-256", Conv2dShape(1, 56, 56, 64, 256), binary=False),
    Layer("1x1 56x56 64-128", Conv2dShape(1, 56, 56, 64, 128), binary=False),
)
"""Layers of residual networks that stay float, or become int8: their stem, and 1x1 convolutions."""
