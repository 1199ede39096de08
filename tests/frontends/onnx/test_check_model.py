"""What the checks before the import refuse."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.imports import X, build


def model() -> onnx.ModelProto:
    """Two nodes and a constant."""
    return build("z = Relu(x)\ny = Mul(z, w)", {"x": X}, {"w": np.ones((9,), np.float32)})


def duplicate_initializer(broken: onnx.ModelProto) -> None:
    broken.graph.initializer.append(broken.graph.initializer[0])


def duplicate_output(broken: onnx.ModelProto) -> None:
    broken.graph.output.append(broken.graph.output[0])


def duplicate_value(broken: onnx.ModelProto) -> None:
    broken.graph.node[1].output[0] = "z"


def unsorted(broken: onnx.ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in reversed(broken.graph.node)]
    del broken.graph.node[:]
    broken.graph.node.extend(nodes)


def circular(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].input[0] = "y"


def control_characters(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].name = "a\x1b[2Jb"


def nul(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].output[0] = broken.graph.node[1].input[0] = "z\0"


def wrong_type_of_attribute(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].CopyFrom(helper.make_node("Softmax", ["x"], ["z"], axis="last"))


def unknown_attribute(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].attribute.append(helper.make_attribute("alpha", 1.0))


def two_attributes(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].CopyFrom(helper.make_node("Softmax", ["x"], ["z"], axis=1))
    broken.graph.node[0].attribute.append(helper.make_attribute("axis", 2))


def untyped_attribute(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].attribute.append(onnx.AttributeProto(name="axis", i=1))


def too_many_inputs(broken: onnx.ModelProto) -> None:
    broken.graph.node[0].input.extend(["x", "x"])


def shape_without_data(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].dims[0] = 10


def negative_dimension(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].dims[:] = [-3, -3]


def huge_dimensions(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].dims[:] = [2**33, 2**31]


def unknown_type(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].data_type = 77


def no_type(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].data_type = TensorProto.UNDEFINED


def missing_numbers(broken: onnx.ModelProto) -> None:
    broken.graph.initializer[0].CopyFrom(TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[9], float_data=[1.0]))


def sparse_and_huge(broken: onnx.ModelProto) -> None:
    values = broken.graph.initializer.pop()
    values.dims[:] = [1]
    values.raw_data = values.raw_data[:4]
    indices = numpy_helper.from_array(np.int64([1]))
    broken.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [2**40]))


def two_versions(broken: onnx.ModelProto) -> None:
    broken.opset_import.append(helper.make_opsetid("ai.onnx", 9))


def too_deep(broken: onnx.ModelProto) -> None:
    result = helper.make_tensor_value_info("z", TensorProto.FLOAT, None)
    node = helper.make_node("Relu", ["x"], ["z"])
    for _ in range(28):
        branch = helper.make_graph([node], "branch", [], [result])
        node = helper.make_node("If", ["yes"], ["z"], then_branch=branch)
    broken.graph.node[0].CopyFrom(node)


def call(broken: onnx.ModelProto, bodies: dict[str, list[str]]) -> None:
    """Functions that call others one after another."""
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("local", 1)]
    for name, callees in bodies.items():
        domain = ["" if callee == "Relu" else "local" for callee in callees]
        names = ["in", *(f"v{index}" for index in range(len(callees) - 1)), "out"]
        nodes = [
            helper.make_node(callee, [names[index]], [names[index + 1]], domain=domain[index])
            for index, callee in enumerate(callees)
        ]
        broken.functions.append(helper.make_function("local", name, ["in"], ["out"], nodes, opsets))
    broken.opset_import.append(helper.make_opsetid("local", 1))
    broken.graph.node[0].op_type, broken.graph.node[0].domain = "F0", "local"


def recursive(broken: onnx.ModelProto) -> None:
    call(broken, {"F0": ["Relu", "F1"], "F1": ["F0"]})


def exponential(broken: onnx.ModelProto) -> None:
    call(broken, {f"F{level}": [f"F{level + 1}"] * 2 for level in range(40)} | {"F40": ["Relu"]})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (duplicate_initializer, "the graph has two initializers 'w'"),
        (duplicate_output, "the graph has two outputs 'y'"),
        (duplicate_value, "Graph must be in single static assignment"),
        (unsorted, "topologically sorted"),
        (circular, "topologically sorted"),
        (control_characters, r"a name with control characters, 'a\\x1b\[2Jb'"),
        (nul, r"a name with control characters, 'z\\x00'"),
        (wrong_type_of_attribute, "axis"),
        (unknown_attribute, "alpha"),
        (two_attributes, "Softmax node that computes 'z' has two attributes 'axis'"),
        (untyped_attribute, "'axis' of an unknown type"),
        (too_many_inputs, "has input size 3"),
        (shape_without_data, r"the initializer 'w' of shape \[10\] is damaged \(it needs 40 bytes, but has 36\)"),
        (negative_dimension, r"shape \[-3, -3\], with a negative dimension"),
        (huge_dimensions, r"shape \[8589934592, 2147483648\], but at most"),
        (unknown_type, "element type number 77"),
        (no_type, "element type UNDEFINED"),
        (missing_numbers, "it needs 9 numbers, but has 1"),
        (sparse_and_huge, r"sparse initializer 'w' has the shape \[1099511627776\]"),
        (two_versions, "two versions of the operator set 'ai.onnx'"),
        (too_deep, "nests subgraphs more than 24 deep"),
        (recursive, "a function that calls itself, local::F"),
        (exponential, "more than 1,048,576 nodes once its functions"),
    ],
)
def test_damage_is_named(damage: Callable[[onnx.ModelProto], None], message: str) -> None:
    broken = model()
    assert load_model(broken) is broken
    damage(broken)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(broken)
    assert "\n" not in str(caught.value)


def test_bodies_of_our_operators_are_those_of_the_specification() -> None:
    good = build("y = ai.sbnn.Binarize(x, t)", {"x": X}, {"t": np.float32(0)})
    good.functions[0].node[0].name = "another name"
    assert load_model(good) is good
    good.functions[0].node[-1].input[1] = "low"
    with pytest.raises(ModelError, match=r"defines ai\.sbnn::Binarize otherwise than version 1"):
        load_model(good)


def test_names_that_are_no_text() -> None:
    data = model().SerializeToString().replace(b"\x01z", b"\x01\xff")
    with pytest.raises(ModelError, match=r"a name that is not UTF-8, b'\\xff'"):
        load_model(data)


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for path, message in (
        (tmp_path / "pipe.onnx", "no ordinary file"),
        (Path("/dev/zero"), "no ordinary file"),
        (tmp_path / ("x" * 300), "cannot be read: File name too long"),
        (tmp_path / "a\0b", "cannot be read"),
    ):
        with pytest.raises(ModelError, match=message):
            load_model(path)
