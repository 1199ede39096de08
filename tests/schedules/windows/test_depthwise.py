"""Depthwise convolutions against numpy. Small integers make their sums exact in any order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import STORE
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.windows.template import window_tiles
from tests.support.epilogues import border_program
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.reference import windows as reference
from tests.support.window_shapes import SHAPES, image


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_depthwise_conv2d(shape: Conv2dShape, rng: np.random.Generator) -> None:
    target, x = target_for("x86-64-v3"), np.round(image(rng, shape) * 4)
    weight = np.round(rng.standard_normal((shape.in_channels, 1, *shape.kernel)) * 4)
    layer = replace(shape, groups=shape.in_channels)
    expected = reference.depthwise_conv2d(x, weight, shape)
    np.testing.assert_array_equal(run(depthwise_conv2d(layer, weight, STORE, target.isa), target, x)[0], expected)


@pytest.mark.parametrize("target_name", ["native", "x86-64", "arm"])
def test_window_tiles(target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = Conv2dShape(1, 5, 23, 20, 20, (3, 3), (1, 2), (1, 1, 1, 1), groups=20)
    x = np.round(image(rng, shape) * 4)
    weight = np.round(rng.standard_normal((20, 1, 3, 3)) * 4)
    expected = reference.depthwise_conv2d(x, weight, shape)
    tiles = window_tiles(shape, target.isa, packed=False)
    assert [tile.pixels for tile in tiles] == [6, 4, 3, 2, 1][-len(tiles) :]
    assert {tile.channels for tile in tiles} == ({4} if target_name == "arm" else {max(8, target.isa.float_lanes)})
    for tile in tiles:
        kernel = depthwise_conv2d(shape, weight, STORE, target.isa, tile)
        assert kernel.name == f"depthwise_conv2d {tile}"
        np.testing.assert_array_equal(run(kernel, target, x)[0], expected)


@pytest.mark.parametrize("target_name", X86 + ARM)
@pytest.mark.parametrize("channels", [3, 24, 65])
def test_every_target(target_name: str, channels: int, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = Conv2dShape(2, 6, 19, channels, channels, (3, 3), (1, 2), (1, 1, 1, 1))
    x = np.round(image(rng, shape) * 4)
    program = border_program(rng, shape)
    weight = np.round(rng.standard_normal((channels, 1, 3, 3)) * 4)
    expected = reference.depthwise_conv2d(x, weight, shape).astype(np.float32)
    residual = normal(rng, *expected.shape)
    kernel = depthwise_conv2d(replace(shape, groups=channels), weight, program, target.isa)
    outputs = run(kernel, target, x, residual)
    references = evaluate(program, expected, [residual], target.isa, shape.border_classes())
    for output, want in zip(outputs, references, strict=True):
        np.testing.assert_array_equal(output, want)


def test_wrong_layers_are_refused() -> None:
    isa = isas.AVX2
    with pytest.raises(ValueError, match="has 8 inputs, 16 outputs and 8 groups; use the direct convolution"):
        depthwise_conv2d(Conv2dShape(1, 4, 4, 8, 16, groups=8), np.zeros((16, 1, 1, 1)), STORE, isa)
    with pytest.raises(ValueError, match=r"is \(8, 1, 3, 3\), not \(8, 1, 1, 1\)"):
        depthwise_conv2d(Conv2dShape(1, 4, 4, 8, 8, groups=8), np.zeros((8, 1, 3, 3)), STORE, isa)
