"""Popcounts through bytes, as WebAssembly counts, on this machine against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BIT, SIGN
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.schedules import isa
from sbnn_tvm.schedules.direct.conv2d import popcount_conv2d
from sbnn_tvm.schedules.direct.popcount_bytes import PopcountBytes
from sbnn_tvm.schedules.epilogue.program import STORE
from sbnn_tvm.schedules.layouts.words import pack_channels
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.conv2d_shapes import SHAPES
from tests.support.epilogues import integer_threshold
from tests.support.kernel_execution import run
from tests.support.packing import pack_groups
from tests.support.random_arrays import bits_and_signs, codes_and_levels
from tests.support.reference.convolution import conv2d

NAMES = ("plain", "2 groups", "3 odd groups", "channel tails", "asymmetric", "all border")
SOME = {name: SHAPES[name] for name in NAMES}


def target() -> CpuTarget:
    """This machine, with the kernels of WebAssembly: vectors of the same operations."""
    return replace(resolve("native"), isa=isa.WASM)


@pytest.mark.parametrize("shape", SOME.values(), ids=SOME.keys())
def test_convolution(shape: Conv2dShape, rng: np.random.Generator) -> None:
    x_bits, x = bits_and_signs(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    w_bits, w = bits_and_signs(rng, shape.out_channels, shape.group_in_channels, *shape.kernel)
    data, sums = pack_groups(x_bits, shape.groups, isa.WASM), conv2d(x, w, shape)
    threshold, bits = integer_threshold(rng, sums)
    (stored,) = run(popcount_conv2d(shape, w_bits, 0, STORE, isa.WASM), target(), data)
    np.testing.assert_array_equal(stored, sums)
    (words,) = run(popcount_conv2d(shape, w_bits, 0, threshold, isa.WASM), target(), data)
    np.testing.assert_array_equal(words, pack_channels(bits, isa.WASM))


# One channel: 9 steps. 31 words in one row of taps, and one more. Sums beyond 16 bits do not fit a lane.
@pytest.mark.parametrize("channels, kernel, out", [(16 * 31, 1, 8), (16 * 32, 1, 7), (16 * 11, 3, 9), (7400, 3, 2)])
@pytest.mark.parametrize("domain", [SIGN, BIT], ids=str)
def test_bytes_do_not_overflow(channels: int, kernel: int, out: int, domain: object) -> None:
    """All bits differ (or are set), so that every byte is as large as it can be."""
    shape = Conv2dShape(1, 3, 3, channels, out, (kernel, kernel), (1, 1), (0, 0, 0, 0))
    bits = np.ones((1, 3, 3, channels), bool)
    weights = np.full((out, channels, kernel, kernel), domain == BIT)
    epilogue, largest = STORE, channels * kernel * kernel
    built = popcount_conv2d(shape, weights, 0, epilogue, isa.WASM, weight_domain=domain)  # type: ignore[arg-type]
    (sums,) = run(built, target(), pack_channels(bits, isa.WASM))
    assert (sums == (largest if domain == BIT else -largest)).all()


@pytest.mark.parametrize("shape", ["2 groups", "channel tails", "asymmetric", "dilated"])
def test_codes_of_two_bits(shape: str, rng: np.random.Generator) -> None:
    layer = SHAPES[shape]
    codes, x = codes_and_levels(rng, 2, layer.batch, layer.height, layer.width, layer.in_channels)
    w_bits, w = bits_and_signs(rng, layer.out_channels, layer.group_in_channels, *layer.kernel)
    data, sums = pack_groups(codes, layer.groups, isa.WASM, 2), conv2d(x, w, layer)
    (stored,) = run(popcount_conv2d(layer, w_bits, 0, STORE, isa.WASM, bits=2), target(), data)
    np.testing.assert_array_equal(stored, sums)


def test_steps_are_bounded_by_a_byte() -> None:
    partial = PopcountBytes("uint16", "uint16", 8).partial
    assert partial.lanes == 16
    assert partial.steps * 8 < 256
