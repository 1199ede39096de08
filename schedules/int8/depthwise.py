"""Depthwise convolutions of bytes: lanes are channels, by the template of windows/template.py."""

from __future__ import annotations

import numpy as np
from tvm import tirx

from ..epilogue.program import Number, Program
from ..isa import IntegerProducts, Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape
from ..tir.vectors import VectorType
from ..windows.template import WindowOperation, WindowTile, window_kernel, window_tiles
from .conv2d import checked
from .products import instruction_of_pairs, sum_of_pairs

_WIDENED = 8
"""Numbers of 16 bits in a vector of NEON. smlal and smlal2 multiply one half each, and add to 32 bits."""


def int8_depthwise_conv2d(
    shape: Conv2dShape,
    weight: np.ndarray,
    zero_point: int | Number,
    epilogue: Program,
    isa: Isa,
    *,
    data_dtype: str,
    bias: np.ndarray | None = None,
    tile: WindowTile | None = None,
) -> Kernel:
    """Convolve each channel of bytes with its own kernel; outside the image is the zero point, which stands for 0.

    Args:
        shape: Shape of the layer, with ``groups == in_channels == out_channels``.
        weight: Integers from -255 to 255, [C, 1, kh, kw].
        zero_point, epilogue, isa, data_dtype, bias: As in ``conv2d.int8_conv2d``.
        tile: One of depthwise_tiles(shape, isa, epilogue.packed); by default the first.

    Returns:
        ``func(data [N, H, W, C], *tensors, *constants, *outputs)``.

    Raises:
        ValueError: If ``weight``, ``zero_point``, ``data_dtype``, ``bias``, ``tile`` or the epilogue do not fit.
    """
    if not shape.groups == shape.in_channels == shape.out_channels:
        raise ValueError(
            f"a depthwise convolution has as many groups and output channels as input channels, but this one has"
            f" {shape.in_channels} inputs, {shape.out_channels} outputs and {shape.groups} groups"
        )
    expected = (shape.out_channels, 1, *shape.kernel)
    if weight.shape != expected:
        raise ValueError(f"the weight of this depthwise convolution is {weight.shape}, not {expected}")
    weight, bias = checked(weight, zero_point, data_dtype, bias)
    taps = weight[:, 0].transpose(1, 2, 0).astype(np.int32)
    pairs = isa.products in (IntegerProducts.PAIRS, IntegerProducts.QUADS)
    vector = VectorType("int32", isa.float_lanes)
    if pairs:
        taps &= 0xFFFF  # pairs whose second weight is 0: a product of 16 bits is faster than one of 32

    widens = _widens(isa)
    if widens:
        taps = taps.astype(np.int16)

    known = zero_point if isinstance(zero_point, int) else 0

    def widening_multiply_add(accumulator: tirx.Expr, value: tirx.Expr, weight: tirx.Expr | None) -> tirx.Expr:
        wide = VectorType.of(value)
        half = VectorType("int16", wide.lanes)
        value = half.cast(value) - half.constant(known)
        return accumulator + wide.cast(value) * wide.cast(weight)

    def multiply_add(accumulator: tirx.Expr, value: tirx.Expr, weight: tirx.Expr | None) -> tirx.Expr:
        if known:
            value = value - vector.constant(known)
        product = sum_of_pairs(vector.lanes, isa.architecture)(value, weight) if pairs else value * weight
        return accumulator + product

    operation = WindowOperation(
        "int8_depthwise_conv2d",
        bias.astype(np.int32),
        widening_multiply_add if widens else multiply_add,
        weights=taps,
        data=data_dtype,
        accumulator="int32",
        lanes=_WIDENED if widens else None,
        instruction="smlal" if widens else instruction_of_pairs(vector.lanes, isa.architecture) if pairs else "mul",
        subtracted=None if isinstance(zero_point, int) else zero_point,
    )
    return window_kernel(operation, shape, epilogue, isa, tile or depthwise_tiles(shape, isa, epilogue.packed)[0])


def depthwise_tiles(shape: Conv2dShape, isa: Isa, packed: bool) -> list[WindowTile]:
    """All tiles worth measuring, the default first.

    Args:
        shape: Shape of the layer.
        isa: The instruction set.
        packed: Whether an output is packed.
    """
    return window_tiles(shape, isa, packed or _widens(isa))


def _widens(isa: Isa) -> bool:
    """Whether bytes are extended to 16 bits, eight channels at once, and multiplied to 32 bits."""
    return isa.products in (IntegerProducts.BYTES, IntegerProducts.LANES, IntegerProducts.MATRICES)
