"""Shapes of convolutions, pooling and dense layers, and the border classes of a padded convolution."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Conv2dShape:
    """A 2-D convolution (or pooling) over an NHWC feature map.

    Attributes:
        batch, height, width, in_channels: The input.
        out_channels: Output channels.
        kernel: Taps (vertical, horizontal).
        strides: (vertical, horizontal).
        padding: (top, left, bottom, right), in pixels.
        dilation: (vertical, horizontal).
        groups: Divides both channel counts.
    """

    batch: int
    height: int
    width: int
    in_channels: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out_height(self) -> int:
        """Rows of the output."""
        return (self.padded_height - self.dilation[0] * (self.kernel[0] - 1) - 1) // self.strides[0] + 1

    @property
    def out_width(self) -> int:
        """Columns of the output."""
        return (self.padded_width - self.dilation[1] * (self.kernel[1] - 1) - 1) // self.strides[1] + 1

    @property
    def padded_height(self) -> int:
        """Rows of the input with its padding."""
        return self.height + self.padding[0] + self.padding[2]

    @property
    def padded_width(self) -> int:
        """Columns of the input with its padding."""
        return self.width + self.padding[1] + self.padding[3]

    @property
    def group_in_channels(self) -> int:
        """Input channels of one group."""
        return self.in_channels // self.groups

    @property
    def group_out_channels(self) -> int:
        """Output channels of one group."""
        return self.out_channels // self.groups

    @property
    def depthwise(self) -> bool:
        """Whether each channel has its own kernel."""
        return self.groups == self.in_channels == self.out_channels > 1

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates, including those with padding."""
        taps = self.kernel[0] * self.kernel[1] * self.group_in_channels
        return self.batch * self.out_height * self.out_width * self.out_channels * taps

    def with_padding(self, padding: tuple[int, int, int, int]) -> Conv2dShape:
        """The same convolution with another padding."""
        return replace(self, padding=padding)

    def border_classes(self) -> BorderClasses:
        """Group the output pixels by the set of taps that are inside the image."""
        rows = self._valid_taps(0, self.height, self.out_height)
        cols = self._valid_taps(1, self.width, self.out_width)
        row_kinds, row_class = np.unique(rows, axis=0, return_inverse=True)
        col_kinds, col_class = np.unique(cols, axis=0, return_inverse=True)
        valid = row_kinds[:, None, :, None] & col_kinds[None, :, None, :]
        return BorderClasses(
            row_class.reshape(-1).astype(np.int32),
            col_class.reshape(-1).astype(np.int32),
            valid.reshape(-1, *self.kernel),
        )

    def _valid_taps(self, axis: int, size: int, out: int) -> np.ndarray:
        """Whether each tap of an axis is inside the image, per output row (or column): bool [out, taps]."""
        first = np.arange(out)[:, None] * self.strides[axis] - self.padding[axis]
        position = first + np.arange(self.kernel[axis]) * self.dilation[axis]
        return (position >= 0) & (position < size)


def dense_shape(batch: int, depth: int, channels: int) -> Conv2dShape:
    """The shape of a dense layer as a 1x1 convolution: one row whose pixels are the rows of the batch."""
    return Conv2dShape(1, 1, batch, depth, channels)


@dataclass(frozen=True)
class ProductShape:
    """A batch of products of two matrices, [rows, depth] and [depth, columns].

    Attributes:
        batch, rows, depth, columns: The sizes.
        transposed: Whether the right matrix is stored as [columns, depth].
    """

    batch: int
    rows: int
    depth: int
    columns: int
    transposed: bool = False

    @property
    def one(self) -> Conv2dShape:
        """One of the products, as a dense layer."""
        return dense_shape(self.rows, self.depth, self.columns)

    @property
    def macs(self) -> int:
        """Number of multiply-accumulates."""
        return self.batch * self.rows * self.depth * self.columns


@dataclass(frozen=True, eq=False)
class BorderClasses:
    """Classes of output pixels with the same taps inside the image. At most kh * kw classes matter.

    Pixel (y, x) has class ``row_class[y] * (col_class.max() + 1) + col_class[x]``.

    Attributes:
        row_class: int32 [out_height].
        col_class: int32 [out_width].
        valid: bool [classes, kh, kw], whether each tap is inside the image.
    """

    row_class: np.ndarray
    col_class: np.ndarray
    valid: np.ndarray

    @property
    def columns(self) -> int:
        """Number of column classes."""
        return int(self.col_class.max()) + 1

    @property
    def count(self) -> int:
        """Number of classes."""
        return len(self.valid)
