"""Layers on bytes whose zero point is known only at run time: the results of the same layers that know it before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sbnn_tvm.schedules.epilogue.program import CodesOutput, Element, FloatOutput, Number, Program, Ref, Step
from sbnn_tvm.schedules.int8.conv2d import int8_conv2d, int8_dense
from sbnn_tvm.schedules.int8.depthwise import int8_depthwise_conv2d
from sbnn_tvm.schedules.isa import AVX2
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.shapes import dense_shape
from tests.support import conv2d_shapes, window_shapes
from tests.support.kernel_execution import ARM, TARGETS, run, target_for
from tests.support.random_integers import integer_data, integer_weights, integers
from tests.support.reference.convolution import conv2d

PROGRAM = Program(
    (Step("multiply", Ref(0), Number(1)),), (FloatOutput(Ref(0)), CodesOutput(Ref(1), "uint8", Number(2, "uint8")))
)


def check(kernel: Kernel, name: str, x: np.ndarray, sums: np.ndarray, zero_point: int) -> None:
    scale, own = np.float32(0.01), 31
    operands = np.array([[zero_point]], x.dtype), np.array([[scale]]), np.array([[own]], np.uint8)
    floats, codes = run(kernel, target_for(name), x, *operands)
    np.testing.assert_array_equal(floats, sums.astype(np.float32))
    np.testing.assert_array_equal(codes, np.clip(np.rint(sums.astype(np.float32) * scale) + own, 0, 255))


def check_conv2d(rng: np.random.Generator, shape: str, name: str, dtype: Element, most: int) -> None:
    layer, target = conv2d_shapes.SHAPES[shape], target_for(name)
    x, weight, zero_point = integer_data(rng, dtype, layer), integer_weights(rng, layer, most), 77
    bias = rng.integers(-9999, 9999, layer.out_channels)
    kernel = int8_conv2d(layer, weight, Number(0, dtype), PROGRAM, target.isa, data_dtype=dtype, bias=bias)
    sums = conv2d(x.astype(np.int64) - zero_point, weight.astype(np.int64), layer).astype(np.int64) + bias
    check(kernel, name, x, sums, zero_point)


@pytest.mark.parametrize(
    "shape, name, dtype, most", [("stem", "native", "uint8", 127), ("2 groups", "arm", "int8", 63)]
)
def test_convolutions(shape: str, name: str, dtype: Element, most: int, rng: np.random.Generator) -> None:
    check_conv2d(rng, shape, name, dtype, most)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", ["asymmetric", "stem", "2 groups", "3 odd groups", "dilated", "1x1"])
def test_convolutions_everywhere(shape: str, name: str, rng: np.random.Generator) -> None:
    most, dtype = rng.choice([63, 127, 255]).item(), rng.choice(["uint8", "int8"]).item()
    check_conv2d(rng, shape, name, dtype, most)


@pytest.mark.parametrize("name", ["x86-64-v3", *ARM[1:]])
def test_dense(name: str, rng: np.random.Generator) -> None:
    x, weight = integers(rng, "uint8", 5, 130), integer_weights(rng, dense_shape(5, 130, 67), 127)[:, :, 0, 0]
    kernel = int8_dense(5, weight, Number(0, "uint8"), PROGRAM, target_for(name).isa, data_dtype="uint8")
    check(kernel, name, x, (x.astype(np.int64) - 255) @ weight.T.astype(np.int64), 255)


@pytest.mark.parametrize("name", ["native", "arm"])
def test_depthwise(name: str, rng: np.random.Generator) -> None:
    shape = window_shapes.SHAPES["wide, strided"]
    layer = replace(shape, groups=shape.in_channels)
    x, weight = integer_data(rng, "uint8", layer), integer_weights(rng, layer, 255)
    kernel = int8_depthwise_conv2d(layer, weight, Number(0, "uint8"), PROGRAM, target_for(name).isa, data_dtype="uint8")
    check(kernel, name, x, conv2d(x.astype(np.int64) - 3, weight.astype(np.int64), layer), 3)


def test_a_zero_point_of_another_type() -> None:
    with pytest.raises(ValueError, match="the zero point of int8 data is a number of that type, not uint8"):
        int8_dense(1, np.ones((4, 4)), Number(0, "uint8"), PROGRAM, AVX2, data_dtype="int8")
