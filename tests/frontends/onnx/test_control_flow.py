"""If, Loop and Scan whose conditions and counts are constants, against onnxruntime; others are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper, parser

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx import control_flow
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.imports import run_imported
from tests.support.small_models import run_reference

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def nodes(text: str) -> list[NodeProto]:
    return [parser.parse_node(line) for line in text.strip().splitlines()]


def graph(
    contents: str | Sequence[NodeProto],
    inputs: Mapping[str, int],
    outputs: Mapping[str, int],
    constants: Mapping[str, Any] | None = None,
) -> GraphProto:
    """A subgraph; inputs and outputs by name with their element types. Those that are no floats are single numbers."""
    return helper.make_graph(
        nodes(contents) if isinstance(contents, str) else contents,
        "subgraph",
        [helper.make_tensor_value_info(name, kind, None if kind == FLOAT else ()) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, kind, None) for name, kind in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )


def model_of(
    contents: Sequence[NodeProto],
    inputs: Mapping[str, np.ndarray],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
    version: int = 21,
) -> onnx.ModelProto:
    main = helper.make_graph(
        list(contents),
        "main",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in inputs.items()
        ],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(main, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    return onnx.shape_inference.infer_shapes(model, data_prop=True)


def check(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> None:
    wanted = run_reference(model, inputs)
    for spec in model.graph.output:  # onnx does not infer the shapes of loops
        spec.CopyFrom(helper.make_tensor_value_info(spec.name, FLOAT, wanted[spec.name].shape))
    got = run_imported(import_onnx(load_model(model)), inputs)
    for (name, want), value in zip(wanted.items(), got, strict=True):
        assert value.shape == want.shape, name
        np.testing.assert_allclose(value, want, rtol=1e-6, err_msg=name)


def refuse(model: onnx.ModelProto, sentence: str) -> None:
    for spec in model.graph.output:
        spec.CopyFrom(helper.make_tensor_value_info(spec.name, FLOAT, ["unknown"]))
    with pytest.raises(ModelError, match=sentence):
        import_onnx(load_model(model))


def if_(condition: str, result: str, then: GraphProto, otherwise: GraphProto) -> NodeProto:
    return helper.make_node("If", [condition], [result], "choice", then_branch=then, else_branch=otherwise)


@pytest.fixture
def x(rng: np.random.Generator) -> np.ndarray:
    return rng.standard_normal((3, 4)).astype(np.float32)


@pytest.mark.parametrize("condition", [True, False])
def test_if_by_a_constant(condition: bool, x: np.ndarray) -> None:
    then = graph("a = Relu(x)", {}, {"a": FLOAT})
    otherwise = graph("b = Mul(x, two)", {}, {"b": FLOAT}, {"two": np.float32(2)})
    check(model_of([if_("c", "y", then, otherwise)], {"x": x}, ["y"], {"c": np.array(condition)}), {"x": x})


@pytest.mark.parametrize("rows", [2, 5])
def test_if_by_a_shape_and_nested(rows: int, rng: np.random.Generator) -> None:
    """The condition follows from the shape of x; the inner If uses a value of the graph around it."""
    x = rng.standard_normal((rows, 4)).astype(np.float32)
    inner = if_("no", "n", graph("p = Neg(r)", {}, {"p": FLOAT}), graph("q = Add(r, shared)", {}, {"q": FLOAT}))
    then = graph([*nodes("r = Relu(x)"), inner, *nodes("m = Mul(n, n)")], {}, {"m": FLOAT})
    otherwise = graph("e = Abs(shared)", {}, {"e": FLOAT})
    main = nodes(
        """
        shape = Shape<start = 0, end = 1>(x)
        many = Greater(shape, three)
        shared = Sub(x, one)
        """
    )
    constants = {"three": np.int64([3]), "one": np.float32(1), "no": np.array(False)}
    check(model_of([*main, if_("many", "y", then, otherwise)], {"x": x}, ["y"], constants), {"x": x})


def test_an_untaken_branch_may_use_what_is_unsupported(x: np.ndarray) -> None:
    then = graph("a = Relu(x)", {}, {"a": FLOAT})
    otherwise = graph("b = Bernoulli(x)", {}, {"b": FLOAT})
    check(model_of([if_("c", "y", then, otherwise)], {"x": x}, ["y"], {"c": np.array(True)}), {"x": x})


def test_if_by_data_is_refused(x: np.ndarray) -> None:
    main = nodes("total = ReduceSum<keepdims = 0>(x)\nc = Greater(total, zero)")
    branches = graph("a = Relu(x)", {}, {"a": FLOAT}), graph("b = Neg(x)", {}, {"b": FLOAT})
    refuse(
        model_of([*main, if_("c", "y", *branches)], {"x": x}, ["y"], {"zero": np.float32(0)}),
        "If node 'choice' chooses its branch by data",
    )


BODY = """
more = Identity(going)
i_float = Cast<to = 1>(i)
sum = Add(state, i_float)
scaled = Mul(sum, w)
row = ReduceSum<keepdims = 0>(scaled, axis)
"""


def loop(inputs: Sequence[str], outputs: Sequence[str], body: GraphProto) -> NodeProto:
    return helper.make_node("Loop", inputs, outputs, "loop", body=body)


def counting_body(more: str = "more = Identity(going)") -> GraphProto:
    return graph(
        more + BODY.replace("more = Identity(going)\n", ""),
        {"i": INT64, "going": BOOL, "state": FLOAT},
        {"more": BOOL, "scaled": FLOAT, "row": FLOAT},
    )


CONSTANTS = {"n": np.int64(3), "w": np.float32(0.5), "axis": np.int64([1]), "yes": np.array(True)}


@pytest.mark.parametrize("condition", ["", "yes"])
def test_loop_with_a_count(condition: str, x: np.ndarray) -> None:
    """A carried value, a scan output, and values of the graph around the loop."""
    node = loop(["n", condition, "x"], ["last", "rows"], counting_body())
    check(model_of([node], {"x": x}, ["last", "rows"], CONSTANTS), {"x": x})


def test_loop_while_a_known_condition_holds(x: np.ndarray) -> None:
    for count in ("", "n"):
        node = loop([count, "yes", "x"], ["last", "rows"], counting_body("more = Less(i, limit)"))
        check(model_of([node], {"x": x}, ["last", "rows"], CONSTANTS | {"limit": np.int64(1)}), {"x": x})


def test_loop_without_iterations(x: np.ndarray) -> None:
    body = graph(
        "more = Identity(going)\nnext = Neg(state)",
        {"i": INT64, "going": BOOL, "state": FLOAT},
        {"more": BOOL, "next": FLOAT},
    )
    for inputs in (["zero", "", "x"], ["n", "no", "x"]):
        constants = CONSTANTS | {"zero": np.int64(0), "no": np.array(False)}
        main = [loop(inputs, ["same"], body), *nodes("y = Relu(same)")]
        check(model_of(main, {"x": x}, ["y"], constants), {"x": x})
    node = loop(["zero", "", "x"], ["last", "rows"], counting_body())
    refuse(model_of([node], {"x": x}, ["last", "rows"], CONSTANTS | {"zero": np.int64(0)}), "has no iteration")


def test_nested_loops(x: np.ndarray) -> None:
    """The inner loop runs as often as the outer has, and reads values of both graphs around it."""
    inner = graph(
        "again = Identity(go)\ndoubled = Add(inner_state, x)\nt = Add(doubled, outer_value)",
        {"j": INT64, "go": BOOL, "inner_state": FLOAT},
        {"again": BOOL, "t": FLOAT},
    )
    outer = graph(
        [
            *nodes("more = Identity(going)\nouter_value = Mul(state, w)\ncount = Add(i, one)"),
            loop(["count", "", "state"], ["result"], inner),
        ],
        {"i": INT64, "going": BOOL, "state": FLOAT},
        {"more": BOOL, "result": FLOAT},
    )
    constants = CONSTANTS | {"one": np.int64(1)}
    check(model_of([loop(["n", "", "x"], ["y"], outer)], {"x": x}, ["y"], constants), {"x": x})


def test_loops_by_data_are_refused(x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    main = nodes("total = ReduceSum<keepdims = 0>(x)\nc = Greater(total, zero)\nm = Cast<to = 7>(total)")
    constants = CONSTANTS | {"zero": np.float32(0)}
    for inputs, sentence in ((["m", "", "x"], "its trip count"), (["", "c", "x"], "its condition")):
        node = loop(inputs, ["last", "rows"], counting_body())
        refuse(model_of([*main, node], {"x": x}, ["last", "rows"], constants), f"depends on data: {sentence}")
    body = counting_body("low = ReduceMin<keepdims = 0>(state)\nmore = Less(low, w)")
    node = loop(["n", "", "x"], ["last", "rows"], body)
    refuse(model_of([node], {"x": x}, ["last", "rows"], CONSTANTS), "the condition after iteration 0 is computed")
    monkeypatch.setattr(control_flow, "LARGEST_TRIP_COUNT", 20)
    node = loop(["", "yes", "x"], ["last", "rows"], counting_body())
    refuse(model_of([node], {"x": x}, ["last", "rows"], CONSTANTS), "more than 20 iterations")


def scan(inputs: Sequence[str], outputs: Sequence[str], body: GraphProto, count: int, **attributes: Any) -> NodeProto:
    return helper.make_node("Scan", inputs, outputs, "scan", body=body, num_scan_inputs=count, **attributes)


SCAN_BODY = graph(
    """
    total = Add(s, a)
    most = Max(m, b)
    out1 = Mul(total, most)
    out2 = Sub(a, b)
    """,
    {"s": FLOAT, "m": FLOAT, "a": FLOAT, "b": FLOAT},
    {"total": FLOAT, "most": FLOAT, "out1": FLOAT, "out2": FLOAT},
)


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"scan_input_directions": [1, 0], "scan_output_directions": [0, 1]},
        {"scan_input_axes": [1, -1], "scan_output_axes": [1, -1]},
        {"scan_input_axes": [-1, 1], "scan_input_directions": [1, 1], "scan_output_directions": [1, 0]},
    ],
)
@pytest.mark.parametrize("version", [9, 21])
def test_scan(attributes: dict[str, list[int]], version: int, rng: np.random.Generator) -> None:
    """Two states and two scanned inputs."""
    if version < 11:  # axes count from the front
        attributes = {name: [abs(value) for value in values] for name, values in attributes.items()}
    sequences = [rng.standard_normal((4, 4)).astype(np.float32) for _ in range(2)]
    states = [rng.standard_normal(4).astype(np.float32) for _ in range(2)]
    inputs = dict(zip("smab", [*states, *sequences], strict=True))
    names = {old: f"{old}_in" for old in inputs}
    outputs = ["t", "u", "o1", "o2"]
    node = scan(list(names.values()), outputs, SCAN_BODY, 2, **attributes)
    feeds = {names[name]: value for name, value in inputs.items()}
    check(model_of([node], feeds, outputs, version=version), feeds)


def test_scan_of_operator_set_8_is_refused(x: np.ndarray) -> None:
    body = graph("t = Add(s, a)\no = Neg(a)", {"s": FLOAT, "a": FLOAT}, {"t": FLOAT, "o": FLOAT})
    batches = {"s_in": x, "a_in": np.stack([x, x], 1)}
    node = scan(["", "s_in", "a_in"], ["t_out", "o_out"], body, 1)
    refuse(model_of([node], batches, ["t_out", "o_out"], version=8), "of operator set 8 is not supported")


def test_a_loop_that_needs_an_unsupported_operator_names_it(x: np.ndarray) -> None:
    body = graph(
        "more = Identity(going)\nnext = Bernoulli(state)",
        {"i": INT64, "going": BOOL, "state": FLOAT},
        {"more": BOOL, "next": FLOAT},
    )
    refuse(model_of([loop(["n", "", "x"], ["y"], body)], {"x": x}, ["y"], CONSTANTS), "draws random numbers")
