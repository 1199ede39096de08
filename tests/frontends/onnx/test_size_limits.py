"""A file of a kilobyte does not make the compiler allocate gigabytes, or compute for minutes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper, parser

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx import opset
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.imports import X, build

HUGE = np.int64([30_000, 30_000])
BOMBS: dict[str, tuple[str, dict[str, object]]] = {
    "ConstantOfShape": ("c = ConstantOfShape(shape)", {"shape": HUGE}),
    "Expand": ("c = Expand(one, shape)", {"one": np.float32([1]), "shape": HUGE}),
    "Tile": ("c = Tile(one, shape)", {"one": np.float32([[1]]), "shape": HUGE}),
    "Range": ("c = Range(zero, end, step)", {"zero": np.int64(0), "end": np.int64(2**29), "step": np.int64(1)}),
    "Pad": ("c = Pad(one, pads)", {"one": np.float32([[1]]), "pads": np.int64([0, 0, 30_000, 30_000])}),
    "Resize": (
        'c = Resize<mode = "nearest">(one, , , sizes)',
        {"one": np.ones((1, 1, 1, 1), np.float32), "sizes": np.int64([1, 1, 30_000, 30_000])},
    ),
    "OneHot": (
        "c = OneHot(hot, depth, ends)",
        {"hot": np.arange(99), "depth": np.int64(9_000_000), "ends": np.float32([0, 1])},
    ),
    "Gather": ("c = Gather(one, picks)", {"one": np.ones((1, 999_999), np.float32), "picks": np.zeros(999, np.int64)}),
    "Where": (
        "c = Where(yes, row, column)",
        {"yes": np.array(True), "row": np.ones((1, 30_000), "f4"), "column": np.ones((30_000, 1), "f4")},
    ),
    "EyeLike": ("s = ConstantOfShape<value = bool[1] {0}>(shape)\nc = EyeLike<dtype = 11>(s)", {"shape": HUGE // 3}),
    "MatMul": ("c = MatMul(column, row)", {"row": np.ones((1, 30_000), "f4"), "column": np.ones((30_000, 1), "f4")}),
    "ai.sbnn::DecodeSparse": (
        "c = ai.sbnn.DecodeSparse<shape = [30000, 30000]>(gaps, values)",
        {"gaps": np.uint8([1]), "values": np.float32([1])},
    ),
    "Concat": (
        "a = Expand(one, shape)\nb = Neg(a)\nc = Concat<axis = 0>(a, b)",
        {"one": np.float32(1), "shape": HUGE // 6},
    ),
}


def uninferred(text: str, constants: Mapping[str, np.ndarray]) -> onnx.ModelProto:
    """A model of input x and output y; ``build`` lets ONNX infer values, which takes the memory that is saved here."""
    nodes = [parser.parse_node(line) for line in text.splitlines()]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, X.shape) for name in "xy")
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "bomb", [x], [y], tensors)
    return opset.add_functions(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


@pytest.mark.parametrize("operator", BOMBS)
def test_constants_that_grow(operator: str) -> None:
    text, constants = BOMBS[operator]
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    model = uninferred(f"{text}\nn = Size(c)\nf = Cast<to = 1>(n)\ny = Mul(x, f)", arrays)
    tracemalloc.start()
    with pytest.raises(ModelError, match=rf"{operator} .*(computes a constant of [\d,]+ bytes)"):
        import_onnx(load_model(model.SerializeToString()))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**29


def test_products_that_take_minutes() -> None:
    text = "a = ConstantOfShape(shape)\nb = MatMul(a, a)\nc = ReduceMax<keepdims = 0>(b)\ny = Mul(x, c)"
    model = build(text, {"x": X}, {"shape": np.int64([4000, 4000])})
    with pytest.raises(ModelError, match=r"MatMul.* multiplies constants 64,000,000,000 times"):
        import_onnx(load_model(model))


def test_large_inputs_and_results() -> None:
    with pytest.raises(ModelError, match=r"input 'x' has the shape \[1099511627776\], but at most 1,073,741,824"):
        import_onnx(load_model(build("y = Relu(x)", {"x": X}, shapes={"x": [2**40]})))
    with pytest.raises(ModelError, match=r"input 'x' has the shape \[1048576, 1048576\]"):
        import_onnx(build("y = Relu(x)", {"x": X}, shapes={"x": ["n", "m"]}), (2**20, 2**20))
    far = build("y = Tile(x, times)", {"x": X}, {"times": np.int64([2**10, 2**10, 2**10, 1])})
    with pytest.raises(ModelError, match=r"the result of Tile node .* has the shape \[2048, 4096, 7168, 9\]"):
        import_onnx(load_model(far))


def test_values_that_live_together() -> None:
    text = "\n".join(f"y{index} = Mul(x, c{index})" for index in range(20))
    constants = {f"c{index}": np.float32(index) for index in range(20)}
    model = build(text, {"x": X}, constants, shapes={"x": [2**10, 2**10, 2**10]})
    with pytest.raises(ModelError, match=r"more than 68,719,476,736 bytes for the values .* computes 'y15'"):
        import_onnx(load_model(model))
    in_order = "\n".join(f"{'y' if i == 19 else f'v{i}'} = Neg({'x' if i == 0 else f'v{i - 1}'})" for i in range(20))
    import_onnx(load_model(build(in_order, {"x": X}, shapes={"x": [2**10, 2**10, 2**10]})))


def test_what_a_file_holds_may_grow() -> None:
    packed = np.arange(2**18, dtype=np.uint32).view(np.uint8)  # 1 MB, and 32 times as much as float32 bits
    text = """
        column = Unsqueeze(packed, last)
        shifted = BitShift<direction = "RIGHT">(column, amounts)
        bits = BitwiseAnd(shifted, one)
        numbers = Cast<to = 1>(bits)
        doubled = Mul(numbers, two)
        total = ReduceSum<keepdims = 0>(doubled)
        y = Mul(x, total)
    """
    constants = {
        **{"packed": packed, "last": np.int64([1]), "amounts": np.arange(8, dtype=np.uint8), "one": np.uint8([1])},
        "two": np.float32(2),
    }
    assert import_onnx(load_model(build(text, {"x": X}, constants))).outputs[0].shape == X.shape
