"""The operator set: packing, and the function bodies in stock onnxruntime against plain numpy."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from sbnn_tvm.frontends.onnx import opset


def run(op: str, inputs: dict[str, np.ndarray], constants: dict[str, np.ndarray], **attributes: object) -> np.ndarray:
    """One ai.sbnn operator in onnxruntime, with graph optimisations off."""
    names = [*inputs, *constants]
    rank = next(iter(inputs.values())).ndim
    node = helper.make_node(op, names, ["y"], domain=opset.DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        "one_operator",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, v.shape) for n, v in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"y{i}" for i in range(rank)])],
        [numpy_helper.from_array(v, n) for n, v in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset.ONNX_OPSET)])
    opset.add_functions(model)
    onnx.checker.check_model(model, full_check=True)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, inputs)[0]


def conv2d(x: np.ndarray, w: np.ndarray, strides, pads, dilations, group, pad_value) -> np.ndarray:
    """A convolution by its definition, in int64."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=pad_value).astype(np.int64)
    oc, icg, kh, kw = w.shape
    height = (x.shape[2] - dilations[0] * (kh - 1) - 1) // strides[0] + 1
    width = (x.shape[3] - dilations[1] * (kw - 1) - 1) // strides[1] + 1
    y = np.zeros((x.shape[0], oc, height, width), np.int64)
    for o, i, a, b in itertools.product(range(oc), range(icg), range(kh), range(kw)):
        channel = o // (oc // group) * icg + i
        top, left = a * dilations[0], b * dilations[1]
        rows = slice(top, top + strides[0] * (height - 1) + 1, strides[0])
        columns = slice(left, left + strides[1] * (width - 1) + 1, strides[1])
        y[:, o] += int(w[o, i, a, b]) * x[:, channel, rows, columns]
    return y


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 5), min_size=2, max_size=4), st.integers(0, 2**32 - 1))
def test_packing_round_trips(shape: list[int], seed: int) -> None:
    bits = np.random.default_rng(seed).integers(0, 2, shape).astype(bool)
    packed = opset.pack_bits(bits)
    assert packed.dtype == np.uint8 and packed.shape == (shape[0], -(-bits[0].size // 8))
    np.testing.assert_array_equal(opset.unpack_bits(packed, shape), bits)


def test_packing_order_and_tail() -> None:
    bits = np.zeros((2, 3, 1, 3), bool)
    bits[0, 0, 0, 1] = bits[1, 2, 0, 2] = True  # taps 1 and 8
    np.testing.assert_array_equal(opset.pack_bits(bits), [[2, 0], [0, 1]])


@pytest.mark.parametrize("packed", [np.zeros((2, 1), np.uint8), np.zeros((2, 2), np.int8)])
def test_unpacking_rejects_other_shapes(packed: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"are uint8 \[2, 2\]"):
        opset.unpack_bits(packed, (2, 9))


def test_binarize_at_ties_and_nan() -> None:
    x = np.array([[-1.0, -0.0, 0.0, 1e-45, 2.0, np.nan, np.inf, -np.inf]], np.float32)
    y = run("Binarize", {"x": x}, {"t": np.zeros((), np.float32)}, lo=-1.0, hi=1.0)
    np.testing.assert_array_equal(y, [[-1, -1, -1, 1, 1, -1, 1, -1]])


def test_binarize_per_channel_with_its_own_domain(rng: np.random.Generator) -> None:
    x = rng.integers(-2, 3, (2, 3, 4, 5)).astype(np.float32)
    t = np.array([-1, 0, 1], np.float32).reshape(3, 1, 1)
    np.testing.assert_array_equal(run("Binarize", {"x": x}, {"t": t}, lo=0.0, hi=0.25), np.where(x > t, 0.25, 0))


CONVOLUTIONS = [
    # channels in, out, kernel, strides, pads, dilations, group
    (3, 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 1),
    (8, 4, (1, 1), (2, 2), (0, 0, 0, 0), (1, 1), 1),
    (5, 6, (3, 2), (2, 1), (0, 1, 2, 3), (1, 1), 1),
    (6, 4, (3, 3), (1, 2), (2, 2, 2, 2), (2, 2), 2),
    (4, 4, (3, 3), (1, 1), (1, 1, 1, 1), (1, 1), 4),
]


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize("shape", CONVOLUTIONS)
def test_binary_conv2d(shape, pad_value: int) -> None:
    cin, cout, kernel, strides, pads, dilations, group = shape
    rng = np.random.default_rng(cin)
    x = rng.choice(np.float32([-1, 1]), (2, cin, 7, 6))
    bits = rng.integers(0, 2, (cout, cin // group, *kernel)).astype(bool)
    scale = rng.standard_normal(cout).astype(np.float32)
    offset = rng.standard_normal(cout).astype(np.float32)
    args = strides, pads, dilations, group, pad_value
    attributes = dict(
        weight_shape=bits.shape, strides=strides, pads=pads, dilations=dilations, group=group, pad_value=pad_value
    )

    def ours(scale: np.ndarray, offset: np.ndarray) -> np.ndarray:
        constants = {"w": opset.pack_bits(bits), "s": scale, "o": offset}
        return run("BinaryConv2d", {"x": x}, constants, **attributes)

    d = conv2d(x, 2 * bits - 1, *args)
    t = conv2d(x, np.ones(bits.shape, int), *args)
    np.testing.assert_array_equal(ours(np.ones_like(scale), np.zeros_like(offset)), d)
    np.testing.assert_array_equal(ours(np.zeros_like(scale), np.ones_like(offset)), t)
    column = np.s_[:, None, None]
    expected = d.astype(np.float32) * scale[column] + t.astype(np.float32) * offset[column]
    np.testing.assert_array_equal(ours(scale, offset), expected)


@pytest.mark.parametrize("lead", [(3,), (2, 3)])
@pytest.mark.parametrize("features", [1, 8, 13])
def test_binary_linear(features: int, lead: tuple[int, ...]) -> None:
    rng = np.random.default_rng(features)
    x = rng.choice(np.float32([-1, 1]), (*lead, features))
    bits = rng.integers(0, 2, (5, features)).astype(bool)
    scale, offset = rng.standard_normal((2, 5)).astype(np.float32)
    constants = {"w": opset.pack_bits(bits), "s": scale, "o": offset}
    y = run("BinaryLinear", {"x": x}, constants, in_features=features)
    signs = (2 * bits - 1).astype(np.float32)
    np.testing.assert_array_equal(y, x @ signs.T * scale + x.sum(-1, keepdims=True) * offset)


def test_functions_are_added_once_and_only_where_used() -> None:
    graph = helper.make_graph([helper.make_node("Binarize", ["x", "t"], ["y"], domain=opset.DOMAIN)], "g", [], [])
    model = helper.make_model(graph)
    opset.add_functions(opset.add_functions(model))
    assert [f.name for f in model.functions] == ["Binarize"]
    assert [e.version for e in model.opset_import if e.domain == opset.DOMAIN] == [opset.VERSION]
    assert model.ir_version <= opset.IR_VERSION


def test_an_unknown_operator_is_named() -> None:
    graph = helper.make_graph([helper.make_node("TernaryConv2d", ["x"], ["y"], domain=opset.DOMAIN)], "g", [], [])
    with pytest.raises(ValueError, match="no operator TernaryConv2d"):
        opset.add_functions(helper.make_model(graph))
