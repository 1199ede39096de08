"""Maximum and minimum poolings of packed bits and codes against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.bits.max_pooling import max_pool2d_bits
from sbnn_tvm.schedules.layouts.words import pack_channels, pack_codes
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import random_bits
from tests.support.reference.windows import windows
from tests.support.window_shapes import SHAPES

grid = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
targets = pytest.mark.parametrize("target_name", X86 + ARM)


def check_maxima(rng: np.random.Generator, shape: Conv2dShape, target_name: str) -> None:
    target = target_for(target_name)
    bits = random_bits(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    words = pack_channels(bits, target.isa)
    (maxima,) = run(max_pool2d_bits(shape, target.isa), target, words)
    largest = windows(bits, shape, False).any(0)
    np.testing.assert_array_equal(maxima, pack_channels(largest, target.isa))
    minima = random_bits(rng, shape.in_channels)
    (extremes,) = run(max_pool2d_bits(shape, target.isa, minima), target, words)
    expected = np.where(minima, windows(bits, shape, True).all(0), largest)
    np.testing.assert_array_equal(extremes, pack_channels(expected, target.isa))


@grid
def test_maxima(shape: Conv2dShape, rng: np.random.Generator) -> None:
    check_maxima(rng, shape, "x86-64-v3")


@targets
@pytest.mark.parametrize("channels", [17, 128])
def test_maxima_on_every_target(target_name: str, channels: int, rng: np.random.Generator) -> None:
    check_maxima(rng, Conv2dShape(2, 7, 9, channels, channels, (3, 3), (2, 1), (1, 1, 1, 1)), target_name)


def test_maxima_of_many_rows(rng: np.random.Generator) -> None:
    check_maxima(rng, Conv2dShape(2, 60, 60, 300, 300, (3, 3), (1, 1), (1, 1, 1, 1)), "x86-64-v3")


@targets
@pytest.mark.parametrize("bits", [2, 3])
def test_maxima_and_minima_of_codes(target_name: str, bits: int, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    for shape in (SHAPES["several threads"], Conv2dShape(2, 7, 9, 17, 17, (3, 2), (2, 1), (1, 0, 1, 1), (1, 2))):
        extent = (shape.batch, shape.height, shape.width, shape.in_channels)
        codes = rng.integers(0, 1 << bits, extent)
        minima = random_bits(rng, shape.in_channels)
        (largest,) = run(max_pool2d_bits(shape, target.isa, bits=bits), target, pack_codes(codes, bits, target.isa))
        expected = windows(codes, shape, 0).max(0)
        np.testing.assert_array_equal(largest, pack_codes(expected, bits, target.isa))
        packed = pack_codes(codes, bits, target.isa)
        (extremes,) = run(max_pool2d_bits(shape, target.isa, minima, bits), target, packed)
        expected = np.where(minima, windows(codes, shape, (1 << bits) - 1).min(0), expected)
        np.testing.assert_array_equal(extremes, pack_codes(expected, bits, target.isa))
