"""What is refused, each with a sentence that names the operator, its output and the file; damaged files."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("tflite", reason='TFLite files need pip install "sbnn-tvm[tflite]"')

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.load_model import load_model
from sbnn_tvm.frontends.tflite.to_onnx import to_onnx
from tests.support.tflite_builder import TfliteBuilder
from tests.support.tflite_cases import load

IMAGES = (1, 4, 4, 3)
WINDOW = {"StrideH": 1, "StrideW": 1, "FilterHeight": 2, "FilterWidth": 2}


def unary(name: str, b: TfliteBuilder, shape: tuple[int, ...] = IMAGES, **options: int) -> bytes:
    b.tensor(shape, name="x")
    b.operator(name, [0], [b.tensor(shape, name="y")], options)
    return b.file([0], [1])


def unknown(b: TfliteBuilder) -> bytes:
    return unary("SVDF", b)


def unknown_custom(b: TfliteBuilder) -> bytes:
    return unary("MyOperator", b)


def wrong_shape(b: TfliteBuilder) -> bytes:
    b.operator("RELU", [b.tensor(IMAGES, name="x")], [b.tensor((1, 4, 4, 5), name="y")])
    return b.file([0], [1])


def without_options(b: TfliteBuilder) -> bytes:
    return unary("MAX_POOL_2D", b)


def no_stride(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, name="x")
    b.operator("MAX_POOL_2D", [0], [b.tensor(IMAGES, name="y")], WINDOW | {"StrideW": 0}, "Pool2DOptions")
    return b.file([0], [1])


def unknown_activation(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, name="x")
    b.operator("ADD", [0, 0], [b.tensor(IMAGES, name="y")], {"FusedActivationFunction": 5}, "AddOptions")
    return b.file([0], [1])


def quantised_bits(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, "int8", name="q", scales=[0.1])
    b.operator("LceQuantize", [0], [b.tensor((1, 4, 4, 1), "int32", name="bits")])
    return b.file([0], [1])


def scale_of_nothing(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, "int8", name="q", scales=[0])
    b.operator("RELU", [0], [b.tensor(IMAGES, "int8", name="y", scales=[0.1])])
    return b.file([0], [1])


def quantised_tanh(b: TfliteBuilder) -> bytes:
    b.tensor((2, 3), "int8", name="x", scales=[0.1])
    b.constant(np.ones((4, 3), np.int8), name="w", scales=[0.1])
    y = b.tensor((2, 4), "int8", name="y", scales=[0.1])
    b.operator("FULLY_CONNECTED", [0, 1, -1], [y], {"FusedActivationFunction": 4}, "FullyConnectedOptions")
    return b.file([0], [y])


def quantised_integers(b: TfliteBuilder) -> bytes:
    b.tensor((2, 3), name="x")
    b.operator("QUANTIZE", [0], [b.tensor((2, 3), "int32", name="y", scales=[0.1])])
    return b.file([0], [1])


def sparse(b: TfliteBuilder) -> bytes:
    b.tensor((2, 3), name="x")
    b.constant(np.ones((4, 3), np.float32), name="w", sparse=True)
    b.operator("FULLY_CONNECTED", [0, 1, -1], [b.tensor((2, 4), name="y")])
    return b.file([0], [2])


def short_constant(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, name="x")
    b.tensor(IMAGES, data=b"abcd", name="c")
    b.operator("ADD", [0, 1], [b.tensor(IMAGES, name="y")])
    return b.file([0], [2])


def missing_value(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, name="x")
    b.operator("ADD", [0, b.tensor(IMAGES, name="late")], [b.tensor(IMAGES, name="y")])
    return b.file([0], [2])


def out_of_range(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, name="x")
    b.operator("RELU", [7], [b.tensor(IMAGES, name="y")])
    return b.file([0], [1])


def returned_input(b: TfliteBuilder) -> bytes:
    b.operator("RELU", [b.tensor(IMAGES, name="x")], [b.tensor(IMAGES, name="y")])
    return b.file([0], [1, 0])


def huge(b: TfliteBuilder) -> bytes:
    return unary("RELU", b, (2**20, 2**20))


def huge_result(b: TfliteBuilder) -> bytes:
    b.tensor((2**10, 2**10), name="x")
    b.constant(np.int32([2**10, 2**10]), name="counts")
    b.operator("TILE", [0, 1], [b.tensor((1, 1), name="y")])
    return b.file([0], [2])


def huge_constant(b: TfliteBuilder) -> bytes:
    b.constant(np.int32([2**14, 2**14]), name="sizes")
    b.constant(np.float32(1), name="one")
    b.operator("FILL", [0, 1], [b.tensor((2**14, 2**14), name="y")])
    return b.file([], [2])


def packed_output(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, name="x")
    b.operator("LceQuantize", [0], [b.tensor((1, 4, 4, 1), "int32", name="y")])
    return b.file([0], [1])


def packed_addition(b: TfliteBuilder) -> bytes:
    b.tensor(IMAGES, name="x")
    b.operator("LceQuantize", [0], [b.tensor((1, 4, 4, 1), "int32", name="bits")])
    b.operator("ADD", [1, 1], [b.tensor((1, 4, 4, 1), "int32", name="y")])
    return b.file([0], [2])


def not_packed(b: TfliteBuilder) -> bytes:
    b.tensor((1, 4, 4, 1), "int32", name="x")
    b.operator("LceDequantize", [0], [b.tensor(IMAGES, name="y")])
    return b.file([0], [1])


def wrong_thresholds(b: TfliteBuilder) -> bytes:
    b.tensor((1, 4, 4, 32), name="x")
    b.operator("LceQuantize", [0], [b.tensor((1, 4, 4, 1), "int32", name="bits")])
    b.constant(np.ones((6, 1, 1, 1), np.int32), name="w")
    b.constant(np.ones(5, np.int32), name="t")
    names = ("stride_height", "stride_width", "dilation_height_factor", "dilation_width_factor", "pad_values")
    options = dict.fromkeys(names, 1) | {"channels_in": 32, "padding": 0, "fused_activation_function": 0}
    b.operator("LceBconv2d", [1, 2, -1, -1, 3], [b.tensor((1, 4, 4, 1), "int32", name="y")], options)
    return b.file([0], [4])


REFUSED = {
    unknown: "operators that are not supported: SVDF (computes 'y')",
    unknown_custom: "operators that are not supported: MyOperator (computes 'y')",
    wrong_shape: "RELU, which computes 'y' in the given TFLite data, is declared as float32[1, 4, 4, 5], but computes",
    without_options: "MAX_POOL_2D, which computes 'y' in the given TFLite data, lacks the option 'FilterHeight'",
    no_stride: "has the option 'StrideW' 0; expected at least 1",
    unknown_activation: "has the fused activation number 5, which is not supported",
    quantised_bits: "computes with quantised numbers (INT8 in 'q'), which is not supported",
    scale_of_nothing: "has scales that are not above 0 in 'q'",
    quantised_tanh: "has the fused activation number 4, which is not supported on quantised numbers",
    quantised_integers: "quantises to int32 in 'y', which is not supported",
    sparse: "reads 'w', which is sparse",
    short_constant: "reads 'c', which needs 192 bytes, but has 4",
    missing_value: "reads 'late', which no operator before it computes",
    out_of_range: "is damaged: RELU reads tensor 7 of 2",
    returned_input: "returns its input 'x'; remove that output",
    huge: "tensor 'x' of the given TFLite data has the shape [1048576, 1048576], but at most",
    huge_result: "TILE, which computes 'y' in the given TFLite data, has the shape [1048576, 1048576], but at most",
    huge_constant: "computes a constant of 1,073,741,824 bytes",
    packed_output: "has the output 'y' of packed bits, which is not supported; end the network with LceDequantize",
    packed_addition: "reads the packed bits 'bits'; only the operators of Larq can do that",
    not_packed: "needs bits that LceQuantize or LceBconv2d packed, but 'x' holds int32",
    wrong_thresholds: "needs 6 int32 thresholds, but has int32 of shape [5]",
}


@pytest.mark.parametrize("make", REFUSED, ids=lambda make: make.__name__)
def test_refused(make: Callable[[TfliteBuilder], bytes]) -> None:
    with pytest.raises(ModelError) as refused:
        to_onnx(make(TfliteBuilder()))
    assert REFUSED[make] in str(refused.value)


def test_an_open_batch_is_given() -> None:
    b = TfliteBuilder()
    b.tensor(IMAGES, name="x", signature=(-1, 4, 4, 3))
    b.operator("RELU", [0], [b.tensor(IMAGES, name="y", signature=(-1, 4, 4, 3))])
    file = b.file([0], [1])
    for given, batch in ((None, 1), ((5, 4, 4, 3), 5), ({"x": (2, 4, 4, 3)}, 2)):
        graph = to_onnx(file, given).graph
        assert [value.type.tensor_type.shape.dim[0].dim_value for value in (*graph.input, *graph.output)] == [batch] * 2
    for wrong in ((5, 4, 4, 2), (1, 4, 4), (0, 4, 4, 3)):
        with pytest.raises(ModelError, match=r"input 'x' .* has the shape \[\?, 4, 4, 3\]"):
            to_onnx(file, wrong)
    with pytest.raises(ModelError, match="has no input 'z'; its inputs are x"):
        to_onnx(file, {"z": (5, 4, 4, 3)})


def test_names_are_unique() -> None:
    b = TfliteBuilder()
    for name in ("x", "same;other", "same", "same"):
        b.tensor((2,), name=name)
    for number in range(3):
        b.operator("RELU", [number], [number + 1])
    model = to_onnx(b.file([0], [1, 3]))
    assert [value.name for value in model.graph.output] == ["same", "same_3"]
    onnx.checker.check_model(model)


def test_intermediate_values_take_no_name_of_a_tensor() -> None:
    """RSQRT becomes a square root, named after its tensor and operator, and a reciprocal."""
    b = TfliteBuilder()
    for name in ("x", "a", "a/Sqrt"):
        b.tensor((2,), name=name)
    b.operator("RSQRT", [0], [1])
    b.operator("RELU", [1], [2])
    model = to_onnx(b.file([0], [2]))
    onnx.checker.check_model(model)
    assert model.graph.node[0].output[0] == "a/Sqrt_2" and model.graph.output[0].name == "a/Sqrt"


def test_files(tmp_path: Path) -> None:
    path = tmp_path / "model.tflite"
    with pytest.raises(ModelError, match=r"model.tflite' does not exist; check the path"):
        sbnn_tvm.compile(path)
    path.write_bytes(b"something else")
    with pytest.raises(ModelError, match="is no TFLite file: it lacks the identifier TFL3"):
        sbnn_tvm.compile(path)
    with pytest.raises(ModelError, match="is no ordinary file"):
        to_onnx(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="is no ordinary file"):
        to_onnx(tmp_path / "pipe")


SETS = ("larq", "float_operators", "quantised")


def damaged(file: bytes, rng: np.random.Generator) -> bytes:
    """A file with a few bytes changed, or cut off."""
    data = bytearray(file)
    for place in rng.integers(0, len(data), rng.integers(1, 4)):
        data[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.integers(256)])
    return bytes(data[: rng.integers(8, len(data))]) if rng.random() < 0.1 else bytes(data)


def try_damaged(names: list[str], count: int, rng: np.random.Generator) -> None:
    """Every damaged file is either refused in a sentence or a valid model."""
    files = [case.file for set_ in SETS for name, case in load(set_).items() if name in names]
    for index in range(count):
        try:
            model = to_onnx(damaged(files[index % len(files)], rng))
        except ModelError as error:
            assert "\n" not in str(error)
        else:
            load_model(model)


def test_damaged_files(rng: np.random.Generator) -> None:
    try_damaged(["booleans", "conv_valid", "network", "slices", "zero_padding"], 300, rng)


@pytest.mark.fuzz
def test_more_damaged_files(rng: np.random.Generator) -> None:
    try_damaged([name for set_ in SETS for name in load(set_)], 20_000, rng)
