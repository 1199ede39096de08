"""Convolutions of bytes on ARM: each kind of block in an emulated CPU, against integers in numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.direct.neon_bytes import DotBlock, pairs_fit
from sbnn_tvm.schedules.direct.tiles import Tile, tiles
from sbnn_tvm.schedules.epilogue.program import STORE, Element
from sbnn_tvm.schedules.int8.conv2d import int8_conv2d
from sbnn_tvm.schedules.int8.depthwise import int8_depthwise_conv2d
from sbnn_tvm.schedules.int8.neon import signed_summands
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.bare_execution import run_all
from tests.support.conv2d_shapes import SHAPES
from tests.support.kernel_execution import run
from tests.support.random_integers import integer_data, integer_weights
from tests.support.reference.convolution import conv2d

NAMES = ["arm", "neoverse-n1", "neoverse-v1", "armv7"]  # smull, sdot, smmla, vmull
SMALL = Conv2dShape(2, 3, 5, 13, 12, (3, 2), (1, 1), (1, 0, 1, 1))  # a list of 26 bytes: 16, 8 and 2

Case = tuple[Conv2dShape, Element, int, np.ndarray, np.ndarray, Tile | None]


def check(name: str, cases: list[Case]) -> None:
    """Compile the kernels of all cases (shape, data type, zero point, data, weights, tile) into one program."""
    target, calls, expected = resolve(name), [], []
    for shape, dtype, zero_point, x, weight, tile in cases:
        kernel = int8_conv2d(shape, weight, zero_point, STORE, target.isa, data_dtype=dtype, tile=tile)
        calls.append((kernel, [x]))
        expected.append(conv2d(x.astype(np.int64) - zero_point, weight.astype(np.int64), shape).astype(np.float32))
    for (kernel, _), (result,), reference in zip(calls, run_all(calls, target), expected, strict=True):
        np.testing.assert_array_equal(result, reference, err_msg=kernel.name)


def extreme_cases(shape: Conv2dShape) -> list[Case]:
    """Data and weights that are all the smallest or the largest: sums of two products that do not fit in 16 bits."""
    cases: list[Case] = []
    for dtype, zero_point in (("uint8", 0), ("int8", -128)):
        limits, size = np.iinfo(dtype), (shape.batch, shape.height, shape.width, shape.in_channels)
        for value, weight in ((limits.min, -128), (limits.max, -128), (limits.min, 255), (limits.max, -255)):
            kernel = np.full((shape.out_channels, shape.group_in_channels, *shape.kernel), weight, np.int16)
            cases.append((shape, dtype, zero_point, np.full(size, value, dtype), kernel, None))  # type: ignore[arg-type]
    return cases


def random_case(rng: np.random.Generator, shape: Conv2dShape, tile: Tile | None = None) -> Case:
    """Random data of a random type, and weights of 7 to 9 bits."""
    dtype, zero_point = rng.choice(["uint8", "int8"]), int(rng.integers(0, 128))
    weight = np.maximum(integer_weights(rng, shape, int(rng.choice([127, 128, 255]))), rng.choice([-128, -255]))
    return (shape, dtype, zero_point, integer_data(rng, dtype, shape), weight, tile)


@pytest.mark.parametrize("name", NAMES)
def test_random_and_extreme_bytes(name: str, rng: np.random.Generator) -> None:
    check(name, [random_case(rng, SMALL), random_case(rng, SHAPES["all border"]), *extreme_cases(SMALL)[::3]])


@pytest.mark.slow
@pytest.mark.parametrize("name", [*NAMES, "cortex-a53", "cortex-a72"])
def test_the_whole_grid(name: str, rng: np.random.Generator) -> None:
    check(name, [random_case(rng, shape) for shape in SHAPES.values()])
    check(name, extreme_cases(SMALL))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_tile(name: str, rng: np.random.Generator) -> None:
    shape = Conv2dShape(1, 2, 13, 24, 48, (1, 3), (1, 1), (0, 1, 0, 1))
    check(name, [random_case(rng, shape, tile) for tile in tiles(shape, resolve(name).isa, "int8")])


def test_pairs_that_fit_in_16_bits() -> None:
    row = np.zeros((1, 40), np.int8)
    row[0, 3], row[0, 11] = -128, -127
    assert pairs_fit(row)  # at most 128 * (128 + 127)
    row[0, 11] = -128
    assert not pairs_fit(row)
    row[0, 11], row[0, 4], row[0, 32] = 0, -128, -128  # neither 8 apart, nor with a neighbour
    assert pairs_fit(row)


@pytest.mark.parametrize("least, most", [(-127, 127), (-128, 127), (-255, 254), (-255, 255)])
def test_weights_are_sums_of_signed_bytes(least: int, most: int, rng: np.random.Generator) -> None:
    weight = rng.integers(least, most + 1, (3, 2, 48))
    weight[0, 0, :2] = least, most
    for fit in (pairs_fit, lambda each: True):
        summands = signed_summands(weight, fit)
        np.testing.assert_array_equal(summands.sum(axis=-2, dtype=np.int64), weight)
        assert fit(summands)
    assert signed_summands(np.clip(weight, -127, 127), pairs_fit).shape == (3, 2, 1, 48)


@pytest.mark.parametrize("pixels, vectors", [(8, 2), (7, 2), (5, 4), (4, 4)])
def test_instructions_of_the_loop(pixels: int, vectors: int) -> None:
    text = DotBlock(pixels, vectors, stride=64, size=256, double=True).function.text
    _, *loop = text.split('asm sideeffect "')[1].split('"')[0].split("\\0A")
    assert len(loop) <= 1.25 * sum(line.startswith("sdot") for line in loop)


def test_tiles_fit_the_registers() -> None:
    for isa in (isas.NEON, isas.NEON_DOTPROD, isas.NEON_I8MM, isas.ARMV7_NEON, replace(isas.NEON, core="in-order")):
        found = tiles(Conv2dShape(1, 14, 14, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)), isa, "int8")
        assert found and Tile(12, 8) not in found


@pytest.mark.parametrize("name", ["arm", "armv7"])
def test_depthwise_reads_eight_channels(name: str, rng: np.random.Generator) -> None:
    target, calls, expected = resolve(name), [], []
    for dtype, zero_point, channels, most in (("uint8", 255, 19, 127), ("int8", -128, 16, 255)):
        shape = Conv2dShape(2, 5, 6, channels, channels, (3, 3), (1, 2), (1, 1, 0, 1), groups=channels)
        x, weight = integer_data(rng, dtype, shape), integer_weights(rng, shape, most)
        calls.append((int8_depthwise_conv2d(shape, weight, zero_point, STORE, target.isa, data_dtype=dtype), [x]))
        sums = conv2d(x.astype(np.int64) - zero_point, weight.astype(np.int64), shape)
        expected.append(sums.astype(np.float32))
    for (result,), reference in zip(run_all(calls, target), expected, strict=True):
        np.testing.assert_array_equal(result, reference)


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_matrix_products_in_the_emulator(dtype: str, rng: np.random.Generator) -> None:
    target, shape = resolve("arm-i8mm"), Conv2dShape(1, 4, 5, 16, 12, (1, 1), (1, 1), (0, 0, 0, 0))
    x, weight = integer_data(rng, dtype, shape), integer_weights(rng, shape, 127)
    kernel = int8_conv2d(shape, weight, 3, STORE, target.isa, data_dtype=dtype)
    (result,) = run(kernel, target, x)
    sums = conv2d(x.astype(np.int64) - 3, weight.astype(np.int64), shape)
    np.testing.assert_array_equal(result, sums.astype(np.float32))
