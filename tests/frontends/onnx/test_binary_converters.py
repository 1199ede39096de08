"""The ai.sbnn operators against onnxruntime, the form they take in Relax, and what is refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from onnx import helper, parser

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx import opset
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.imports import X, build, check, operators
from tests.support.random_arrays import normal


def binary_constants(
    rng: np.random.Generator, shape: tuple[int, ...], scaled: bool, shifted: bool
) -> dict[str, np.ndarray]:
    channels = shape[0]
    return {
        "w": opset.pack_bits(rng.integers(0, 2, shape)),
        "s": rng.uniform(0.1, 2, channels).astype(np.float32) if scaled else np.ones(channels, np.float32),
        "o": normal(rng, channels) if shifted else np.zeros(channels, np.float32),
    }


@pytest.mark.parametrize("pad_value", [-1, 0, 1])
@pytest.mark.parametrize(("group", "scaled", "shifted"), [(1, False, False), (1, True, True), (2, True, True)])
def test_binary_conv2d(pad_value: int, group: int, scaled: bool, shifted: bool, rng: np.random.Generator) -> None:
    shape = (6, 4 // group, 3, 3)
    imported = check(
        f"""
        bits = ai.sbnn.Binarize(x, t)
        y = ai.sbnn.BinaryConv2d<weight_shape = [6, {shape[1]}, 3, 3], strides = [2, 1], pads = [1, 0, 1, 2],
        """.rstrip()
        + f" group = {group}, pad_value = {pad_value}>(bits, w, s, o)",
        {"x": X},
        {"t": normal(rng, 4, 1, 1), **binary_constants(rng, shape, scaled, shifted)},
        exact=True,
    )
    wanted = ["greater", "where", *(["nn.pad"] if pad_value else []), "nn.conv2d"]
    wanted += ["multiply"] if scaled else []
    wanted += ["nn.conv2d", "multiply", "add"] if shifted else []
    assert operators(imported) == wanted


@pytest.mark.parametrize(("scaled", "shifted"), [(False, False), (True, False), (True, True)])
def test_binary_linear(scaled: bool, shifted: bool, rng: np.random.Generator) -> None:
    check(
        """
        bits = ai.sbnn.Binarize<lo = 0.0, hi = 1.0>(x, t)
        y = ai.sbnn.BinaryLinear<in_features = 13>(bits, w, s, o)
        """,
        {"x": normal(rng, 3, 13)},
        {"t": np.float32(0), **binary_constants(rng, (5, 13), scaled, shifted)},
        exact=True,
    )


def test_binary_operators_need_no_bodies(rng: np.random.Generator) -> None:
    constants = {"t": np.float32(0), **binary_constants(rng, (5, 13), True, True)}
    text = "bits = ai.sbnn.Binarize(x, t)\ny = ai.sbnn.BinaryLinear<in_features = 13>(bits, w, s, o)"
    model = build(text, {"x": normal(rng, 3, 13)}, constants)
    del model.functions[:]
    assert "matmul" in operators(import_onnx(load_model(model)))


def test_unknown_binary_operators_and_versions() -> None:
    model = build("bits = ai.sbnn.Binarize(x, t)", {"x": X}, {"t": np.float32(0)})
    del model.functions[:]
    model.graph.node[0].op_type = "Ternarize"
    with pytest.raises(ModelError, match=r"ai\.sbnn::Ternarize \(node 'Binarize:bits'"):
        import_onnx(model)
    next(entry for entry in model.opset_import if entry.domain == opset.DOMAIN).version = 7
    with pytest.raises(ModelError, match=r"version 7 of the ai\.sbnn operators"):
        import_onnx(model)


def wrong_binary_operators(rng: np.random.Generator) -> list[tuple[str, dict[str, np.ndarray], str]]:
    """An operator, the inputs that are not as in the good one, and what the error says."""
    return [
        ("BinaryLinear<in_features = 33>", {"x": normal(rng, 3, 33)}, "'BinaryLinear:y' has wrong weights: packed"),
        ("BinaryLinear<in_features = 13>", {"x": normal(rng, 3, 12)}, r"has in_features 13, but .* \[3, 12\]"),
        ("BinaryLinear<in_features = 13>", {"s": normal(rng, 4)}, r"has scale .*\[4\]; expected float32 \[5\]"),
        ("BinaryLinear<in_features = 13>", {"o": np.full(5, np.nan, np.float32)}, "has offset .* all finite"),
        ("BinaryLinear", {}, "lacks the attribute 'in_features'"),
        ("BinaryConv2d<weight_shape = [5, 13]>", {}, r"has weight_shape \[5, 13\] and group 1"),
        ("BinaryConv2d<weight_shape = [5, 13, 1, 1]>", {}, r"an input of shape \[3, 13\]"),
        ("BinaryConv2d<weight_shape = [5, 13, 1, 1], pad_value = 2>", {"x": normal(rng, 1, 13, 2, 2)}, "pad_value 2"),
        ("Binarize<lo = 1.0, hi = 0.0>", {}, "has lo 1 and hi 0; expected"),
    ]


@pytest.mark.parametrize(
    ("text", "changes", "match"),
    wrong_binary_operators(np.random.default_rng(0)),
)
def test_binary_operators_that_do_not_fit(
    text: str, changes: Mapping[str, np.ndarray], match: str, rng: np.random.Generator
) -> None:
    values = {"x": normal(rng, 3, 13), **binary_constants(rng, (5, 13), True, True), **changes}
    x = {"x": values.pop("x")}
    model = build("y = Relu(x)", x, values)
    node = parser.parse_node(
        f"y = ai.sbnn.{text}(x, w, s, o)" if "Linear" in text or "Conv" in text else f"y = ai.sbnn.{text}(x, s)"
    )
    node.name = f"{node.op_type}:y"
    model.graph.node[0].CopyFrom(node)
    model.opset_import.append(helper.make_opsetid(opset.DOMAIN, 1))
    with pytest.raises(ModelError, match=match):
        import_onnx(model)
