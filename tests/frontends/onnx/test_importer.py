"""The imported module as a whole: the trace, names, outputs, and nodes that are refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from onnx import helper, parser
from tvm import relax

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import Imported, import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support import foreign_models
from tests.support.imports import X, bindings, build, check, operators, relu_model, run_imported
from tests.support.random_arrays import normal
from tests.support.small_models import run_reference


def test_every_value_is_traced(rng: np.random.Generator) -> None:
    model = load_model(foreign_models.bireal_net(channels=8, size=8))
    imported = import_onnx(model)
    bound = {binding.var.name: binding.var for binding in bindings(imported)}
    assert set(imported.nodes) == set(bound) and set(imported.trace) <= set(bound)
    assert set(imported.trace.values()) == {name for node in model.graph.node for name in node.output}
    assert set(imported.nodes.values()) == {node.name for node in model.graph.node}

    # every traced variable holds what onnxruntime computes for the value
    main = imported.mod["main"]
    names = list(imported.trace)
    block = relax.BlockBuilder()
    with block.function("main", main.params):
        with block.dataflow():
            renewed: dict[str, relax.Var] = {}
            for binding in bindings(imported):
                renewed[binding.var.name] = block.emit_output(_substitute(binding.value, renewed))
        block.emit_func_output(relax.Tuple([renewed[name] for name in names]))
    for name in imported.trace.values():
        if name != "y":
            imported.model.graph.output.append(onnx.ValueInfoProto(name=name))
    x = normal(rng, 1, 3, 8, 8)
    every = Imported(block.get(), imported.trace, imported.nodes, imported.inputs, imported.outputs, imported.model)
    wanted = run_reference(imported.model, {"x": x})
    for name, value in zip(names, run_imported(every, {"x": x}), strict=True):
        np.testing.assert_allclose(value, wanted[imported.trace[name]], rtol=1e-4, atol=1e-5, err_msg=name)


def _substitute(call: relax.Call, renewed: Mapping[str, relax.Var]) -> relax.Call:
    arguments = [renewed.get(a.name, a) if isinstance(a, relax.Var) else a for a in call.args]
    return relax.Call(call.op, arguments, call.attrs, call.ty_args)


def test_passed_through_values_share_a_variable() -> None:
    model = build("r = Relu(x)\ni = Identity(r)\nd = Dropout(i)\ny = Neg(d)\nz = Identity(y)", {"x": X})
    imported = import_onnx(load_model(model))
    assert operators(imported) == ["nn.relu", "negative"] and len(bindings(imported)) == 2
    assert list(imported.trace.values()) == ["r", "y"]


def test_outputs_that_are_inputs_or_constants() -> None:
    model = build("c = Sqrt(k)\ny = Identity(x)", {"x": X}, {"k": np.float32([4, 9])})
    imported = import_onnx(load_model(model))
    constant, same = run_imported(imported, {"x": X})
    np.testing.assert_array_equal(constant, [2, 3])
    np.testing.assert_array_equal(same, X)


def test_names_that_collide_or_are_no_identifiers() -> None:
    x = {"x": X, "1/in.put": X}
    model = build("a = Add(x, x)\nb = Neg(a)", x)
    nodes = model.graph.node
    nodes[0].input[1], nodes[0].output[0], nodes[1].input[0] = "1/in.put", "/x", "/x"
    imported = import_onnx(load_model(model))
    assert [spec.name for spec in imported.inputs] == ["x", "1/in.put"]
    names = [p.name for p in imported.mod["main"].params] + list(imported.nodes)
    assert len(set(names)) == 4 and all(name.isidentifier() for name in names)


def test_foreign_functions_are_inlined() -> None:
    body = [parser.parse_node("d = Add(a, a)"), parser.parse_node("r = Relu(d)")]
    versions = [helper.make_opsetid("", 21)]
    model = build("y = Relu(x)", {"x": X})
    model.functions.append(helper.make_function("my.domain", "TwiceRelu", ["a"], ["r"], body, versions))
    model.graph.node[0].CopyFrom(helper.make_node("TwiceRelu", ["x"], ["y"], domain="my.domain"))
    model.opset_import.append(helper.make_opsetid("my.domain", 1))
    assert operators(import_onnx(load_model(model))) == ["add", "nn.relu"]


def test_standard_operators_without_converter_use_their_definition() -> None:
    imported = check("y = Celu<alpha = 2.0>(x)\nz = Relu(y)", {"x": X})
    assert imported.nodes["z"] == "Relu:z" and "nn.relu" in operators(imported)


@pytest.mark.parametrize(
    "model",
    [
        foreign_models.bireal_net(channels=8, size=8, per_channel_threshold=True, symmetric=False, batch="N"),
        foreign_models.sign_net(channels=8, batch="N"),
        foreign_models.vgg(channels=4, size=8, hidden=16, per_channel=True),
        foreign_models.mlp(features=24, hidden=(16, 12), symmetric=False, batch="N"),
    ],
    ids=["bireal", "sign", "vgg", "mlp"],
)
def test_foreign_models(model: onnx.ModelProto, rng: np.random.Generator) -> None:
    shape = [dim.dim_value or 2 for dim in model.graph.input[0].type.tensor_type.shape.dim]
    imported = import_onnx(load_model(model), shape)
    feeds = {"x": normal(rng, *shape)}
    np.testing.assert_allclose(
        run_imported(imported, feeds)[0], run_reference(imported.model, feeds)["y"], rtol=1e-4, atol=1e-4
    )


def test_all_unsupported_operators_are_named() -> None:
    nodes = [
        helper.make_node("FusedConv", ["x"], ["a"], name="first", domain="com.vendor"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Det", ["b", "b", "b"], ["c"], name="second"),
    ]
    model = relu_model()
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    model.graph.output[0].name = "c"
    model.opset_import.append(helper.make_opsetid("com.vendor", 1))
    with pytest.raises(ModelError, match=r"com\.vendor::FusedConv \(node 'first' that computes 'a'\); Det"):
        import_onnx(load_model(model))


def wrong_nodes(rng: np.random.Generator) -> list[tuple[str, dict[str, np.ndarray], str]]:
    """A node, its constants, and what the error says."""
    return [
        (
            "y = Conv(x, w)",
            {"w": normal(rng, 5, 3, 3, 3)},
            r"Conv node 'Conv:y' convolves an input of shape \[2, 4, 7, 9\]",
        ),
        (
            "y = MatMul(x, w)",
            {"w": normal(rng, 5, 3)},
            r"MatMul node 'MatMul:y' on inputs of shape \[2, 4, 7, 9\], \[5, 3\]",
        ),
        (
            "y = Add(x, w)",
            {"w": normal(rng, 3)},
            r"Add node 'Add:y' .* \[3\] is not valid ONNX: Incompatible dimensions",
        ),
        ("y = MaxPool<kernel_shape = [20, 3]>(x)", {}, r"windows of \[20, 3\] pixels .* larger input"),
        ("y = Reshape(x, s)", {"s": np.int64([5, 5])}, r"cannot make shape \[5, 5\]"),
        ("y = NonZero(x)", {}, "NonZero:y' has an output whose shape depends on the data"),
        ("y = Gather<axis = 1>(x, p)", {"p": np.int64([4])}, "picks elements 4 to 4 of axis 1, which has 4"),
    ]


@pytest.mark.parametrize(
    ("text", "constants", "match"),
    wrong_nodes(np.random.default_rng(0)),
)
def test_nodes_that_cannot_be_imported(
    text: str, constants: Mapping[str, np.ndarray], match: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = build("y = Relu(x)", {"x": X}, constants)
    node = parser.parse_node(text)
    node.name = f"{node.op_type}:y"
    model.graph.node[0].CopyFrom(node)
    with pytest.raises(ModelError, match=match) as caught:
        import_onnx(model)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_training_mode_is_refused(rng: np.random.Generator) -> None:
    stats = {name: np.abs(normal(rng, 4)) for name in "sbmv"}
    model = build("y, m2, v2 = BatchNormalization<training_mode = 1>(x, s, b, m, v)", {"x": X}, stats, outputs=["y"])
    with pytest.raises(ModelError, match="training mode"):
        import_onnx(model)
