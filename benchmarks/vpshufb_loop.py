"""A bare popcount loop for AVX2 (vpshufb_loop.c), used by kernels.py as a competitor.

It computes a matrix product by popcounts. Unlike a convolution it gets windows that are already cut out of the image,
has no padding, and stores counts without comparing them with thresholds.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
from c_loops import compiled_c
from contestant import Contestant

from sbnn_tvm.schedules.shapes import Conv2dShape

_CHANNELS = 32  # output channels per block, same as in the C file


def vpshufb_contestant(shape: Conv2dShape, rng: np.random.Generator) -> Contestant:
    """A loop with as many multiply-accumulates as the layer; its counts are checked.

    Args:
        shape: The layer. Its window must fill whole 64-bit words; its output channels must be a multiple of 32.
        rng: Generates the data.

    Raises:
        ValueError: If the loop cannot compute such a layer.
    """
    taps = shape.in_channels * shape.kernel[0] * shape.kernel[1]
    pixels, blocks, words = shape.out_height * shape.out_width, shape.out_channels // _CHANNELS, taps // 64
    if taps % 64 or shape.out_channels % _CHANNELS:
        raise ValueError(
            f"the loop needs windows of whole 64-bit words and blocks of {_CHANNELS} channels, not {shape}"
        )
    x = rng.integers(0, 1 << 64, (pixels, words), np.uint64)
    w = rng.integers(0, 1 << 64, (blocks, words, _CHANNELS), np.uint64)
    counts = np.zeros((pixels, blocks, _CHANNELS), np.uint64)
    popcounts = compiled_c(Path(__file__).with_suffix(".c"), "-march=haswell", "-funroll-loops").popcounts
    arguments = [_pointer(array) for array in (x, w, counts)] + [ctypes.c_long(n) for n in (pixels, blocks, words)]

    def run() -> None:
        popcounts(*arguments)

    run()
    for pixel in (0, pixels - 1):
        differ = np.unpackbits((x[pixel, None, :, None] ^ w).view(np.uint8), axis=-1)
        expected = differ.reshape(blocks, words, _CHANNELS, 64).sum((1, 3))
        np.testing.assert_array_equal(counts[pixel], expected)
    return Contestant(run)


def _pointer(array: np.ndarray) -> ctypes.Array:
    """The memory of the array; the result keeps it alive."""
    return (ctypes.c_uint64 * array.size).from_buffer(array.data)
