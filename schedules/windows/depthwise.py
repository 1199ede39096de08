"""Depthwise convolution: each channel is convolved with its own kernel."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from ..epilogue.program import Program
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape
from .template import WindowOperation, WindowTile, window_kernel


def depthwise_conv2d(
    shape: Conv2dShape, weight: np.ndarray, epilogue: Program, isa: Isa, tile: WindowTile | None = None
) -> Kernel:
    """Convolve each channel with its own kernel.

    Args:
        shape: Shape of the layer, with ``groups == in_channels == out_channels``.
        weight: float32 [C, 1, kh, kw].
        epilogue: Ref(0) is the convolution without bias.
        isa: The instruction set.
        tile: One of ``template.window_tiles(shape, isa, epilogue.packed)``; by default the first.

    Returns:
        ``func(data float32 [N, H, W, C], *tensors, weights, *constants, *outputs)``.

    Raises:
        ValueError: If the groups, the output channels or the shape of the weight differ from the above.
    """
    if not shape.groups == shape.in_channels == shape.out_channels:
        raise ValueError(
            f"a depthwise convolution has as many groups and output channels as input channels, but this one has"
            f" {shape.in_channels} inputs, {shape.out_channels} outputs and {shape.groups} groups; use the direct"
            f" convolution"
        )
    expected = (shape.out_channels, 1, *shape.kernel)
    if weight.shape != expected:
        raise ValueError(f"the weight of this depthwise convolution is {weight.shape}, not {expected}")

    def multiply_add(accumulator: tirx.Expr, value: tirx.Expr, weight: tirx.Expr | None) -> tirx.Expr:
        return accumulator + value * weight

    taps = np.asarray(weight, np.float32)[:, 0].transpose(1, 2, 0)
    operation = WindowOperation("depthwise_conv2d", 0.0, multiply_add, weights=taps)
    return window_kernel(operation, shape, epilogue, isa, tile)
