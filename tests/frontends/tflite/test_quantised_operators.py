"""Quantised operators, against the codes of TFLite's interpreter."""

import numpy as np
import onnxruntime
import pytest

pytest.importorskip("tflite", reason='TFLite files need pip install "sbnn-tvm[tflite]"')

import sbnn_tvm
from sbnn_tvm.frontends.tflite.to_onnx import to_onnx
from tests.support.tflite_builder import TfliteBuilder
from tests.support.tflite_cases import load

CASES = load("quantised")
WITHIN_ONE = {"add", "sub", "mean", "hard_swish", "relu", "relu6", "leaky_relu", "other_scale"}
"""TFLite scales these by integers with a shift; their results may differ by one code."""


@pytest.mark.parametrize("name", CASES)
def test_equals_the_interpreter(name: str) -> None:
    case = CASES[name]
    y = case.computed()
    assert y.shape == case.y.shape
    if name in WITHIN_ONE:
        np.testing.assert_allclose(y, case.y, rtol=0, atol=1)
        assert np.mean(y != case.y) < 0.2
    else:
        np.testing.assert_array_equal(y, case.y)


def test_images_are_transposed_at_the_edges_alone() -> None:
    model = to_onnx(CASES["network"].file)
    assert sum(node.op_type == "Transpose" for node in model.graph.node) == 1


def test_a_compiled_network_equals_the_interpreter() -> None:
    case = CASES["network"]
    module = sbnn_tvm.compile(case.file, strict=True)  # the first layer reads the bytes of the image
    assert [layer.kind.split()[0] for layer in module.report.layers].count("integer") == 3
    np.testing.assert_array_equal(module.run(case.x((1, 12, 12, 6))), case.y)


def test_quantised_weights_of_a_float_layer(rng: np.random.Generator) -> None:
    x, weights = rng.normal(size=(3, 8)).astype(np.float32), rng.integers(-127, 128, (5, 8)).astype(np.int8)
    scales = rng.uniform(0.01, 0.02, 5).astype(np.float32)
    b = TfliteBuilder()
    numbers = [b.tensor(x.shape), b.constant(weights, scales=list(scales)), b.tensor((3, 5))]
    b.operator("FULLY_CONNECTED", [*numbers[:2], -1], numbers[2:])
    model = to_onnx(b.file(numbers[:1], numbers[2:]))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {session.get_inputs()[0].name: x})
    np.testing.assert_allclose(y, x @ (weights * scales[:, np.newaxis]).T, rtol=1e-5, atol=1e-5)
