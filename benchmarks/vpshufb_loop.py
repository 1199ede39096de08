"""A popcount loop for AVX2 without anything around it: what vpshufb_loop.c counts, as a matrix product.

It is given what a convolution has to work for: the windows are cut out of the image already, there is no padding, and
the counts are stored as they are.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from contestant import Contestant

from sbnn_tvm.schedules.shapes import Conv2dShape

_CHANNELS = 32  # of a block, as in the C file


def vpshufb_contestant(shape: Conv2dShape, rng: np.random.Generator) -> Contestant:
    """As many multiply-accumulates as the layer has; the counts are checked.

    Args:
        shape: Its window must be whole 64-bit words, its output channels a multiple of 32.
        rng: For the data.
    """
    taps = shape.in_channels * shape.kernel[0] * shape.kernel[1]
    pixels, blocks, words = shape.out_height * shape.out_width, shape.out_channels // _CHANNELS, taps // 64
    if taps % 64 or shape.out_channels % _CHANNELS:
        raise ValueError(f"the loop takes windows of 64-bit words and blocks of {_CHANNELS} channels, not {shape}")
    x = rng.integers(0, 1 << 64, (pixels, words), np.uint64)
    w = rng.integers(0, 1 << 64, (blocks, words, _CHANNELS), np.uint64)
    counts = np.zeros((pixels, blocks, _CHANNELS), np.uint64)
    popcounts = _compiled(Path(__file__).with_suffix(".c")).popcounts
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
    """The array's memory, which lives as long as this does."""
    return (ctypes.c_uint64 * array.size).from_buffer(array.data)


def _compiled(source: Path) -> ctypes.CDLL:
    """By clang, which is what TVM's code generator is made of; it comes with the package ziglang."""
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "loop.so"
        options = ["-O3", "-march=haswell", "-funroll-loops", "-shared", "-fPIC"]
        subprocess.run([sys.executable, "-m", "ziglang", "cc", *options, str(source), "-o", str(library)], check=True)
        return ctypes.CDLL(str(library))
