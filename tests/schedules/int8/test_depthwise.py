"""Depthwise convolutions of bytes against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import STORE, Channel, CodesOutput, Element, FloatOutput, Program, Ref, Step
from sbnn_tvm.schedules.int8.depthwise import depthwise_tiles, int8_depthwise_conv2d
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_integers import integer_data, integer_weights
from tests.support.reference import windows as reference
from tests.support.window_shapes import SHAPES


def check(
    rng: np.random.Generator, shape: Conv2dShape, name: str, dtype: Element, zero_point: int, most: int = 127
) -> None:
    target, layer = target_for(name), replace(shape, groups=shape.in_channels)
    x, weight = integer_data(rng, dtype, layer), integer_weights(rng, layer, most)
    bias = rng.integers(-9999, 9999, shape.in_channels)
    scale = Channel(rng.random(shape.in_channels).astype(np.float32) / 100)
    outputs = (FloatOutput(Ref(0)), CodesOutput(Ref(1), "uint8", 128))
    program = Program((Step("multiply", Ref(0), scale),), outputs)
    sums = reference.depthwise_conv2d(x.astype(np.int64) - zero_point, weight.astype(np.int64), shape) + bias
    expected = evaluate(program, sums.astype(np.float32), [])
    for tile in depthwise_tiles(layer, target.isa, packed=False)[::4]:
        kernel = int8_depthwise_conv2d(
            layer, weight, zero_point, program, target.isa, data_dtype=dtype, bias=bias, tile=tile
        )
        for output, wanted in zip(run(kernel, target, x), expected, strict=True):
            np.testing.assert_array_equal(output, wanted, err_msg=str(tile))


@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name: str, rng: np.random.Generator) -> None:
    if list(SHAPES).index(name) % 2:
        check(rng, SHAPES[name], "native", "uint8", 3)
    else:
        check(rng, SHAPES[name], "native", "int8", -128, most=255)


@pytest.mark.parametrize("name", [*X86, *ARM])
@pytest.mark.parametrize("shape", ["wide, strided"])
def test_every_target(shape: str, name: str, rng: np.random.Generator) -> None:
    check(rng, SHAPES[shape], name, "uint8", 255)


def test_wrong_layers_are_refused() -> None:
    with pytest.raises(ValueError, match="has 8 inputs, 16 outputs and 8 groups"):
        int8_depthwise_conv2d(
            Conv2dShape(1, 4, 4, 8, 16, groups=8), np.zeros((16, 1, 1, 1)), 0, STORE, isas.AVX2, data_dtype="int8"
        )
    with pytest.raises(ValueError, match=r"is \(8, 1, 3, 3\), not \(8, 1, 1, 1\)"):
        int8_depthwise_conv2d(
            Conv2dShape(1, 4, 4, 8, 8, groups=8), np.zeros((8, 1, 3, 3)), 0, STORE, isas.AVX2, data_dtype="int8"
        )
