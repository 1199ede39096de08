"""float16 models are computed in float32, and rounded where onnxruntime rounds them."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

import sbnn_tvm
from sbnn_tvm.frontends.onnx.float16 import in_float32
from tests.support.random_arrays import normal, signs
from tests.support.small_models import run_reference, small_model

HALF = np.float16


def half_model(
    text: str, shape: tuple[int, ...], constants: dict[str, np.ndarray] | None = None, dtype: str = "float16"
) -> onnx.ModelProto:
    return small_model(text, {"x": (shape, dtype)}, constants)


def both(model: onnx.ModelProto, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What the compiled model computes and what onnxruntime does, of the same type and shape."""
    (expected,) = run_reference(model, {"x": x}).values()
    found = np.asarray(sbnn_tvm.compile(model).run(x))
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    return found, expected


SUMS = {
    "convolution": ("y = Conv(x, w)", (1, 512, 3, 3), (2, 512, 3, 3)),
    "one axis": ("y = Conv(x, w)", (1, 512, 9), (2, 512, 9)),
    "transposed": ("y = ConvTranspose(x, w)", (1, 4096, 1, 1), (4096, 2, 1, 1)),
    "product": ("y = MatMul(x, w)", (1, 4608), (4608, 2)),
    "gemm": ("y = Gemm(x, w)", (1, 4608), (4608, 2)),
    "einsum": ('y = Einsum<equation="ij,jk->ik">(x, w)', (1, 4608), (4608, 2)),
    "mean of maps": ("y = GlobalAveragePool(x)", (1, 2, 80, 80), ()),
    "mean of windows": ("y = AveragePool<kernel_shape=[64, 64]>(x)", (1, 2, 64, 64), ()),
    "sum": ("y = ReduceSum(x)", (1, 4608), ()),
    "mean": ("y = ReduceMean(x)", (1, 4608), ()),
    "absolute": ("y = ReduceL1(x)", (1, 4608), ()),
    "norm": ("y = ReduceL2(x)", (1, 4608), ()),
    "squares": ("y = ReduceSumSquare(x)", (1, 4608), ()),
    "logarithm": ("y = ReduceLogSumExp(x)", (1, 4608), ()),
    "running": ("y = CumSum(x, axis)", (1, 4608), ()),
    "softmax": ("y = Softmax(x)", (1, 4608), ()),
    "layer norm": ("y = LayerNormalization(x, w)", (2, 4608), (4608,)),
}


@pytest.mark.parametrize(("text", "shape", "weight"), SUMS.values(), ids=SUMS.keys())
def test_sums_are_float32(text: str, shape: tuple[int, ...], weight: tuple[int, ...], rng: np.random.Generator) -> None:
    """Thousands of ones and a little more: float16 sums of them stay at 2048."""
    constants = {"w": np.ones(weight, HALF)} if weight else {}
    if "axis" in text:
        constants["axis"] = np.array(1, np.int64)
    model, x = half_model(text, shape, constants), (1 + 0.25 * rng.random(shape)).astype(HALF)
    found, expected = (values.astype(np.float32) for values in both(model, x))
    np.testing.assert_allclose(found, expected, rtol=2e-3, atol=1e-3)


def test_a_chain_is_rounded_once(rng: np.random.Generator) -> None:
    constants = {"a": HALF(1.2345), "b": HALF(0.777)}
    model, x = half_model("m = Mul(x, a)\ny = Add(m, b)", (1000,), constants), normal(rng, 1000).astype(HALF)
    wide = x.astype(np.float32) * np.float32(constants["a"]) + np.float32(constants["b"])
    found, expected = both(model, x)
    np.testing.assert_array_equal(found, wide.astype(HALF))
    np.testing.assert_array_equal(found, expected)


def test_values_beyond_float16_between_two_operators() -> None:
    model = half_model("m = Mul(x, x)\ny = Mul(m, s)", (3,), {"s": HALF(1e-3)})
    x = HALF([1000, -2000, 1])
    found, expected = both(model, x)
    np.testing.assert_array_equal(found, expected)
    assert np.isfinite(found).all()


@pytest.mark.parametrize(
    "text",
    [
        "h = Cast<to=10>(x)\ny = Cast<to=1>(h)",  # two casts are there in order to round
        "h = Cast<to=10>(x)\nm = Mul(h, s)\ny = Cast<to=1>(m)",  # onnxruntime drops a cast before an operator
        "h = Cast<to=10>(x)\nm = Mul(h, s)\nw = Cast<to=1>(h)\nn = Cast<to=1>(m)\ny = Add(w, n)",
        "h = Cast<to=10>(x)\nt = Transpose(h)\ny = Cast<to=1>(t)",
    ],
)
def test_casts_round_where_onnxruntime_rounds(text: str, rng: np.random.Generator) -> None:
    model = half_model(text, (1000,), {"s": HALF(1.2345)} if "s)" in text else {}, "float32")
    np.testing.assert_array_equal(*both(model, normal(rng, 1000)))


def test_weights_of_two_values_are_binary(rng: np.random.Generator) -> None:
    """Also those that no float16 sum could hold, and with scales, as for float32."""
    text = (
        "c = Greater(x, t)\nb = Where(c, hi, lo)\nd = Conv(b, w)\nn = Mul(d, s)\ne = Greater(n, t)\n"
        "f = Where(e, hi, lo)\ng = Flatten(f)\ny = MatMul(g, v)"
    )
    constants = {
        **{"t": HALF(0), "hi": HALF(1), "lo": HALF(-1), "s": rng.standard_normal((1, 8, 1, 1)).astype(HALF)},
        **{"w": signs(rng, 8, 300, 3, 3).astype(HALF) * HALF(0.125), "v": signs(rng, 72, 5).astype(HALF)},
    }
    model, x = half_model(text, (1, 300, 5, 5), constants), normal(rng, 1, 300, 5, 5).astype(HALF)
    module = sbnn_tvm.compile(model)
    np.testing.assert_array_equal(module.run(x), run_reference(model, {"x": x})["y"])
    assert [layer.kind for layer in module.report.layers if layer.macs] == ["binary conv 3x3", "binary conv 3x3"]


def test_every_kind_of_tensor_and_attribute_is_converted() -> None:
    nodes = [
        helper.make_node("Constant", [], ["k"], value=numpy_helper.from_array(HALF([1, 2]))),
        helper.make_node("ConstantOfShape", ["n"], ["z"], value=numpy_helper.from_array(HALF([2]))),
        helper.make_node("EyeLike", ["q"], ["r"], dtype=TensorProto.FLOAT16),
        *map(parser.parse_node, ["a = Add(x, k)", "b = Mul(a, z)", "y = MatMul(b, r)"]),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT16, [3, 2]) for name in "xy"]
    constants = [numpy_helper.from_array(np.int64([1]), "n"), numpy_helper.from_array(np.zeros((2, 2), HALF), "q")]
    graph = helper.make_graph(nodes, "constants", values[:1], values[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    np.testing.assert_array_equal(*both(model, HALF([[1, 2], [3, 4], [5, 6]])))
    wide = onnx.shape_inference.infer_shapes(in_float32(model), strict_mode=True)
    assert all(value.type.tensor_type.elem_type != TensorProto.FLOAT16 for value in wide.graph.value_info)
    assert model.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16, "the model itself is unchanged"


def test_a_model_without_float16_is_not_copied() -> None:
    model = half_model("y = Relu(x)", (3,), {}, "float32")
    assert in_float32(model) is model
