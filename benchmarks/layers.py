"""The convolutions that the benchmarks measure."""

from __future__ import annotations

from dataclasses import dataclass

from sbnn_tvm.schedules.shapes import Conv2dShape


@dataclass(frozen=True)
class Layer:
    """A convolution, and how often it is chained; every second link goes back to the first's input.

    Attributes:
        name: Shown in the tables.
        shape: The first link.
        links: Links of the chain.
        binary: Whether it is measured with bits too.
    """

    name: str
    shape: Conv2dShape
    links: int = 4
    binary: bool = True

    @property
    def shapes(self) -> list[Conv2dShape]:
        """The links."""
        s = self.shape
        back = Conv2dShape(s.batch, s.height, s.width, s.out_channels, s.in_channels, s.kernel, s.strides, s.padding)
        return [back if i % 2 else s for i in range(self.links)]


def square(size: int, channels: int) -> Layer:
    """A 3x3 convolution that changes neither size nor channels."""
    shape = Conv2dShape(1, size, size, channels, channels, (3, 3), (1, 1), (1, 1, 1, 1))
    return Layer(f"3x3 {size}x{size} {channels}", shape)


BINARY_LAYERS = (square(56, 64), square(28, 128), square(14, 256), square(7, 512))
"""The 3x3 convolutions of a ResNet-18 at 224x224."""

FLOAT_LAYERS = (
    Layer("stem 7x7/2 224x224 3-64", Conv2dShape(1, 224, 224, 3, 64, (7, 7), (2, 2), (3, 3, 3, 3)), 1, binary=False),
    Layer("1x1 56x56 64-128", Conv2dShape(1, 56, 56, 64, 128), binary=False),
)
"""Those of its layers that stay float."""
