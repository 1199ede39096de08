"""Maximum and average poolings of floats against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import STORE, CodesOutput, Element, Program, Ref
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d
from tests.support.epilogues import border_program
from tests.support.kernel_execution import ARM, X86, run, target_for
from tests.support.random_arrays import normal
from tests.support.random_integers import integer_data
from tests.support.reference.windows import mean, windows
from tests.support.special_floats import with_special
from tests.support.window_shapes import SHAPES, image

grid = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
targets = pytest.mark.parametrize("target_name", X86 + ARM)


def check_mean(output: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)


@grid
def test_max_pool2d(shape: Conv2dShape, rng: np.random.Generator) -> None:
    target, x = target_for("x86-64-v3"), image(rng, shape)
    expected = windows(x, shape, -np.inf).max(0)
    np.testing.assert_array_equal(run(max_pool2d(shape, STORE, target.isa), target, x)[0], expected)
    residual = normal(rng, *expected.shape)
    program = border_program(rng, shape)
    outputs = run(max_pool2d(shape, program, target.isa), target, x, residual)
    references = evaluate(program, expected, [residual], target.isa, shape.border_classes())
    for output, reference in zip(outputs, references, strict=True):
        np.testing.assert_array_equal(output, reference)


@grid
def test_avg_pool2d(shape: Conv2dShape, rng: np.random.Generator) -> None:
    target, x = target_for("x86-64-v3"), image(rng, shape)
    for include, counted in ((False, (0, 0, 0, 0)), (True, shape.padding)):
        (output,) = run(avg_pool2d(shape, STORE, target.isa, include), target, x)
        check_mean(output, mean(x, shape, counted))


@targets
@pytest.mark.parametrize("channels", [3, 24, 65])
def test_poolings_on_every_target(target_name: str, channels: int, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = Conv2dShape(2, 6, 19, channels, channels, (3, 3), (1, 2), (1, 1, 1, 1))
    x = np.round(image(rng, shape) * 4)
    (maxima,) = run(max_pool2d(shape, STORE, target.isa), target, x)
    np.testing.assert_array_equal(maxima, windows(x, shape, -np.inf).max(0))
    (means,) = run(avg_pool2d(shape, STORE, target.isa), target, x)
    check_mean(means, mean(x, shape, (0, 0, 0, 0)))


@targets
def test_max_pooling_ignores_nan(target_name: str, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = Conv2dShape(2, 6, 19, 24, 24, (3, 3), (1, 2), (1, 1, 1, 1))
    x = with_special(image(rng, shape), rng, target_name=target_name)
    x[0, :3, :3, :2] = np.nan
    taps = windows(x, shape, -np.inf)
    (maxima,) = run(max_pool2d(shape, STORE, target.isa), target, x)
    np.testing.assert_array_equal(maxima, np.where(np.isnan(taps), -np.inf, taps).max(0))


def test_windows_that_ceil_mode_lets_hang_over(rng: np.random.Generator) -> None:
    target = target_for("x86-64-v3")
    # 3x3 at stride 2 with padding 1 over 6 pixels: ceil_mode adds a window that ends beyond the padding.
    shape = Conv2dShape(1, 6, 6, 4, 4, (3, 3), (2, 2), (1, 1, 2, 2))
    x = image(rng, shape)
    (output,) = run(avg_pool2d(shape, STORE, target.isa, count_include_pad=(1, 1, 1, 1)), target, x)
    check_mean(output, mean(x, shape, (1, 1, 1, 1)))


@targets
@pytest.mark.parametrize("shape", [(1, 7, 7, 512), (2, 3, 5, 100), (1, 1, 1, 3)], ids=str)
def test_global_avg_pool2d(target_name: str, shape: tuple[int, int, int, int], rng: np.random.Generator) -> None:
    target, x = target_for(target_name), normal(rng, *shape)
    (output,) = run(global_avg_pool2d(shape, STORE, target.isa), target, x)
    check_mean(output, x.mean((1, 2), keepdims=True, dtype=np.float64))


def test_a_window_outside_of_its_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"window of \(2, 2\) with padding \(2, 0, 0, 0\) lies outside the 4x4 input"):
        max_pool2d(Conv2dShape(1, 4, 4, 8, 8, (2, 2), (1, 1), (2, 0, 0, 0)), STORE, isas.AVX2)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16"])
@pytest.mark.parametrize("shape", ["3x3", "wide, strided", "asymmetric"])
def test_poolings_of_integers(shape: str, dtype: Element, rng: np.random.Generator) -> None:
    target, layer, zero_point = target_for("x86-64-v3"), SHAPES[shape], 7
    x = integer_data(rng, dtype, layer)
    (maxima,) = run(max_pool2d(layer, STORE, target.isa, dtype=dtype), target, x)
    np.testing.assert_array_equal(maxima, windows(x.astype(np.float32), layer, -np.inf).max(0))
    sums = windows(x.astype(np.float32) - zero_point, layer, 0).sum(0)
    for include, counted in ((False, (0, 0, 0, 0)), (True, layer.padding)):
        kernel = avg_pool2d(layer, STORE, target.isa, include, dtype=dtype, zero_point=zero_point)
        divisors = mean(np.ones(x.shape), layer, counted)
        inside = windows(np.ones(x.shape), layer, 0).sum(0)
        np.testing.assert_array_equal(run(kernel, target, x)[0], sums / np.float32(np.round(inside / divisors)))
    size = (layer.batch, layer.height, layer.width, layer.in_channels)
    kernel = global_avg_pool2d(size, STORE, target.isa, dtype=dtype, zero_point=zero_point)
    total = (x.astype(np.int64) - zero_point).sum((1, 2), keepdims=True).astype(np.float32)
    np.testing.assert_array_equal(run(kernel, target, x)[0], total / np.float32(layer.height * layer.width))


@targets
@pytest.mark.parametrize("channels", [3, 65])
def test_poolings_of_bytes_on_every_target(target_name: str, channels: int, rng: np.random.Generator) -> None:
    target = target_for(target_name)
    shape = Conv2dShape(2, 6, 19, channels, channels, (3, 3), (1, 2), (1, 1, 1, 1))
    x, program = integer_data(rng, "uint8", shape), Program((), (CodesOutput(Ref(0), "uint8"),))
    (maxima,) = run(max_pool2d(shape, program, target.isa, dtype="uint8"), target, x)
    np.testing.assert_array_equal(maxima, windows(x, shape, 0).max(0))
    (means,) = run(global_avg_pool2d(x.shape, STORE, target.isa, dtype="uint8"), target, x)
    np.testing.assert_array_equal(means[:, 0, 0], x.sum((1, 2), dtype=np.int32).astype(np.float32) / np.float32(6 * 19))
