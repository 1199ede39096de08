"""Convolutions as kernels, on packed bits and on float32: the kernels that loop_nest.py generates for a layer."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain

from ..epilogue.program import Epilogue, Program
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape
from .float32 import direct_float
from .popcount import direct_popcount
from .tiles import Tile


def popcount_conv2d(
    shape: Conv2dShape,
    signs: np.ndarray,
    pad_value: int,
    epilogue: Epilogue,
    isa: Isa,
    *,
    tile: Tile | None = None,
    bits: int = 1,
    weight_domain: BinaryDomain = SIGN,
) -> Kernel:
    """A convolution of {-1, +1} activations, or of the odd numbers of n-bit codes, with {-1, +1} or {0, 1} weights.

    The kernel's data is packed along channels, [N, H, W, groups * isa.words(Cin / groups)] of ``isa.word``: the
    channels of every group start at their own word. Bit 1 is +1. Codes q stand for the numbers 2 * q - (2^n - 1), and
    have a plane for each of their digits, [N, n, H, W, ...].

    Args:
        shape: The layer.
        signs: bool [OC, Cin / groups, kh, kw], True for +1.
        pad_value: What lies outside of the image: 0 adds nothing to the sum; others are activations like any other.
        epilogue: Its Ref(0) is the sum of products, an integer, as float32: exact for windows below 2^24 taps.
        isa: What to generate code for.
        tile: One of tiles.tiles(shape, isa, "popcount"); by default the first.
        bits: n.
        weight_domain: The values of the weights: domain.SIGN, or domain.BIT, where ``signs`` are the weights of 1, the
            others 0.

    Raises:
        ValueError: If ``signs``, ``pad_value``, ``tile`` or the epilogue's constants do not fit the layer.
    """
    expected = (shape.out_channels, shape.group_in_channels, *shape.kernel)
    if signs.shape != expected:
        raise ValueError(
            f"the signs of a binary convolution are {signs.shape}, not (OC, Cin / groups, kh, kw) = {expected}"
        )
    planes = () if bits == 1 else (bits,)
    words = shape.groups * isa.words(shape.group_in_channels)
    data_shape = (shape.batch, *planes, shape.height, shape.width, words)
    return direct_popcount(
        "popcount_conv2d",
        shape,
        signs.astype(bool),
        epilogue,
        isa,
        data_shape=data_shape,
        pad_value=pad_value,
        tile=tile,
        bits=bits,
        weight_domain=weight_domain,
    )


def float_conv2d(
    shape: Conv2dShape, weight: np.ndarray, epilogue: Program, isa: Isa, tile: Tile | None = None
) -> Kernel:
    """A float32 convolution of an NHWC feature map, padded with zeros.

    Args:
        shape: The layer.
        weight: float32 [OC, Cin / groups, kh, kw].
        epilogue: Its Ref(0) is the sum of products; the order of the sum differs from other implementations.
        isa: What to generate code for.
        tile: One of tiles.tiles(shape, isa, "float32"); by default the first.

    Raises:
        ValueError: If ``weight``, ``tile`` or the epilogue's constants do not fit the layer.
    """
    expected = (shape.out_channels, shape.group_in_channels, *shape.kernel)
    if weight.shape != expected:
        raise ValueError(f"the weight of a convolution is {weight.shape}, not (OC, Cin / groups, kh, kw) = {expected}")
    data_shape = (shape.batch, shape.height, shape.width, shape.in_channels)
    return direct_float("float_conv2d", shape, weight, epilogue, isa, data_shape=data_shape, tile=tile)
