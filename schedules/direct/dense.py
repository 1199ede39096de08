"""Kernels for dense layers: 1x1 convolutions over one row, whose pixels are the samples of the batch."""

from __future__ import annotations

import numpy as np

from sbnn_tvm.algebra.domain import SIGN, BinaryDomain

from ..epilogue.program import Epilogue, Program
from ..isa import Isa
from ..kernel import Kernel
from ..layouts.words import packed_shape
from ..shapes import dense_shape
from .float32 import direct_float
from .popcount import direct_popcount
from .tiles import Tile


def popcount_dense(
    batch: int,
    signs: np.ndarray,
    epilogue: Epilogue,
    isa: Isa,
    *,
    tile: Tile | None = None,
    bits: int = 1,
    weight_domain: BinaryDomain = SIGN,
) -> Kernel:
    """A dense layer of {-1, +1} activations and weights: data [batch, isa.words(K)], outputs of rank 2.

    Codes of n bits, with data [batch, n, isa.words(K)], and {0, 1} weights work as in conv2d.popcount_conv2d.

    Args:
        batch: Rows of the data.
        signs: bool [OC, K], True for +1.
        epilogue: Ref(0) is the sum of products, as float32.
        isa: The instruction set.
        tile: One of tiles.tiles(dense_shape(batch, K, OC), isa, "popcount"); by default the first.
        bits: n.
        weight_domain: The values of the weights, domain.SIGN or domain.BIT.

    Raises:
        ValueError: If ``tile`` or the epilogue's constants do not fit.
    """
    channels, depth = signs.shape
    shape, kernel = dense_shape(batch, depth, channels), signs.astype(bool)[:, :, None, None]
    data_shape = packed_shape((batch, depth), bits, isa)
    return direct_popcount(
        "popcount_dense",
        shape,
        kernel,
        epilogue,
        isa,
        data_shape=data_shape,
        pad_value=0,
        tile=tile,
        bits=bits,
        weight_domain=weight_domain,
    )


def float_dense(batch: int, weight: np.ndarray, epilogue: Program, isa: Isa, tile: Tile | None = None) -> Kernel:
    """A float32 dense layer: data [batch, K], outputs of rank 2.

    Args:
        batch: Rows of the data.
        weight: float32 [OC, K].
        epilogue: Ref(0) is the sum of products.
        isa: The instruction set.
        tile: One of tiles.tiles(dense_shape(batch, K, OC), isa, "float32"); by default the first.

    Raises:
        ValueError: If ``tile`` or the epilogue's constants do not fit.
    """
    channels, depth = weight.shape
    shape, kernel = dense_shape(batch, depth, channels), weight[:, :, None, None]
    return direct_float("float_dense", shape, kernel, epilogue, isa, data_shape=(batch, depth), tile=tile)
