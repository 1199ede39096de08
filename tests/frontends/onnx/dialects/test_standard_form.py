"""Models with nodes of QONNX and FINN: domains, operator sets, constants that nodes compute, names in reports."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sbnn_tvm
from sbnn_tvm.compiler import explain
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.dialect_models import QONNX, one_node, run_standard_form

F = np.float32


def network(
    rng: np.random.Generator, opset: int, domain: str = QONNX, entry: bool = True, bits: int = 1, ir_version: int = 8
) -> onnx.ModelProto:
    """Two convolutions of binary weights; BipolarQuant or Quant of 2 bits before each."""
    make, constants = helper.make_node, {"one": F(1), "size": F(0.5), "zero": F(0), "two": F(2)}
    constants |= {f"w{index}": rng.standard_normal((16, 16, 3, 3)).astype(F) for index in range(2)}
    for name in ("scale", "mean", "variance", "shift"):
        constants[name] = rng.uniform(0.5, 2, 16).astype(F)
    nodes, x = [], "x"
    for index in range(2):
        if bits == 1:
            nodes.append(make("BipolarQuant", [x, "one"], [f"a{index}"], f"act{index}", domain=domain))
        else:
            inputs = [x, "size", "zero", "two"]
            nodes.append(make("Quant", inputs, [f"a{index}"], f"act{index}", domain=domain, signed=0, narrow=0))
        nodes.append(make("BipolarQuant", [f"w{index}", "size"], [f"v{index}"], domain=domain))
        nodes.append(make("Conv", [f"a{index}", f"v{index}"], [f"c{index}"], f"conv{index}", pads=[1] * 4))
        inputs = [f"c{index}", "scale", "shift", "mean", "variance"]
        nodes.append(make("BatchNormalization", inputs, [f"b{index}"]))
        x = f"b{index}"
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 16, 6, 6]) for name in ("x", x)]
    inputs = infos[:1]
    if ir_version == 3:
        inputs += [helper.make_tensor_value_info(k, TensorProto.FLOAT, np.shape(v)) for k, v in constants.items()]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "network", inputs, infos[1:], tensors)
    annotation = graph.quantization_annotation.add(tensor_name="a0")
    annotation.quant_parameter_tensor_names.add(key="finn_datatype", value="BIPOLAR")
    entries = [helper.make_opsetid("", opset)] + [helper.make_opsetid(domain, 1)] * entry
    return helper.make_model(graph, opset_imports=entries, ir_version=ir_version)


@pytest.mark.parametrize(
    ("opset", "domain", "entry", "bits", "ir_version"),
    [
        (9, "onnx.brevitas", False, 1, 3),
        (9, "finn.custom_op.general", False, 2, 4),
        (11, QONNX, True, 2, 6),
        (13, "onnx.brevitas", True, 1, 8),
        (21, QONNX, True, 2, 8),
    ],
)
def test_layers_are_binary(
    rng: np.random.Generator, opset: int, domain: str, entry: bool, bits: int, ir_version: int
) -> None:
    report = explain(network(rng, opset, domain, entry, bits, ir_version))
    assert [layer.name for layer in report.linear] == ["conv0", "conv1"]
    assert all(layer.binary for layer in report.linear)
    assert not any("unscheduled" in layer.kernel for layer in report.layers)


def test_a_compiled_network_is_equal_to_its_reference(rng: np.random.Generator) -> None:
    model = network(rng, 13, bits=2)
    module = sbnn_tvm.compile(model)
    assert module.verify(samples=2).passed
    x = rng.standard_normal((1, 16, 6, 6)).astype(F)
    np.testing.assert_allclose(module.run(x), run_standard_form(model, x), rtol=1e-5, atol=1e-5)


def test_the_given_model_is_not_changed(rng: np.random.Generator) -> None:
    model = network(rng, 9, "finn", entry=False)
    before = model.SerializeToString()
    standard = load_model(model)
    assert model.SerializeToString() == before
    assert all(not node.domain for node in standard.graph.node)
    assert [entry.domain for entry in standard.opset_import] == [""]
    assert load_model(standard) is standard


def test_old_operator_sets() -> None:
    """A model keeps its operator set if a node of it means something else in set 12, here Dropout."""
    x = np.array([[0.25, 0.75, -0.25, -9]], F)
    for operator, version, want in [("Abs", 12, [0, 1, 0, 1.5]), ("Dropout", 9, [0, 1, 0, -1.5])]:
        model = one_node("Quant", [F(0.5), F(0), F(3)], (1, 4), opset=9, before=operator)
        assert [entry.version for entry in load_model(model).opset_import] == [version]
        np.testing.assert_array_equal(run_standard_form(model, x), [want])
    with pytest.raises(ModelError, match="needs operator set 9 or newer, but the model uses 8"):
        load_model(one_node("Quant", [F(0.5), F(0), F(3)], (1, 4), opset=8, before="Dropout"))


def test_domains() -> None:
    x = np.array([[-1, 0, 1]], F)
    for domain in ("", QONNX, "qonnx", "onnx.brevitas", "finn", "finn.custom_op.general"):
        for entry in (False, True):
            model = one_node("BipolarQuant", [F(2)], (1, 3), domain=domain, names_domain=entry)
            np.testing.assert_array_equal(run_standard_form(model, x), [[-2, 2, 2]])
    with pytest.raises(ModelError, match=r"of another domain|not supported|No opset import"):
        load_model(one_node("BipolarQuant", [F(2)], (1, 3), domain="other", names_domain=False))
    with pytest.raises(ModelError, match="is a hardware layer of FINN"):
        load_model(one_node("MVAU_hls", [F(2)], (1, 3), domain="finn.custom_op.fpgadataflow.hls"))


def test_parameters_that_nodes_compute() -> None:
    """The scale is sqrt(16) / 8 and the bit width comes from a Quant; a scale may depend on the input."""
    model = one_node("Quant", [F(16), F(0), F(2.2), F(8), F(1)], (1, 4), {"signed": 0, "narrow": 0})
    graph, quant = model.graph, model.graph.node[0]
    del quant.input[:]
    quant.input.extend(["x", "scale", "p1", "bits"])
    nodes = [
        helper.make_node("Sqrt", ["p0"], ["root"]),
        helper.make_node("Div", ["root", "p3"], ["scale"]),
        helper.make_node("Quant", ["p2", "p4", "p1", "p3"], ["bits"], domain=QONNX),
        quant,
    ]
    del graph.node[:]
    graph.node.extend(nodes)
    x = np.array([[-1, 0.6, 0.75, 9]], F)
    np.testing.assert_array_equal(run_standard_form(model, x), [[0, 0.5, 1, 1.5]])
    graph.node[1].input[1] = "maximum"
    graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["maximum"], keepdims=0))
    np.testing.assert_array_equal(run_standard_form(model, x), np.clip(np.rint(x / F(4 / 9)), 0, 3) * F(4 / 9))
    graph.node[3].input[0] = "maximum"
    with pytest.raises(ModelError, match="computes its bit width 'bits' from an input of the model"):
        load_model(model)


def test_names() -> None:
    """The last node has the name and the output of the user's node; new names do not collide with the model's."""
    model = one_node("Quant", [F(0.5), F(0), F(3)], (1, 4))
    model.graph.node.append(helper.make_node("Neg", ["y"], ["y_divided"], "the_node/divided"))
    model.graph.output.append(helper.make_tensor_value_info("y_divided", TensorProto.FLOAT, [1, 4]))
    nodes = [node for node in load_model(model).graph.node if node.op_type != "Constant"]
    assert [node.op_type for node in nodes] == ["Div", "Clip", "Round", "Mul", "Neg"]
    assert nodes[3].name == "the_node" and list(nodes[3].output) == ["y"]
    assert all(node.name.startswith("the_node/") for node in nodes[:3])
    everything = load_model(model).graph.node
    assert len({node.name for node in everything}) == len({node.output[0] for node in everything}) == len(everything)
    model.graph.node[0].name = ""
    assert not any(node.name for node in load_model(model).graph.node[:-1])


def test_subgraphs_and_functions_of_the_model() -> None:
    """A quantiser in a branch of an If reads a scale of the graph around it. A model's own function is kept."""
    branch = helper.make_graph(
        [helper.make_node("BipolarQuant", ["x", "p0"], ["inner"], domain=QONNX)],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, [1, 3])],
    )
    model = one_node("BipolarQuant", [F(2), np.array(True)], (1, 3))
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("If", ["p1"], ["y"], then_branch=branch, else_branch=branch))
    x = np.array([[-1, 0, 1]], F)
    np.testing.assert_array_equal(run_standard_form(model, x), [[-2, 2, 2]])
    own = one_node("BipolarQuant", [F(2)], (1, 3))
    body = [helper.make_node("Mul", ["a", "b"], ["c"])]
    own.functions.append(helper.make_function(QONNX, "BipolarQuant", ["a", "b"], ["c"], body, own.opset_import[:1]))
    np.testing.assert_array_equal(run_standard_form(own, x), x * 2)
