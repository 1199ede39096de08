"""Poolings and depthwise convolutions in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from sbnn_tvm.schedules.shapes import Conv2dShape


def windows(x: np.ndarray, shape: Conv2dShape, fill: float) -> np.ndarray:
    """Every tap of every window, ``fill`` in the padding: [N, H, W, C] to [kh * kw, N, OH, OW, C].

    A maximum pooling is ``windows(x, shape, -inf).max(0)``, a window sum ``windows(x, shape, 0).sum(0)``.
    """
    top, left, bottom, right = shape.padding
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=fill)
    (sy, sx), (dy, dx) = shape.strides, shape.dilation
    height, width = (shape.out_height - 1) * sy + 1, (shape.out_width - 1) * sx + 1
    taps = np.ndindex(*shape.kernel)
    return np.stack([x[:, ky * dy : ky * dy + height : sy, kx * dx : kx * dx + width : sx] for ky, kx in taps])


def mean(x: np.ndarray, shape: Conv2dShape, counted: tuple[int, int, int, int]) -> np.ndarray:
    """Average pooling: the sum of a window divided by the number of its counted pixels.

    Args:
        x: Data, [N, H, W, C].
        shape: Sizes of the windows and the padding, which is 0.
        counted: Rows and columns of the padding that count as pixels: top, left, bottom, right.
    """
    valid = np.zeros((1, shape.padded_height, shape.padded_width, 1))
    (top, left, _, _), (rows, columns) = shape.padding, (shape.height, shape.width)
    valid[:, top - counted[0] : top + rows + counted[2], left - counted[1] : left + columns + counted[3]] = 1
    padded = replace(shape, height=shape.padded_height, width=shape.padded_width, padding=(0, 0, 0, 0))
    return windows(x.astype(np.float64), shape, 0).sum(0) / windows(valid, padded, 0).sum(0)


def depthwise_conv2d(x: np.ndarray, weight: np.ndarray, shape: Conv2dShape) -> np.ndarray:
    """``out[n, y, x, c] = sum over taps t of windows[t, n, y, x, c] * weight[c, t]``, weights [C, 1, kh, kw]."""
    return np.einsum("tnyxc,ct->nyxc", windows(x, shape, 0), weight.reshape(shape.in_channels, -1))
