"""Convolutions in numpy."""

from __future__ import annotations

import itertools

import numpy as np

from sbnn_tvm.schedules.shapes import Conv2dShape


def conv2d(x: np.ndarray, w: np.ndarray, shape: Conv2dShape, pad_value: float = 0) -> np.ndarray:
    """Convolution in float64, with strides (sy, sx) and dilation (dy, dx).

    ``out[n, y, x, o] = sum over ky, kx, c of padded[n, y * sy + ky * dy, x * sx + kx * dx, c] * w[o, c, ky, kx]``

    Args:
        x: Data, [N, H, W, Cin].
        w: Weights, [OC, Cin / groups, kh, kw]; an output channel reads the input channels of its group.
        shape: Sizes, strides, dilation, padding and groups.
        pad_value: The value of the padding.
    """
    top, left, bottom, right = shape.padding
    x = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=pad_value)
    out = np.zeros((shape.batch, shape.out_height, shape.out_width, shape.out_channels))
    channels, width = shape.group_in_channels, shape.group_out_channels
    (sy, sx), (dy, dx) = shape.strides, shape.dilation
    for ky, kx, group in itertools.product(range(shape.kernel[0]), range(shape.kernel[1]), range(shape.groups)):
        rows = slice(ky * dy, ky * dy + (shape.out_height - 1) * sy + 1, sy)
        columns = slice(kx * dx, kx * dx + (shape.out_width - 1) * sx + 1, sx)
        window = x[:, rows, columns, group * channels : (group + 1) * channels]
        outs = slice(group * width, (group + 1) * width)
        out[..., outs] += window @ w[outs, :, ky, kx].T.astype(np.float64)
    return out
