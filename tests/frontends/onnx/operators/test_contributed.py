"""onnxruntime's own operators on quantised values, against onnxruntime, bit by bit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.imports import constants_of, run_imported
from tests.support.small_models import run_reference

SCALES = np.float32([0.05, 0.1, 0.15, 0.2, 0.3, 0.35, 0.6, 0.7, 0.9, 1.1])
"""Decimals, whose ratios lie next to ties of the rounding."""


def codes(rng: np.random.Generator, dtype: str, *shape: int) -> np.ndarray:
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


class Model:
    """Nodes of the domain ``com.microsoft``; each has inputs of its own, and its output is one of the model's."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: dict[str, np.ndarray] = {}
        self.constants: dict[str, np.ndarray] = {}
        self.outputs: list[onnx.ValueInfoProto] = []

    def add(
        self,
        operator: str,
        values: Sequence[Any],
        shape: Sequence[int],
        dtype: str,
        given: Sequence[int],
        **options: Any,
    ) -> None:
        """A node; the values with the numbers ``given`` are inputs of the model, the others constants."""
        count = len(self.nodes)
        names = ["" if value is None else f"x{count}_{index}" for index, value in enumerate(values)]
        for index, (name, value) in enumerate(zip(names, values, strict=True)):
            if value is not None:
                (self.inputs if index in given else self.constants)[name] = np.asarray(value)
        self.nodes.append(
            helper.make_node(operator, names, [f"y{count}"], f"{operator}:{count}", domain="com.microsoft", **options)
        )
        element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(helper.make_tensor_value_info(f"y{count}", element, shape))

    def proto(self) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            [
                helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in self.inputs.items()
            ],
            self.outputs,
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
        return load_model(helper.make_model(graph, opset_imports=sets, ir_version=10))

    def check(self) -> None:
        """Compares every output with onnxruntime."""
        model = self.proto()
        got = run_imported(import_onnx(model), self.inputs)
        for node, value, want in zip(self.nodes, got, run_reference(model, self.inputs).values(), strict=True):
            np.testing.assert_array_equal(value, want, err_msg=node.name)


BOTH = pytest.mark.parametrize("dtype", ["int8", pytest.param("uint8", marks=pytest.mark.slow)])


@BOTH
def test_elementwise(rng: np.random.Generator, dtype: str) -> None:
    model = Model()
    s1, s2, s3 = rng.choice(SCALES, 3)
    z1, z2, z3 = codes(rng, dtype, 3)
    x, y, channel = codes(rng, dtype, 2, 3, 17, 64), codes(rng, dtype, 2, 3, 17, 64), codes(rng, dtype, 3, 1, 1)
    model.add("QLinearAdd", [x, s1, z1, y, s2, z2, s3, z3], x.shape, dtype, (0, 3))
    model.add("QLinearAdd", [x, s1, z1, channel, s2, z2, s3, z3], x.shape, dtype, (0,))
    model.add("QLinearAdd", [channel, s1, z1, x, s2, z2, s3, z3], x.shape, dtype, (3,))
    model.add("QLinearMul", [x, s1, z1, y, s2, z2, np.float32(64 * s3), z3], x.shape, dtype, (0, 3))
    model.check()


def test_parameters_at_run_time(rng: np.random.Generator) -> None:
    model = Model()
    a, b = codes(rng, "int8", 40), codes(rng, "int8", 40)
    s1, s2, s3 = rng.choice(SCALES, 3)
    z1, z2, z3 = codes(rng, "int8", 3)
    everything = tuple(range(8))
    model.add("QLinearAdd", [a, s1, z1, b, s2, z2, s3, z3], a.shape, "int8", everything)
    model.add("QLinearMul", [a, s1, z1, b, s2, z2, np.float32(64 * s3), z3], a.shape, "int8", everything)
    model.add("QLinearLeakyRelu", [a, s1, z1, s2, z2], a.shape, "int8", everything, alpha=0.3)
    model.add("QLinearConcat", [s3, z3, a, s1, z1, b, s2, z2], (80,), "int8", everything, axis=0)
    model.check()


@BOTH
def test_poolings(rng: np.random.Generator, dtype: str) -> None:
    model = Model()
    x = codes(rng, dtype, 2, 5, 7, 6)
    parameters = [x, rng.choice(SCALES), *codes(rng, dtype, 1), rng.choice(SCALES), *codes(rng, dtype, 1)]
    windows = {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}
    model.add("QLinearAveragePool", parameters, (2, 5, 4, 6), dtype, (0,), **windows)
    model.add("QLinearAveragePool", parameters, (2, 5, 4, 6), dtype, (0,), count_include_pad=1, **windows)
    model.add("QLinearGlobalAveragePool", parameters, (2, 5, 1, 1), dtype, (0,))
    model.add("QLinearGlobalAveragePool", parameters, (2, 1, 1, 6), dtype, (0,), channels_last=1)
    model.check()


@BOTH
def test_functions(rng: np.random.Generator, dtype: str) -> None:
    model = Model()
    x, low = codes(rng, dtype, 4, 3, 50), np.array(np.iinfo(dtype).min, dtype)
    parameters = [x, rng.choice(SCALES), *codes(rng, dtype, 1)]
    model.add("QLinearSigmoid", [*parameters, np.float32(1 / 256), low], x.shape, dtype, (0,))
    model.add("QLinearLeakyRelu", [*parameters, rng.choice(SCALES), None], x.shape, dtype, (0,))
    small = [x, np.float32(0.01), *codes(rng, dtype, 1), np.float32(1 / 256), low]
    model.add("QLinearSoftmax", small, x.shape, dtype, (0,), opset=13)
    model.add("QLinearSoftmax", small, x.shape, dtype, (0,), opset=12, axis=1)
    pair = [x, rng.choice(SCALES), *codes(rng, dtype, 1), x, rng.choice(SCALES), *codes(rng, dtype, 1)]
    end = [rng.choice(SCALES), *codes(rng, dtype, 1)]
    model.add("QLinearWhere", [rng.random(x.shape) < 0.5, *pair, *end], x.shape, dtype, (0, 1, 4))
    model.add("QLinearConcat", [*end, *pair], (4, 6, 50), dtype, (2, 5), axis=1)
    model.check()


@BOTH
def test_products(rng: np.random.Generator, dtype: str) -> None:
    model = Model()
    weights = rng.integers(-64, 64, (8, 6)).astype(np.int8)
    scales, zeros = rng.random(6).astype(np.float32), np.zeros(6, np.int8)
    bias = rng.integers(-999, 999, 6).astype(np.int32)
    x, more = codes(rng, dtype, 3, 8), codes(rng, dtype, 2, 3, 8)
    scale, zero, end = rng.choice(SCALES), codes(rng, dtype, 1)[0], [np.float32(30), *codes(rng, dtype, 1)]
    model.add("QGemm", [x, scale, zero, weights, scale, np.int8(3), bias, *end], (3, 6), dtype, (0,))
    by_column = [weights.T.copy(), scales, zeros]
    model.add("QGemm", [x, scale, zero, *by_column, bias, *end], (3, 6), dtype, (0,), transB=1, alpha=0.3)
    model.add("QGemm", [x.T.copy(), scale, zero, weights, scales, zeros], (3, 6), "float32", (0,), transA=1)
    one = [more, weights, scale, scale, zero, np.int8(3)]
    model.add("MatMulIntegerToFloat", one, (2, 3, 6), "float32", (0,))
    many = [more, weights, scale, scales, zero, zeros, rng.random(6).astype(np.float32)]
    model.add("MatMulIntegerToFloat", many, (2, 3, 6), "float32", (0,))
    floats = rng.standard_normal((2, 3, 8)).astype(np.float32)
    model.add("DynamicQuantizeMatMul", [floats, weights, np.float32(0.3), np.int8(2)], (2, 3, 6), "float32", (0,))
    bias = rng.random(6).astype(np.float32)
    model.add("DynamicQuantizeMatMul", [floats, weights, scales, zeros, bias], (2, 3, 6), "float32", (0,))
    model.check()


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_blocks(rng: np.random.Generator, bits: int) -> None:
    """Rows of 40 weights in blocks of 16, the last of which is filled up; all sums are exact."""
    model = Model()
    x = rng.integers(-9, 9, (2, 3, 40)).astype(np.float32)
    weights = rng.integers(0, 256, (6, 3, 2 * bits)).astype(np.uint8)
    zeros = rng.integers(0, 256, 6 * -(-3 * bits // 8)).astype(np.uint8)
    scales, bias = (2.0 ** rng.integers(-3, 3, 18)).astype(np.float32), rng.integers(-9, 9, 6).astype(np.float32)
    options = {"K": 40, "N": 6, "bits": bits, "block_size": 16}
    model.add("MatMulNBits", [x, weights, scales], (2, 3, 6), "float32", (0,), **options)
    model.add("MatMulNBits", [x, weights, scales, zeros, None, bias], (2, 3, 6), "float32", (0,), **options)
    model.check()


def test_quantisation_to_16_bits(rng: np.random.Generator) -> None:
    model = Model()
    x = (rng.standard_normal((2, 3, 8)) * 99).astype(np.float32)
    scales, options = rng.choice(SCALES, 3), {"axis": 1}
    zeros = np.array([5, 3, 0], np.int16)
    model.add("QuantizeLinear", [x, np.float32(0.01), zeros[0]], x.shape, "int16", (0,))
    model.add("QuantizeLinear", [x, scales, zeros], x.shape, "int16", (0,), **options)
    y = codes(rng, "uint16", 2, 3, 8)
    model.add("DequantizeLinear", [y, scales, zeros.astype(np.uint16)], x.shape, "float32", (0,), **options)
    model.check()


@pytest.mark.parametrize("dtype", ["int16", "int4", "uint4"])
def test_quantised_weights_become_constants(rng: np.random.Generator, dtype: str) -> None:
    """The weights of a product, as onnxruntime's quantiser writes them for operator sets before 21."""
    model = Model()
    weights = rng.integers(0, 8, (8, 6)).astype(
        helper.tensor_dtype_to_np_dtype(getattr(onnx.TensorProto, dtype.upper()))
    )
    scales = rng.choice(SCALES, 6)
    model.add("DequantizeLinear", [weights, scales, weights[0]], (8, 6), "float32", (), axis=1)
    proto = model.proto()
    proto.opset_import[0].version = 17
    proto.graph.input.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (3, 8)))
    proto.graph.node.append(helper.make_node("MatMul", ["x", "y0"], ["y"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, (3, 6)))
    want = (weights.astype(np.float32) - weights[0].astype(np.float32)) * scales
    (got,) = (value for value in constants_of(import_onnx(proto)) if value.size == 48)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "operator, values, options, message",
    [
        ("QLinearAdd", ["uint16", 0.1, 0, "uint16", 0.1, 0, 0.1, 0], {}, "computes with uint16"),
        ("QLinearAdd", ["int8", [0.1, 0.2], 0, "int8", 0.1, 0, 0.1, 0], {}, r"shape \[2\], where one number"),
        (
            "QLinearAveragePool",
            ["int8", 0.1, 0, 0.1, 0],
            {"kernel_shape": [1], "channels_last": 1},
            "has channels_last=1",
        ),
        ("QLinearConcat", [0.1, 0, "int8", 0.1], {"axis": 0}, "has 4 inputs"),
        ("QLinearReduceMean", ["int8", 0.1, 0, 0.1, 0], {}, "com.microsoft::QLinearReduceMean"),
    ],
)
def test_refusals(operator: str, values: list[Any], options: Mapping[str, Any], message: str) -> None:
    model = Model()
    dtype = next(value for value in values if isinstance(value, str))
    arrays = [
        np.zeros((1, 2, 4), value) if isinstance(value, str) else np.asarray(value, dtype if value == 0 else np.float32)
        for value in values
    ]
    given = [index for index, value in enumerate(values) if isinstance(value, str)]
    model.add(operator, arrays, (1, 2, 4), dtype, given, **options)
    with pytest.raises(ModelError, match=message):
        import_onnx(model.proto())
