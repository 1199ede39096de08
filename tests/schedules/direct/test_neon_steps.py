"""Blocks of NEON assembly: every way to unroll and to skip, and what does not fit the registers."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.schedules.direct.conv2d import popcount_conv2d
from sbnn_tvm.schedules.direct.neon_steps import TileSteps, fits_block, tile_steps
from sbnn_tvm.schedules.direct.tiles import Tile, default_tile, tiles
from sbnn_tvm.schedules.isa import NEON, NEON_DOTPROD
from sbnn_tvm.schedules.layouts.words import pack_channels
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.epilogues import integer_threshold
from tests.support.kernel_execution import run
from tests.support.random_arrays import bits_and_signs
from tests.support.reference.convolution import conv2d


@pytest.mark.parametrize(
    ("width", "channels", "kernel", "stride", "tile"),
    [
        (8, 64, 3, 1, "4x4"),  # 12 steps in a row: 3 iterations of 4
        (8, 112, 1, 1, "2x8"),  # 7 steps, all at once
        (9, 16, 5, 1, "7x2"),  # 5 steps
        (7, 80, 3, 1, "7x2"),  # whole rows: columns outside the image are skipped
        (5, 176, 3, 2, "3x4"),  # 33 steps: 11 iterations of 3; a stride
        (6, 20, 3, 2, "1x8"),  # channels that do not fill a word
        (13, 32, 3, 1, "10x1"),
    ],
)
def test_against_numpy(
    width: int, channels: int, kernel: int, stride: int, tile: str, rng: np.random.Generator
) -> None:
    pad = kernel // 2
    shape = Conv2dShape(2, 4, width, channels, 70, (kernel, kernel), (stride, stride), (pad, pad, pad, pad))
    x_bits, x = bits_and_signs(rng, 2, 4, width, channels)
    w_bits, w = bits_and_signs(rng, 70, channels, kernel, kernel)
    threshold, bits = integer_threshold(rng, conv2d(x, w, shape))
    pixels, vectors = map(int, tile.split("x"))
    built = popcount_conv2d(shape, w_bits, 0, threshold, NEON, tile=Tile(pixels, vectors))
    assert "sbnn_tile_xor" in built.func.script()
    (words,) = run(built, resolve("arm"), pack_channels(x_bits, NEON))
    np.testing.assert_array_equal(words, pack_channels(bits, NEON))


def test_all_tiles_have_blocks() -> None:
    shape = Conv2dShape(1, 14, 14, 256, 256, (3, 3), (1, 1), (1, 1, 1, 1))
    for isa in (NEON, NEON_DOTPROD):
        assert all(fits_block(tile.pixels, tile.vectors) for tile in tiles(shape, isa, "popcount"))
        assert default_tile(shape, isa, "popcount") == Tile(2, 8)
    assert not fits_block(4, 8) and not fits_block(14, 2)


def test_pixels_that_are_too_far_apart_have_no_block() -> None:
    near, far = (TileSteps((0, 1), 4, 2, 8, stride, True) for stride in (32768, 65536))
    assert tile_steps(near) is not None and tile_steps(far) is None
