"""Packed bits unpacked, regrouped and summed over windows, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BinaryDomain
from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.bits.packing import regroup, unpack, window_sum
from sbnn_tvm.schedules.layouts.words import pack_channels
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import random_bits
from tests.support.reference.windows import windows
from tests.support.window_shapes import SHAPES

grid = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
targets = pytest.mark.parametrize("target_name", X86 + ARM)


@targets
@pytest.mark.parametrize("shape", [(2, 3, 5, 1), (1, 4, 4, 65), (1, 30, 20, 100), (7, 63)], ids=str)
def test_unpack(target_name: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    target, bits = target_for(target_name), random_bits(rng, *shape)
    (output,) = run(unpack(shape, BinaryDomain(-0.5, 0.25), target.isa), target, pack_channels(bits, target.isa))
    np.testing.assert_array_equal(output, np.where(bits, 0.25, -0.5))


@targets
@pytest.mark.parametrize("channels, groups", [(64, 2), (100, 4), (65, 5), (34, 2), (300, 3), (21, 21), (128, 1)])
def test_regroup(target_name: str, channels: int, groups: int, rng: np.random.Generator) -> None:
    target, shape = target_for(target_name), (2, 3, 4, channels)
    bits = random_bits(rng, *shape)
    (output,) = run(regroup(shape, channels, groups, target.isa), target, pack_channels(bits, target.isa))
    parts = [pack_channels(part, target.isa) for part in np.split(bits, groups, axis=-1)]
    np.testing.assert_array_equal(output, np.concatenate(parts, axis=-1))


def check_window_sums(rng: np.random.Generator, shape: Conv2dShape, target_name: str) -> None:
    target = target_for(target_name)
    bits = random_bits(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    words = pack_channels(bits, target.isa)
    for pad_value in (-1, 0, 1):
        (sums,) = run(window_sum(shape, pad_value, target.isa), target, words)
        expected = windows(np.where(bits, 1, -1), shape, pad_value).sum((0, -1))[..., None]
        np.testing.assert_array_equal(sums, expected)


@grid
def test_window_sums(shape: Conv2dShape, rng: np.random.Generator) -> None:
    check_window_sums(rng, shape, "x86-64-v3")


@targets
@pytest.mark.parametrize("channels", [17, 128])
def test_window_sums_on_every_target(target_name: str, channels: int, rng: np.random.Generator) -> None:
    check_window_sums(rng, Conv2dShape(2, 7, 9, channels, channels, (3, 3), (2, 1), (1, 1, 1, 1)), target_name)


def test_window_sums_of_many_rows(rng: np.random.Generator) -> None:
    check_window_sums(rng, Conv2dShape(2, 60, 60, 300, 300, (3, 3), (1, 1), (1, 1, 1, 1)), "x86-64-v3")


def test_what_does_not_fit_is_refused() -> None:
    isa = isas.AVX2
    with pytest.raises(ValueError, match="10 channels into 4 groups"):
        regroup((1, 1, 1, 10), 10, 4, isa)
    with pytest.raises(ValueError, match="has 2 groups"):
        window_sum(Conv2dShape(1, 4, 4, 8, 8, groups=2), 0, isa)
    with pytest.raises(ValueError, match="-1, 0 or \\+1 in a window sum, not 2"):
        window_sum(Conv2dShape(1, 4, 4, 8, 8), 2, isa)
