"""Operators of floats, against TensorFlow's interpreter on files of its own converter."""

import numpy as np
import pytest

pytest.importorskip("tflite", reason='TFLite files need pip install "sbnn-tvm[tflite]"')


from sbnn_tvm.frontends.tflite.to_onnx import to_onnx
from tests.support.tflite_cases import load

CASES = load("float_operators")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_interpreter(name: str) -> None:
    case = CASES[name]
    y = case.computed()
    assert y.shape == case.y.shape
    np.testing.assert_allclose(y, case.y, rtol=1e-4, atol=1e-5)


def transposes(name: str) -> int:
    return sum(node.op_type == "Transpose" for node in to_onnx(CASES[name].file).graph.node)


@pytest.mark.parametrize("name", ["conv_same", "mean_kept", "activations", "concatenation", "pad", "softmax_of_images"])
def test_images_are_transposed_at_the_edges_alone(name: str) -> None:
    assert transposes(name) == 2


def test_the_mean_of_images_needs_no_second_transpose() -> None:
    assert transposes("mean") == 1


def test_a_transpose_moves_nothing_by_itself() -> None:
    assert transposes("transpose") == 1  # from NHWC to the order in which images are stored anyway
