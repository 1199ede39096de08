"""NaN and infinities through whole models: onnxruntime's result wherever onnxruntime follows one rule itself."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest

import sbnn_tvm
from tests.support.kernel_execution import target_for
from tests.support.random_arrays import normal, signs
from tests.support.small_models import run_reference, small_model
from tests.support.special_floats import with_special

targets = pytest.mark.parametrize("target_name", ["native", "arm"])  # kernels are tested for every target


def outputs(model: onnx.ModelProto, target_name: str, x: np.ndarray) -> dict[str, np.ndarray]:
    target_for(target_name)  # skips where this machine cannot run it
    module = sbnn_tvm.compile(model, target_name)
    found = module.run(x) if module.target.native else module.emulate(x)
    found = found if isinstance(found, tuple) else (found,)
    return dict(zip((output.name for output in module.imported.outputs), found, strict=True))


def check(model: onnx.ModelProto, target_name: str, x: np.ndarray, rtol: float = 0) -> None:
    found, expected = outputs(model, target_name, x), run_reference(model, {"x": x})
    for name, output in found.items():
        np.testing.assert_allclose(output, expected[name], rtol=rtol, atol=0, err_msg=name)


def model_of(lines: Mapping[str, str], shape: tuple[int, ...], constants: Mapping[str, object]) -> onnx.ModelProto:
    text = "\n".join(f"{name} = {value}" for name, value in lines.items())
    return small_model(text, {"x": shape}, constants, list(lines))


ELEMENTWISE = {
    "max_number": "Max(x, half)",
    "max_nan": "Max(x, nan)",
    "max_channel": "Max(channel, x)",
    "max_both": "Max(x, tensor)",
    "min_number": "Min(x, half)",
    "min_both": "Min(tensor, x)",
    "clip": "Clip(x, minus, half)",
    "relu": "Relu(x)",
    "leaky": "LeakyRelu<alpha=0.125>(x)",
    "falling": "LeakyRelu<alpha=-0.125>(x)",
    "prelu": "PRelu(x, slope)",
    "add": "Add(x, tensor)",
    "mul": "Mul(x, tensor)",
    "div": "Div(x, tensor)",
    "sign": "Sign(x)",
    "round": "Round(x)",
    "abs": "Abs(x)",
    "sqrt": "Sqrt(x)",
    "thresholded": "ThresholdedRelu(x)",
    "hard": "HardSigmoid(x)",
    "is_nan": "IsNaN(x)",
    "is_inf": "IsInf(x)",
    "equal": "Equal(x, tensor)",
    "less": "Less(x, half)",
}


@targets
def test_elementwise_operators(target_name: str, rng: np.random.Generator) -> None:
    shape = (2, 3, 4, 9)
    constants = {
        "half": 0.5,
        "minus": -0.5,
        "nan": np.nan,
        "channel": normal(rng, 3, 1, 1),
        "slope": normal(rng, 3, 1, 1),
        "tensor": with_special(normal(rng, *shape), rng),
    }
    check(model_of(ELEMENTWISE, shape, constants), target_name, with_special(normal(rng, *shape), rng), 1e-6)


@targets
def test_every_way_to_write_a_binariser(target_name: str, rng: np.random.Generator) -> None:
    """A comparison decides where NaN goes, also through a negation and through arithmetic, and before a layer."""
    lines, results = [], []
    for operator in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual"):
        for number, (sides, values) in enumerate([("x, t", "hi, lo"), ("t, x", "lo, hi")]):
            name = f"{operator}{number}"
            lines += [f"{name}c = {operator}({sides})", f"{name}n = Not({name}c)"]
            for condition in "cn":
                lines.append(f"{name}{condition}y = Where({name}{condition}, {values})")
                lines.append(f"{name}{condition}z = Conv({name}{condition}y, w)")
                results.append(f"{name}{condition}z")
    threshold = np.float32([0.5, 0.0, -0.25]).reshape(3, 1, 1)
    constants = {"t": threshold, "hi": 1.0, "lo": -1.0, "w": signs(rng, 4, 3, 1, 1)}
    model = small_model("\n".join(lines), {"x": (1, 3, 5, 7)}, constants, results)
    check(model, target_name, with_special(normal(rng, 1, 3, 5, 7), rng))


@targets
def test_a_folded_layer_with_constants_that_are_not_finite(target_name: str, rng: np.random.Generator) -> None:
    """Thresholds of integers are found by the layer's own arithmetic: a scale of 0 times inf is NaN there as well."""
    text = (
        "c = Greater(x, zero)\nb = Where(c, hi, lo)\nd = Conv(b, w)\nm = Mul(d, scale)\ns = Add(m, offset)\n"
        "p = Max(s, limit)\nq = LessOrEqual(p, zero)\ne = Where(q, lo, hi)\ny = Conv(e, v)"
    )
    special = np.float32([np.nan, np.inf, -np.inf, 0, 1, -1]).reshape(6, 1, 1)
    constants = {
        **{"zero": 0.0, "hi": 1.0, "lo": -1.0, "limit": np.roll(special, 1, 0)},
        **{"w": signs(rng, 36, 8, 3, 3), "v": signs(rng, 5, 36, 1, 1)},
        **{"scale": np.repeat(special, 6, 0), "offset": np.tile(special, (6, 1, 1))},
    }
    constants["limit"] = np.where(np.arange(36).reshape(36, 1, 1) % 5 == 0, np.float32(np.nan), np.float32(-1))
    check(small_model(text, {"x": (1, 8, 6, 6)}, constants), target_name, normal(rng, 1, 8, 6, 6))


def test_reductions_and_poolings(rng: np.random.Generator) -> None:
    """Reductions keep NaN and poolings ignore it, in every number of dimensions; -inf is less than every number."""
    x = with_special(normal(rng, 2, 3, 4, 5), rng, 0.3)
    x[0, :, :2, :2] = -np.inf
    lines = {
        "largest": "ReduceMax<keepdims=0>(x, axes)",
        "smallest": "ReduceMin<keepdims=1>(x, axes)",
        "first": "ArgMax<axis=2, keepdims=0>(x)",
        "last": "ArgMin<axis=3>(x)",
        "flat": "Reshape(x, rows)",
        "one": "MaxPool<kernel_shape=[3], pads=[1, 1]>(flat)",
        "two": "MaxPool<kernel_shape=[2, 2]>(x)",
        "whole": "GlobalMaxPool(x)",
        "volume": "Reshape(x, cubes)",
        "three": "MaxPool<kernel_shape=[2, 2, 2], strides=[1, 1, 2]>(volume)",
    }
    model = model_of(lines, x.shape, {"axes": [2, 3], "rows": [2, 3, 20], "cubes": [2, 1, 3, 4, 5]})
    numbers = np.where(np.isnan(x), np.float32(-np.inf), x)
    row = np.pad(numbers.reshape(2, 3, 20), ((0, 0), (0, 0), (1, 1)), constant_values=-np.inf)
    slide = np.lib.stride_tricks.sliding_window_view
    expected = {
        "largest": x.max((2, 3)),
        "smallest": x.min((2, 3), keepdims=True),
        "first": x.argmax(2),
        "last": x.argmin(3, keepdims=True),
        "one": slide(row, 3, -1).max(-1),
        "two": slide(numbers, (2, 2), (2, 3)).max((-1, -2)),
        "whole": numbers.max((2, 3), keepdims=True),
        "three": slide(numbers.reshape(2, 1, 3, 4, 5), (2, 2, 2), (2, 3, 4))[..., ::2, :, :, :].max((-1, -2, -3)),
    }
    found = outputs(model, "native", x)
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


def test_a_binariser_before_a_pooling_sees_the_nan_itself(rng: np.random.Generator) -> None:
    """It moves there from behind the pooling, so that a window of bits holds the bit of NaN, here lo."""
    text = (
        "m = MaxPool<kernel_shape=[2, 2], strides=[2, 2]>(x)\nn = Mul(m, s)\nc = Greater(n, t)\nb = Where(c, hi, lo)\n"
        "y = Conv(b, w)"
    )
    eye = np.eye(2, dtype=np.float32).reshape(2, 2, 1, 1)
    constants = {"t": 0.0, "hi": 1.0, "lo": -1.0, "w": eye, "s": np.float32([1, -1]).reshape(2, 1, 1)}
    x = np.float32([[[[np.nan, 5], [-1, -2]], [[np.nan, -5], [-1, -2]]]])
    found = outputs(small_model(text, {"x": x.shape}, constants), "native", x)
    np.testing.assert_array_equal(found["y"].reshape(2), [1, -1])
