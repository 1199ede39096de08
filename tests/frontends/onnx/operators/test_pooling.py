"""Poolings against onnxruntime: windows, padding, rounding up, positions of the maxima."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from tests.support.imports import X, build, check, operators, run_imported
from tests.support.random_arrays import normal

PLANES = (
    "kernel_shape = [3, 2], strides = [2, 3], pads = [1, 0, 1, 1]",
    "kernel_shape = [2, 4], strides = [2, 3], ceil_mode = 1",
    "kernel_shape = [2, 2], strides = [3, 3], pads = [1, 1, 0, 1], ceil_mode = 1",
    'kernel_shape = [3, 2], strides = [2, 2], auto_pad = "SAME_UPPER"',
    'kernel_shape = [3, 4], strides = [2, 3], auto_pad = "SAME_LOWER"',
    'kernel_shape = [3, 3], strides = [2, 2], auto_pad = "VALID"',
)
DILATED = (
    "kernel_shape = [2, 3], dilations = [3, 2], pads = [1, 2, 0, 1], strides = [2, 1]",
    "kernel_shape = [2, 3], dilations = [2, 2], pads = [1, 0, 1, 2], strides = [2, 3], ceil_mode = 1",
)
LINES = (
    'kernel_shape = [3], strides = [2], auto_pad = "SAME_LOWER"',
    'kernel_shape = [2], strides = [3], auto_pad = "SAME_LOWER"',
    'kernel_shape = [4], strides = [3], auto_pad = "SAME_UPPER"',
    "kernel_shape = [2], strides = [3], pads = [1, 1], ceil_mode = 1",
)
VOLUMES = (
    "kernel_shape = [2, 3, 2], strides = [2, 1, 2], pads = [1, 1, 0, 0, 1, 1]",
    "kernel_shape = [2, 2, 3], strides = [2, 3, 2], pads = [1, 0, 1, 0, 1, 1], ceil_mode = 1",
    'kernel_shape = [3, 2, 2], strides = [2, 2, 2], auto_pad = "SAME_LOWER"',
)


def nodes(operator: str, more: str = "") -> str:
    """One node for each window over an image x, a line l and a volume v."""
    lines = []
    for name, windows in (("x", (*PLANES, *DILATED)), ("l", LINES), ("v", VOLUMES)):
        for index, window in enumerate(windows):
            lines.append(f"{name}{index} = {operator}<{window}{more}>({name})")
    return "\n".join(lines)


@pytest.fixture
def inputs(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": X[:1, :2], "l": normal(rng, 2, 3, 11), "v": normal(rng, 1, 2, 5, 4, 6)}


def test_max_pooling(inputs: dict[str, np.ndarray]) -> None:
    imported = check(nodes("MaxPool"), inputs, exact=True)
    assert {"nn.max_pool2d", "nn.max_pool3d", "reshape"} == set(operators(imported))


@pytest.mark.parametrize("counted", [0, 1])
def test_average_pooling(counted: int, inputs: dict[str, np.ndarray]) -> None:
    check(nodes("AveragePool", f", count_include_pad = {counted}"), inputs, version=22)


@pytest.mark.parametrize("p", [1, 3])
def test_lp_pooling(p: int, inputs: dict[str, np.ndarray]) -> None:
    check(nodes("LpPool", f", p = {p}"), inputs, version=22)


def test_old_operator_sets(inputs: dict[str, np.ndarray]) -> None:
    window = "kernel_shape = [3, 2], strides = [2, 3], pads = [1, 0, 1, 1]"
    check(
        f"""
        maximum = MaxPool<{window}>(x)
        mean = AveragePool<{window}, count_include_pad = 1>(x)
        norm = LpPool<{window}, p = 3>(x)
        line = AveragePool<kernel_shape = [3], strides = [2], auto_pad = "SAME_LOWER">(l)
        """,
        {"x": inputs["x"], "l": inputs["l"]},
        version=7,
    )


def test_global_poolings(inputs: dict[str, np.ndarray]) -> None:
    lines = [
        f"{name}{index} = {operator}({name})"
        for name in inputs
        for index, operator in enumerate(("GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool<p = 3>"))
    ]
    check("\n".join(lines), inputs)


def test_integers_and_doubles(rng: np.random.Generator) -> None:
    inputs = {
        "signed": rng.integers(-128, 128, (1, 2, 5, 7)).astype(np.int8),
        "bytes": rng.integers(0, 256, (1, 2, 5, 7)).astype(np.uint8),
        "doubles": rng.standard_normal((1, 2, 5, 7)),
    }
    inputs["signed"][0, 0] = -128
    lines = [f"y_{name} = MaxPool<{PLANES[0]}>({name})" for name in inputs]
    check("\n".join(lines), inputs, exact=True)


@pytest.mark.parametrize("storage_order", [0, 1])
def test_positions_of_the_maxima(storage_order: int, rng: np.random.Generator) -> None:
    inputs = {
        "x": rng.integers(0, 4, (2, 3, 7, 9)).astype(np.float32),  # with many ties
        "l": rng.integers(0, 4, (2, 3, 11)).astype(np.float32),
        "v": rng.integers(0, 4, (2, 2, 5, 4, 6)).astype(np.float32),
        "b": rng.integers(0, 4, (1, 3, 7, 9)).astype(np.uint8),
    }
    lines = [
        f"{name}{index}, {name}{index}_places = MaxPool<{window}, storage_order = {storage_order}>({name})"
        for name, windows in (("x", (PLANES[2], DILATED[1])), ("l", LINES[3:]), ("v", VOLUMES[1:2]), ("b", PLANES[:1]))
        for index, window in enumerate(windows)
    ]
    check("\n".join(lines), inputs, exact=True)


def test_unpooling(rng: np.random.Generator) -> None:
    x = normal(rng, 2, 3, 4, 6)
    places = np.stack([rng.permutation(8 * 12)[:24].reshape(4, 6) for _ in range(6)]).reshape(2, 3, 4, 6)
    places = places + 96 * np.arange(6).reshape(2, 3, 1, 1)
    check("y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i)", {"x": x, "i": places}, exact=True)


def test_unpooling_to_a_larger_shape_as_onnx_defines_it(rng: np.random.Generator) -> None:
    """The indices count in the shape that the attributes give; onnxruntime counts in the larger one."""
    text = "y = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(x, i, s)"
    inputs = {"x": normal(rng, 1, 1, 2, 2), "i": np.int64([[[[5, 7], [13, 15]]]])}
    model = build(text, inputs, {"s": np.int64([1, 1, 5, 6])})
    (got,) = run_imported(import_onnx(model), inputs)
    (want,) = ReferenceEvaluator(model).run(None, inputs)
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    "text, message",
    [
        ("y = MaxPool<kernel_shape = [3]>(x)", r"kernel of shape \[3\]"),
        ("y = MaxPool<kernel_shape = [9, 9]>(x)", "use a larger input"),
        ('y = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME">(x)', "unknown auto_pad 'SAME'"),
        ("y = LpPool<kernel_shape = [2, 2], p = 0>(x)", "has p 0"),
        ("y = AveragePool<kernel_shape = [2, 2], strides = [0, 1]>(x)", r"strides \[0, 1\]"),
    ],
)
def test_refusals(text: str, message: str) -> None:
    model = build(text, {"x": X}, outputs=["y"])
    model.graph.output[0].type.tensor_type.elem_type = 1
    with pytest.raises(ModelError, match=message):
        import_onnx(model)
