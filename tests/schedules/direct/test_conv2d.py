"""The direct convolutions against numpy, over a grid of shapes, paddings, instruction sets and epilogues."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.direct.tiles import Tile, tiles
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    IntegerThreshold,
)
from sbnn_tvm.schedules.layouts.words import pack_channels
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.conv2d_shapes import SHAPES
from tests.support.epilogues import integer_threshold, rich_program
from tests.support.grids import diagonals, every
from tests.support.kernel_execution import FEWER, TARGETS, run, target_for
from tests.support.packing import pack_groups
from tests.support.paths import ROOT
from tests.support.random_arrays import bits_and_signs, normal
from tests.support.reference.convolution import conv2d


@pytest.mark.parametrize(("shape", "name"), diagonals(2, SHAPES, TARGETS))
def test_popcount_conv2d(shape: str, name: str, rng: np.random.Generator) -> None:
    check_popcount(rng, SHAPES[shape], name)


def check_popcount(rng: np.random.Generator, shape: Conv2dShape, name: str, pad_value: int = 0) -> None:
    target = target_for(name)
    x_bits, x = bits_and_signs(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    w_bits, w = bits_and_signs(rng, shape.out_channels, shape.group_in_channels, *shape.kernel)
    data, sums = pack_groups(x_bits, shape.groups, target.isa), conv2d(x, w, shape, pad_value)
    threshold, bits = integer_threshold(rng, sums)

    (stored,) = run(popcount_conv2d(shape, w_bits, pad_value, STORE, target.isa), target, data)
    np.testing.assert_array_equal(stored, sums)
    (words,) = run(popcount_conv2d(shape, w_bits, pad_value, threshold, target.isa), target, data)
    np.testing.assert_array_equal(words, pack_channels(bits, target.isa))


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("pad_value", [-1, 1])
@pytest.mark.parametrize("shape", ["channel tails", "asymmetric", "dilated", "3 odd groups"])
def test_padding_with_bits(shape: str, pad_value: int, name: str, rng: np.random.Generator) -> None:
    check_popcount(rng, SHAPES[shape], name, pad_value)


@pytest.mark.parametrize(("title", "name"), diagonals(2, SHAPES, FEWER))
def test_popcount_program(title: str, name: str, rng: np.random.Generator) -> None:
    shape, target = SHAPES[title], target_for(name)
    x_bits, x = bits_and_signs(rng, shape.batch, shape.height, shape.width, shape.in_channels)
    w_bits, w = bits_and_signs(rng, shape.out_channels, shape.group_in_channels, *shape.kernel)
    program, tensors = rich_program(rng, shape)
    kernel = popcount_conv2d(shape, w_bits, 0, program, target.isa)
    outputs = run(kernel, target, pack_groups(x_bits, shape.groups, target.isa), *tensors)
    expected = evaluate(program, conv2d(x, w, shape), tensors, target.isa, shape.border_classes())
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference)


@pytest.mark.parametrize(("shape", "name"), diagonals(2, SHAPES, [*FEWER, "x86-64"]))
def test_float_conv2d(shape: str, name: str, rng: np.random.Generator) -> None:
    check_float(rng, SHAPES[shape], name)


@pytest.mark.skipif(not target_for("x86-64-v3").native, reason="the comparison needs fused multiply-adds")
@pytest.mark.parametrize("shape", ["channel tails", "dilated", "stem", "2 groups"])
def test_float_sums_have_one_order(shape: str, rng: np.random.Generator) -> None:
    """Every tile, and every instruction set with fused multiply-adds, gives the same bits."""
    layer, targets = SHAPES[shape], [target_for("x86-64-v3"), target_for("arm")]
    x = normal(rng, layer.batch, layer.height, layer.width, layer.in_channels)
    w = normal(rng, layer.out_channels, layer.group_in_channels, *layer.kernel)
    results = [
        run(float_conv2d(layer, w, STORE, target.isa, tile=tile), target, x)[0]
        for target in targets
        for tile in tiles(layer, target.isa, "float32")[:: 4 if target.native else 2]
    ]
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("channels", [24, 68])
def test_tiles_of_three_vectors(channels: int, name: str, rng: np.random.Generator) -> None:
    shape = Conv2dShape(1, 3, 9, 5, channels, (3, 3), (1, 1), (1, 1, 1, 1))
    for tile in [tile for tile in tiles(shape, target_for(name).isa, "float32") if tile.vectors == 3][:2]:
        check_float(rng, shape, name, tile)


def check_float(rng: np.random.Generator, shape: Conv2dShape, name: str, tile: Tile | None = None) -> None:
    target = target_for(name)
    # Small integers: sums are exact in any order, so the epilogue's bits can be compared exactly.
    x = rng.integers(-8, 9, (shape.batch, shape.height, shape.width, shape.in_channels)).astype(np.float32)
    w = rng.integers(-8, 9, (shape.out_channels, shape.group_in_channels, *shape.kernel)).astype(np.float32)
    program, tensors = rich_program(rng, shape)
    outputs = run(float_conv2d(shape, w, program, target.isa, tile=tile), target, x, *tensors)
    expected = evaluate(program, conv2d(x, w, shape), tensors, target.isa, shape.border_classes())
    for output, reference in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, reference)


@pytest.mark.parametrize("name", FEWER)
def test_every_kind_of_tile(name: str, rng: np.random.Generator) -> None:
    target = target_for(name)
    shape = Conv2dShape(1, 3, 9, 20, 70, (3, 3), (1, 1), (1, 1, 1, 1))
    x_bits, x = bits_and_signs(rng, 1, 3, 9, 20)
    w_bits, w = bits_and_signs(rng, 70, 20, 3, 3)
    sums = conv2d(x, w, shape)
    threshold, bits = integer_threshold(rng, sums)
    for tile in tiles(shape, target.isa, "popcount")[::5]:
        kernel = popcount_conv2d(shape, w_bits, 0, threshold, target.isa, tile=tile)
        (words,) = run(kernel, target, pack_channels(x_bits, target.isa))
        np.testing.assert_array_equal(words, pack_channels(bits, target.isa), err_msg=str(tile))
    for tile in tiles(shape, target.isa, "float32")[::5]:
        (stored,) = run(float_conv2d(shape, w, STORE, target.isa, tile=tile), target, x.astype(np.float32))
        np.testing.assert_array_equal(stored, sums, err_msg=str(tile))


@pytest.mark.parametrize("threads", every(2, ["2", "1"]))
def test_threads_agree(threads: str) -> None:
    script = (
        "import numpy as np; from sbnn_tvm.schedules.shapes import Conv2dShape;"
        "from tests.schedules.direct.test_conv2d import check_float, check_popcount; rng = np.random.default_rng(3);"
        "check_popcount(rng, Conv2dShape(1, 20, 20, 64, 64, (3, 3), (1, 1), (1, 1, 1, 1)), 'native');"
        "check_float(rng, Conv2dShape(2, 10, 9, 30, 60, (3, 3), (1, 1), (1, 1, 1, 1), groups=15), 'x86-64-v3')"
    )
    environment = {**os.environ, "TVM_NUM_THREADS": threads}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, cwd=ROOT)


def test_errors_name_what_does_not_fit() -> None:
    shape, isa = SHAPES["plain"], isas.AVX2
    signs = np.ones((64, 64, 3, 3), bool)
    threshold = IntegerThreshold(np.zeros(64, np.int64), np.zeros(64, bool))
    with pytest.raises(ValueError, match="signs of a binary convolution"):
        popcount_conv2d(shape, signs[:63], 0, threshold, isa)
    with pytest.raises(ValueError, match="pads with 0 or an odd number"):
        popcount_conv2d(shape, signs, 2, threshold, isa)
    with pytest.raises(ValueError, match="threshold of an integer threshold"):
        popcount_conv2d(shape, signs, 0, IntegerThreshold(np.zeros(63, np.int64), np.zeros(64, bool)), isa)
    with pytest.raises(ValueError, match="does not fit a row"):
        popcount_conv2d(shape, signs, 0, threshold, isa, tile=Tile(10, 2))
    with pytest.raises(ValueError, match="weight of a convolution"):
        float_conv2d(shape, np.ones((64, 64, 3), np.float32), STORE, isa)
