"""Each pass alone: the form that it makes, and that it computes what it was given.

The oracle for numbers is TVM's default lowering of the Relax module between the passes; it must equal onnxruntime.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm.ir import Call, GlobalVar, IRModule
from tvm.relax import Function

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.passes.layers import thresholds
from sbnn_tvm.passes.layers.kinds import Layer
from sbnn_tvm.passes.layers.read import read_layer
from sbnn_tvm.passes.layers.thresholds import fold_threshold
from sbnn_tvm.passes.phases.canonicalize import canonicalize
from sbnn_tvm.passes.phases.recognise import recognise
from sbnn_tvm.passes.phases.resolve_signs import SignZero, resolve_signs
from sbnn_tvm.passes.pipeline import to_composites
from sbnn_tvm.passes.relax.domains import domains
from sbnn_tvm.passes.relax.graph import Graph, constant, op_name
from sbnn_tvm.passes.relax.weights import BinaryWeight
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Border,
    Channel,
    FloatOutput,
    IntegerThreshold,
    Pixel,
    Program,
    Ref,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.isa import AVX2
from sbnn_tvm.schedules.layouts.words import unpack_channels
from tests.support.small_models import grid_inputs, run_oracle, run_reference, small_model

RNG = np.random.default_rng(0)
BINARIZE = {"t": 0.0, "hi": 1.0, "lo": -1.0}
BITS = "c = Greater(x, t)\nb = Where(c, hi, lo)\n"
IMAGE = {"x": (2, 8, 6, 6)}


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def signs(*shape: int) -> np.ndarray:
    return RNG.choice(np.float32([-1, 1]), shape)


def two_valued(lo: float, hi: float, *shape: int) -> np.ndarray:
    return RNG.choice(np.float32([lo, hi]), shape)


def imported(model: onnx.ModelProto) -> IRModule:
    return import_onnx(model).mod


def operators(mod: IRModule) -> Counter[str]:
    return Counter(op_name(value) for _, value in Graph(mod["main"]).bindings)


def only(mod: IRModule, operator: str) -> Any:
    (call,) = [value for _, value in Graph(mod["main"]).bindings if op_name(value) == operator]
    return call


def agrees(mod: IRModule, model: onnx.ModelProto, exact: bool = False) -> None:
    """The module computes what onnxruntime does, on inputs with ties."""
    feeds = grid_inputs(model)
    outputs = run_oracle(mod, list(feeds.values()))
    for (name, want), got in zip(run_reference(model, feeds).items(), outputs, strict=True):
        if exact:
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(initial=1e-30), err_msg=name)


# --- canonicalize -----------------------------------------------------------------------------------------------------


def test_every_way_to_write_a_binariser() -> None:
    comparisons = [
        f"{operator}({sides})"
        for operator in ("Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        for sides in ("x, t", "t, x")
    ]
    branches = ["hi, lo", "lo, hi"]
    lines = [
        f"c{i}{j} = {comparison}\ny{i}{j} = Where(c{i}{j}, {sides})"
        for i, comparison in enumerate(comparisons)
        for j, sides in enumerate(branches)
    ]
    outputs = [f"y{i}{j}" for i in range(len(comparisons)) for j in range(len(branches))]
    constants = {"t": np.array([0.5, 0.0, -0.25]).reshape(3, 1, 1), "hi": 2.0, "lo": -0.5}
    model = small_model("\n".join(lines), {"x": (2, 3, 5, 7)}, constants, outputs)
    mod = canonicalize(imported(model))
    assert set(operators(mod)) == {"greater", "greater_equal", "where", "multiply"}
    graph = Graph(mod["main"])
    for result in graph.results:
        where = graph.values[result]
        condition = graph.values[where.args[0]]
        assert constant(condition.args[1]) is not None and constant(condition.args[0]) is None
        assert constant(where.args[1]) > constant(where.args[2])
    assert set(domains(graph).values()) == {BinaryDomain(-0.5, 2.0)}
    agrees(mod, model, exact=True)


@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("y = Cast<to=1>(c)", BIT),
        ("b = Cast<to=1>(c)\nm = Mul(two, b)\ny = Sub(m, one)", SIGN),
        ("b = Cast<to=1>(c)\nm = Mul(b, two)\ny = Sub(one, m)", SIGN),
        ("b = Where(c, one, two)\nn = Neg(b)\ny = Div(n, half)", BinaryDomain(-4, -2)),
        ("b = Where(c, one, half)\nm = Add(b, half)\ny = Div(one, m)", BinaryDomain(float(np.float32(2 / 3)), 1)),
    ],
)
def test_arithmetic_on_a_binariser(text: str, domain: BinaryDomain) -> None:
    constants = {"t": 0.5, "one": 1.0, "two": 2.0, "half": 0.5}
    model = small_model(f"c = GreaterOrEqual(t, x)\n{text}", IMAGE, constants)
    mod = canonicalize(imported(model))
    assert operators(mod)["where"] == 1 and set(operators(mod)) <= {"multiply", "greater", "greater_equal", "where"}
    graph = Graph(mod["main"])
    assert domains(graph)[graph.results[0]] == domain
    agrees(mod, model, exact=True)


@pytest.mark.parametrize(
    ("text", "constants"),
    [
        ("c = Greater(x, t)\ny = Where(c, x, lo)", {}),
        ("c = Greater(x, t)\nb = Cast<to=1>(c)\ny = Div(hi, b)", {}),
        ("c = Greater(x, t)\nb = Cast<to=1>(c)\ny = Mul(t, b)", {}),
        ("c = Greater(x, t)\nb = Cast<to=1>(c)\ny = Mul(k, b)", {"k": np.arange(8.0).reshape(8, 1, 1)}),
        ("c = Greater(x, t)\ny = Where(c, hi, hi)", {}),
        ("c = Greater(x, t)\ny = Where(c, hi, lo)", {"hi": np.arange(8.0).reshape(8, 1, 1)}),
    ],
)
def test_what_is_no_binariser(text: str, constants: Mapping[str, Any]) -> None:
    model = small_model(text, IMAGE, {**BINARIZE, **constants})
    mod = canonicalize(imported(model))
    graph = Graph(mod["main"])
    assert graph.results[0] not in domains(graph)
    agrees(mod, model, exact=True)


def test_zero_padding_goes_into_the_convolution() -> None:
    pads = {"pads": np.array([0, 0, 1, 0, 0, 0, 2, 3]), "w": normal(4, 8, 3, 3)}
    model = small_model("p = Pad(x, pads)\ny = Conv<pads=[1, 2, 0, 1], strides=[2, 1]>(p, w)", IMAGE, pads)
    mod = canonicalize(imported(model))
    assert set(operators(mod)) == {"nn.conv2d"}
    assert [int(p) for p in only(mod, "nn.conv2d").attrs.padding] == [2, 2, 2, 4]
    agrees(mod, model)


@pytest.mark.parametrize(
    ("pads", "value"),
    [([0, 0, 1, 1, 0, 0, 1, 1], 1.0), ([0, 1, 0, 0, 0, 1, 0, 0], 0.0), ([1, 0, 0, 0, 0, 0, 0, 0], 0.0)],
)
def test_other_padding_stays(pads: Sequence[int], value: float) -> None:
    constants = {"pads": np.array(pads), "v": value, "w": normal(4, 8 + pads[1] + pads[5], 3, 3)}
    model = small_model("p = Pad(x, pads, v)\ny = Conv(p, w)", IMAGE, constants)
    mod = canonicalize(imported(model))
    assert operators(mod) == {"nn.pad": 1, "nn.conv2d": 1}


def test_padding_that_others_read_is_kept_for_them() -> None:
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": normal(4, 8, 3, 3)}
    model = small_model("p = Pad(x, pads)\ny = Conv(p, w)\nz = Relu(p)", IMAGE, constants, ("y", "z"))
    mod = canonicalize(imported(model))
    assert operators(mod) == {"nn.pad": 1, "nn.conv2d": 1, "nn.relu": 1}
    agrees(mod, model)


def test_dense_layers_on_maps_and_on_four_axes() -> None:
    model = small_model(
        "f = Flatten(x)\nd = Gemm(f, w, a)\ne = MatMul(x, v)\ny = Relu(d)",
        IMAGE,
        {"w": normal(288, 5), "a": normal(5), "v": normal(6, 3)},
        ("y", "e"),
    )
    mod = canonicalize(imported(model))
    conv = only(mod, "nn.conv2d")
    assert constant(conv.args[1]).shape == (5, 8, 6, 6) and conv.args[0].name == "x"
    assert constant(only(mod, "matmul").args[1]).shape == (6, 3)
    agrees(mod, model)


def test_dead_code_goes() -> None:
    model = small_model("y = Relu(x)\nz = Sigmoid(x)\nu = Add(z, y)", IMAGE)
    assert operators(canonicalize(imported(model))) == {"nn.relu": 1}


# --- recognise --------------------------------------------------------------------------------------------------------

WEIGHTS = {
    "signs": (signs(5, 6), True),
    "a symmetric pair a channel": (signs(5, 6) * np.abs(normal(5, 1)), True),
    "a pair a channel": (np.where(RNG.random((5, 6)) < 0.5, normal(5, 1), normal(5, 1)), True),
    "one value a channel": (np.repeat(normal(5, 1), 6, axis=1), True),
    "a channel of zeros": (signs(5, 6) * np.float32([1, 0, 2, 0, 3])[:, None], True),
    "{0, 1}": (two_valued(0, 1, 5, 6), True),
    "neighbouring floats": (two_valued(0.1, np.nextafter(np.float32(0.1), 1), 5, 6), True),
    "three values": (RNG.choice(np.float32([-1, 0, 1]), (5, 60)), False),
    "a third value in the last channel": (np.vstack([signs(4, 6), np.float32([[1, 1, -1, 1, -1, 0]])]), False),
    "not a number": (np.float32([[1, -1, np.nan]]), False),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_two_values_of_weights(name: str) -> None:
    weight, two = WEIGHTS[name]
    binary = BinaryWeight.of(weight.astype(np.float32))
    assert (binary is not None) == two
    if binary is None:
        return
    assert set(np.unique(binary.signs)) <= {-1, 1} and binary.signs.dtype == np.float32
    assert (binary.tau >= 0).all()
    restored = binary.tau[:, None].astype(np.float64) * binary.signs + binary.phi[:, None]
    np.testing.assert_allclose(restored, weight, rtol=0, atol=np.abs(weight).max() * 1e-7)
    assert binary.plain == (set(np.unique(weight)) <= {-1, 1})


CONV = "y = Conv<pads=[1, 1, 1, 1], strides=[1, 2]>(b, w)"


@pytest.mark.parametrize(
    ("text", "shape", "weight", "sums"),
    [
        (CONV, (2, 8, 6, 6), signs(5, 8, 3, 3), 0),
        (CONV, (2, 8, 6, 6), signs(5, 8, 3, 3) * np.abs(normal(5, 1, 1, 1)), 0),
        (CONV, (2, 8, 6, 6), two_valued(-0.1, 0.3, 5, 8, 3, 3), 1),
        (CONV.replace("<", "<group=4, "), (2, 8, 6, 6), two_valued(0, 1, 12, 2, 3, 3), 1),
        ("y = MatMul(b, w)", (3, 20), two_valued(-0.1, 0.3, 20, 5), 1),
        ("y = MatMul(b, w)", (2, 3, 20), two_valued(-0.2, 0.2, 20, 5), 0),
        ("y = Gemm<transB=1>(b, w)", (3, 20), two_valued(0, 0.3, 5, 20), 1),
    ],
)
@pytest.mark.parametrize("domain", [SIGN, BIT, BinaryDomain(-0.25, 2.0)], ids=str)
def test_layers_become_signs_with_scales(
    text: str, shape: tuple[int, ...], weight: np.ndarray, sums: int, domain: BinaryDomain
) -> None:
    """All weights that meet bits become -1 and +1; offsets become sums of windows, one for all channels of a group."""
    model = small_model(BITS + text, {"x": shape}, {"t": 0.0, "hi": domain.hi, "lo": domain.lo, "w": weight})
    mod = recognise(canonicalize(imported(model)))
    graph = Graph(mod["main"])
    linear = [call for _, call in graph.bindings if op_name(call) in ("nn.conv2d", "matmul")]
    assert len(linear) == 1 + sums
    weights = [constant(call.args[1]) for call in linear]
    assert all(np.all(np.abs(each) == 1) for each in weights)
    assert sum(bool(np.all(each == 1)) for each in weights) == sums
    assert set(domains(graph).values()) == {domain}
    agrees(mod, model)


@pytest.mark.parametrize("text", ["y = ReduceSum<keepdims=1>(b, axes)", "y = ReduceSum<keepdims=0>(b, axes)"])
@pytest.mark.parametrize("shape", [(3, 20), (2, 3, 20), (2, 3, 4, 5)], ids=str)
def test_sums_of_rows_of_bits(text: str, shape: tuple[int, ...]) -> None:
    model = small_model(BITS + text, {"x": shape}, {**BINARIZE, "axes": np.array([-1])})
    agrees(recognise(canonicalize(imported(model))), model, exact=True)


@pytest.mark.parametrize(("sign_zero", "at_zero"), [("exact", 0), ("positive", 1), ("negative", -1)])
def test_sign(sign_zero: SignZero, at_zero: int) -> None:
    model = small_model("y = Sign(x)", {"x": (1, 5)})
    mod = canonicalize(resolve_signs(imported(model), sign_zero))
    (result,) = run_oracle(mod, [np.float32([[-0.5, -0.0, 0.0, 1e-30, 2]])])
    np.testing.assert_array_equal(result, [[-1, at_zero, at_zero, 1, 1]])
    assert bool(domains(Graph(mod["main"]))) == (sign_zero != "exact")


@pytest.mark.parametrize(
    ("text", "two"),
    [
        ("y = Reshape(b, to)", True),
        ("y = Transpose<perm=[1, 0, 3, 2]>(b)", True),
        ("y = MaxPool<kernel_shape=[2, 2]>(b)", True),
        ("y = Pad(b, pads, lo)", True),
        ("y = Pad(b, pads, hi)", True),
        ("y = Pad(b, pads)", False),
        ("y = Concat<axis=2>(b, b)", True),
        ("y = AveragePool<kernel_shape=[2, 2]>(b)", False),
        ("y = Relu(b)", False),
        ("y = Add(b, b)", False),
    ],
)
def test_what_keeps_two_values(text: str, two: bool) -> None:
    constants = {**BINARIZE, "to": np.array([2, -1]), "pads": np.array([0, 0, 1, 1, 0, 0, 0, 1])}
    graph = Graph(canonicalize(imported(small_model(BITS + text, IMAGE, constants)))["main"])
    assert (domains(graph).get(graph.results[0]) == SIGN) == two


# --- fuse_layers and layer --------------------------------------------------------------------------------------------


@dataclass
class Fused:
    """A graph, and the kinds of layers that it becomes; operators that are left to TVM count too."""

    text: str
    constants: Mapping[str, Any]
    kinds: Sequence[str]
    inputs: Mapping[str, Any] = field(default_factory=lambda: IMAGE)
    outputs: Sequence[str] = ("y",)


W1, W2 = normal(8, 8, 1, 1), signs(8, 8, 1, 1)
FUSED = {
    "an epilogue": Fused(
        "d = Conv(x, w, a)\nr = Relu(d)\nm = Mul(r, s)\nn = Sub(o, m)\nz = Clip(n, o, h)\ny = LeakyRelu(z)",
        {"w": W1, "a": normal(8), "s": normal(8, 1, 1), "o": -1.0, "h": 1.0},
        ["conv2d"],
    ),
    "a residual": Fused("d = Conv(x, w)\ny = Add(d, x)", {"w": W1}, ["conv2d"]),
    "a diamond": Fused(
        "d = Conv(x, w)\ne = Conv(d, w)\nf = Conv(d, w)\ng = Add(e, f)\ny = Add(g, d)",
        {"w": W1},
        ["conv2d", "conv2d", "conv2d"],
    ),
    "a diamond that closes before its side arm": Fused(
        "d = Conv(x, w)\nr = Relu(d)\ns = Sigmoid(d)\nm = Mul(r, s)\ny = Conv(m, w)",
        {"w": W1},
        ["conv2d", "sigmoid", "elementwise", "conv2d"],
    ),
    "outputs in the middle": Fused(
        "d = Conv(x, w)\ne = Mul(d, s)\nr = Relu(e)\ny = Conv(r, w)",
        {"w": W1, "s": 0.5},
        ["conv2d", "conv2d"],
        outputs=("y", "e", "d", "r"),
    ),
    "floats and bits of one layer": Fused(
        "d = Conv(x, w)\nc = Greater(d, t)\nb = Where(c, hi, lo)\ne = Conv(b, v)\ny = Add(e, d)",
        {**BINARIZE, "w": W1, "v": W2},
        ["conv2d", "binary_conv2d"],
    ),
    "bits computed with": Fused(
        "d = Conv(x, w)\nc = Greater(d, t)\nb = Where(c, hi, lo)\ny = Mul(b, d)",
        {**BINARIZE, "w": W1},
        ["conv2d", "elementwise"],
        outputs=("y", "b"),
    ),
    "an offset of the weights": Fused(
        BITS + "d = Conv<pads=[1, 1, 1, 1]>(b, w)\ny = Relu(d)",
        {**BINARIZE, "w": two_valued(-0.1, 0.3, 5, 8, 3, 3)},
        ["elementwise", "window_sum", "binary_conv2d"],
    ),
    "offsets in groups": Fused(
        BITS + "y = Conv<group=2>(b, w)",
        {**BINARIZE, "w": two_valued(-0.1, 0.3, 6, 4, 3, 3)},
        ["elementwise", "binary_conv2d", "binary_conv2d"],
    ),
    "a dense offset on {0, 1}": Fused(
        BITS + "y = MatMul(b, w)",
        {**BINARIZE, "lo": 0.0, "w": two_valued(-0.1, 0.3, 20, 5)},
        ["elementwise", "binary_dense", "binary_dense"],
        {"x": (3, 20)},
    ),
    "padding with a value": Fused(
        BITS + "p = Pad(b, pads, lo)\ny = Conv(p, w)\nz = Conv(p, v)",
        {**BINARIZE, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": signs(5, 8, 3, 3), "v": signs(4, 8, 3, 3)},
        ["elementwise", "binary_conv2d", "binary_conv2d"],
        outputs=("y", "z"),
    ),
    "padding with a value that others read": Fused(
        BITS + "p = Pad(b, pads, lo)\ny = Conv(p, w)\nz = Relu(p)",
        {**BINARIZE, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": signs(5, 8, 3, 3)},
        ["elementwise", "nn.pad", "binary_conv2d", "elementwise"],
        outputs=("y", "z"),
    ),
    "one value a pixel": Fused(
        "d = Conv(x, w)\nm = Mul(p, v)\nn = Mul(d, p)\ny = Add(n, m)",
        {"w": W1, "v": normal(8, 1, 1)},
        ["conv2d"],
        {**IMAGE, "p": (2, 1, 6, 6)},
    ),
    "one value a pixel, convolved": Fused(
        "m = Mul(p, v)\nd = Conv(m, w)\ny = Add(d, m)",
        {"w": W1, "v": normal(8, 1, 1)},
        ["multiply", "conv2d"],
        {"p": (2, 1, 6, 6)},
    ),
    "the same value twice": Fused("d = Conv(x, w)\ne = Add(d, d)\ny = Mul(e, d)", {"w": W1}, ["conv2d"]),
    "an input and itself": Fused("a = Add(x, x)\ny = Mul(a, x)", {}, ["elementwise"]),
    "an input that is returned": Fused("y = Identity(x)\nz = Relu(x)", {}, ["elementwise"], outputs=("y", "z")),
    "constants first": Fused("d = Conv(x, w)\ne = Sub(o, d)\ny = Div(e, o)", {"w": W1, "o": 2.0}, ["conv2d"]),
    "pools and what is behind them": Fused(
        "m = MaxPool<kernel_shape=[2, 2]>(x)\nr = Relu(m)\na = AveragePool<kernel_shape=[2, 2]>(r)\nb = Mul(a, s)\n"
        "g = GlobalAveragePool(b)\nf = Flatten(g)\ny = Add(f, s2)",
        {"s": normal(8, 1, 1), "s2": normal(8)},
        ["max_pool2d", "avg_pool2d", "global_avg_pool2d"],
    ),
    "bits are pooled": Fused(
        BITS + "m = MaxPool<kernel_shape=[2, 2]>(b)\na = AveragePool<kernel_shape=[2, 2]>(b)\ny = Add(m, a)",
        BINARIZE,
        ["elementwise", "max_pool2d_bits", "avg_pool2d"],
    ),
    "a prelu on rows of rows": Fused(
        "d = MatMul(x, w)\ny = PRelu(d, s)\nz = Relu(d)",
        {"w": normal(20, 7), "s": normal(7, 1)},
        ["dense", "nn.prelu"],
        {"x": (2, 7, 20)},
        ("y", "z"),
    ),
}


def kinds_of(mod: IRModule) -> list[str]:
    """The composites, and the operators between them, in order."""
    found = []
    for _, value in Graph(mod["main"]).bindings:
        if isinstance(value, Call) and isinstance(value.op, GlobalVar):
            found.append(str(mod[value.op].attrs["Composite"]).removeprefix("sbnn."))
        elif op_name(value):
            found.append(op_name(value))
    return found


@pytest.mark.parametrize("name", FUSED)
def test_fused_layers(name: str) -> None:
    case = FUSED[name]
    model = small_model(case.text, case.inputs, case.constants, case.outputs)
    mod = to_composites(imported(model))
    assert sorted(kinds_of(mod)) == sorted(case.kinds)
    agrees(mod, model)
    for gvar, func in mod.functions.items():
        if gvar.name_hint != "main" and isinstance(func, Function):
            check_layer(func, read_layer(func))


def check_layer(func: Function, layer: Layer) -> None:
    """What was read back has the operands and outputs of the function."""
    results = func.ret_ty.fields if len(layer.outputs) > 1 else [func.ret_ty]
    assert len(results) == len(layer.outputs) == len(layer.program.outputs) or layer.kind in (
        "max_pool2d_bits",
        "window_sum",
    )
    used = [operand for step in layer.program.steps for operand in (step.a, step.b)]
    indices = {operand.index for operand in used if isinstance(operand, Tensor | Pixel)}
    assert indices == set(range(len(func.params) - 1))
    assert len(layer.step_names) == len(layer.program.steps)


# --- fold_thresholds --------------------------------------------------------------------------------------------------

CHANNELS = 5


def of_sums(threshold: IntegerThreshold, sums: np.ndarray) -> np.ndarray:
    rising = sums[:, None] >= threshold.threshold
    return np.where(threshold.flip, sums[:, None] <= threshold.threshold, rising)


def by_evaluation(program: Program, sums: np.ndarray) -> np.ndarray:
    result = np.repeat(sums.astype(np.float32)[:, None], CHANNELS, axis=1)
    (words,) = evaluate(program, result, (), AVX2)
    return unpack_channels(words, CHANNELS)


@st.composite
def programs(draw: Any) -> Program:
    """Chains of operations with one constant each, as batch norms, activations and scales are."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    steps: list[Step] = []
    for _ in range(draw(st.integers(0, 5))):
        op = draw(st.sampled_from(["add", "subtract", "multiply", "divide", "maximum", "minimum", "prelu"]))
        values = rng.choice(np.float32([-3, -1, -0.3, 0, 0.1, 1 / 3, 0.5, 1, 2, 7]), CHANNELS)
        if op in ("divide", "prelu"):
            values = np.where(values == 0, np.float32(0.25), values)
        other = Channel(values) if draw(st.booleans()) else Scalar(float(values[0]))
        last = Ref(len(steps))
        swapped = op not in ("divide", "prelu") and draw(st.booleans())
        steps.append(Step(op, other, last) if swapped else Step(op, last, other))
    threshold = rng.choice(np.float32([-4, -0.5, 0, 0.3, 2]), CHANNELS)
    limit = Channel(threshold) if draw(st.booleans()) else Scalar(float(threshold[0]))
    return Program(tuple(steps), (BitsOutput(Ref(len(steps)), limit, draw(st.booleans())),))


@given(programs(), st.integers(1, 40))
@settings(max_examples=300, deadline=None, derandomize=True, database=None)
def test_folded_thresholds_answer_as_the_program(program: Program, taps: int) -> None:
    sums = np.arange(-taps, taps + 1)
    bits = by_evaluation(program, sums)
    folded = fold_threshold(program, taps, CHANNELS)
    monotone = ((bits[1:] != bits[:-1]).sum(axis=0) <= 1).all()
    assert (folded is not None) == monotone
    if folded is not None:
        np.testing.assert_array_equal(of_sums(folded, sums), bits)


def test_channels_are_folded_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    scale = np.float32([0.5, -0.5, 0, 1, 0.1])
    program = Program((Step("multiply", Ref(0), Channel(scale)),), (BitsOutput(Ref(1), Channel(scale)),))
    together = fold_threshold(program, 20, CHANNELS)
    monkeypatch.setattr(thresholds, "AT_ONCE", 100)
    in_blocks = fold_threshold(program, 20, CHANNELS)
    assert together is not None and in_blocks is not None
    np.testing.assert_array_equal(in_blocks.threshold, together.threshold)
    np.testing.assert_array_equal(in_blocks.flip, together.flip)


def test_ties_negative_scales_and_scales_of_zero() -> None:
    """``D * s + o > 0`` with the zero exactly on an integer, falling, and constant."""
    scale, offset = Channel(np.float32([0.5, -0.5, 0, 0, 0.1])), Channel(np.float32([-1, 1, 1, 0, -0.3]))
    steps = (Step("multiply", Ref(0), scale), Step("add", Ref(1), offset))
    sums = np.arange(-9, 10)
    for inclusive in (False, True):
        program = Program(steps, (BitsOutput(Ref(2), Scalar(0.0), inclusive),))
        folded = fold_threshold(program, 9, CHANNELS)
        assert folded is not None
        np.testing.assert_array_equal(of_sums(folded, sums), by_evaluation(program, sums))
        assert folded.threshold[0] == (2 if inclusive else 3)
        assert folded.flip.tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(
    "program",
    [
        Program((), (FloatOutput(Ref(0)),)),
        Program((), (BitsOutput(Ref(0), Scalar(0.0)), FloatOutput(Ref(0)))),
        Program((Step("add", Ref(0), Tensor(0)),), (BitsOutput(Ref(1), Scalar(0.0)),)),
        Program((Step("add", Ref(0), Pixel(0)),), (BitsOutput(Ref(1), Scalar(0.0)),)),
        Program(
            (Step("add", Ref(0), Border(np.zeros((9, CHANNELS), np.float32))),), (BitsOutput(Ref(1), Scalar(0.0)),)
        ),
        Program((Step("prelu", Ref(0), Scalar(-1.0)),), (BitsOutput(Ref(1), Scalar(1.0)),)),
        Program((Step("multiply", Ref(0), Ref(0)),), (BitsOutput(Ref(1), Scalar(1.0)),)),
    ],
    ids=["floats", "bits and floats", "a tensor", "a pixel", "a border", "a slope that falls", "a square"],
)
def test_what_does_not_fold(program: Program) -> None:
    assert fold_threshold(program, 9, CHANNELS) is None
