"""Activations as published networks and exporters write them: each becomes a binariser or a quantiser, exactly."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from sbnn_tvm.passes.phases.step_functions import step_functions
from sbnn_tvm.passes.relax.domains import domains
from sbnn_tvm.passes.relax.facts import notes_of, values_taken
from sbnn_tvm.passes.relax.graph import Graph
from tests.support.passes import imported, operators
from tests.support.random_arrays import signs
from tests.support.small_models import run_oracle, run_reference, small_model

CHANNELS = 4
CONSTANTS = {
    "zero": 0.0, "one": 1.0, "minus": -1.0, "two": 2.0, "three": 3.0, "half": 0.5, "tenth": 0.1, "third": 1 / 3,
    "step": 0.37, "alpha": 1.7, "scale": 3 / 1.7, "back": 1.7 / 3, "big": 2.5,
    "alphas": np.array([0.5, 1.7, 2.0, 0.3]).reshape(CHANNELS, 1, 1),
    "scales": (np.float32(3) / np.float32([0.5, 1.7, 2.0, 0.3])).reshape(CHANNELS, 1, 1),
    "ones": np.ones((2, CHANNELS, 8, 8)), "minus_ones": -np.ones((2, CHANNELS, 8, 8)),
    "code_scale": 1.0, "code_zero": np.uint8(0), "code_top": np.uint8(3), "code_lowest": np.uint8(0),
    "w": signs(np.random.default_rng(0), 3, CHANNELS, 1, 1),
}  # fmt: skip

POLYNOMIAL = """
    m1 = Less(x, minus)\nm2 = Less(x, zero)\nm3 = Less(x, one)
    f1 = Cast<to=1>(m1)\nf2 = Cast<to=1>(m2)\nf3 = Cast<to=1>(m3)
    n1 = Neg(f1)\nxx = Mul(x, x)\nx2 = Mul(two, x)\nr1 = Sub(one, f1)\np1 = Add(xx, x2)\nq1 = Mul(p1, r1)
    o1 = Add(n1, q1)\nnx = Neg(xx)\np2 = Add(nx, x2)\nr2 = Sub(one, f2)\nq2 = Mul(p2, r2)\na2 = Mul(o1, f2)
    o2 = Add(a2, q2)\nb3 = Mul(o2, f3)\nr3 = Sub(one, f3)\no3 = Add(b3, r3)"""

TWO_VALUES = {
    "straight-through, clamp": "s = Sign(x)\nt = Add(s, tenth)\nu = Sign(t)\nc = Clip(x, minus, one)\nd = Sub(u, c)"
    "\ny = Add(d, c)",
    "straight-through, identity": "g = Greater(x, zero)\ns = Where(g, one, minus)\nd = Sub(s, x)\ny = Add(x, d)",
    "straight-through, polynomial": POLYNOMIAL
    + "\ns0 = Sign(x)\nt = Add(s0, tenth)\ns = Sign(t)\nd = Sub(s, o3)\ny = Add(d, o3)",
    "sign of sign": "s = Sign(x)\nt = Add(s, tenth)\ny = Sign(t)",
    "sign and zero mask": "s = Sign(x)\nz = Equal(x, zero)\nf = Cast<to=1>(z)\ny = Add(s, f)",
    "sign where not zero": "s = Sign(x)\nz = Equal(s, zero)\ny = Where(z, one, s)",
    "or": "g = Greater(x, half)\ne = Equal(x, half)\no = Or(g, e)\ny = Where(o, one, minus)",
    "not": "l = Less(x, half)\nn = Not(l)\ny = Where(n, one, minus)",
    "whole tensors": "g = GreaterOrEqual(x, zero)\ny = Where(g, ones, minus_ones)",
    "nested": "g = Greater(x, zero)\nl = Less(x, zero)\nn = Where(l, minus, one)\ny = Where(g, one, n)",
    "difference of comparisons": "g = GreaterOrEqual(x, half)\nl = Less(x, half)\na = Cast<to=1>(g)\nb = Cast<to=1>(l)"
    "\ny = Sub(a, b)",
    "integers": "g = Greater(x, zero)\ni = Cast<to=6>(g)\nf = Cast<to=1>(i)\nm = Mul(f, two)\ny = Sub(m, one)",
    "relu": "r = Relu(x)\ny = Sign(r)",
    "relu above zero": "r = Relu(x)\ng = Greater(r, zero)\ny = Cast<to=1>(g)",
    "clip": "c = Clip(x, zero, one)\ny = Sign(c)",
    "rounded, one bit": "c = Clip(x, zero, one)\nr = Round(c)\nm = Mul(r, two)\ny = Sub(m, one)",
    "heaviside": "s = Sign(x)\na = Add(s, one)\nh = Mul(a, half)\ny = Ceil(h)",
    "falling": "l = Less(x, half)\nf = Cast<to=1>(l)\ny = Sub(f, half)",
    "per channel": "c = Clip(x, zero)\nm = Min(c, alphas)\nd = Div(m, alphas)\ny = Round(d)",
}
FEW_VALUES = {
    "sign": "y = Sign(x)",
    "DoReFa": "c = Clip(x, zero, one)\nm = Mul(c, three)\nr = Round(m)\ny = Div(r, three)",
    "LSQ": "v = Div(x, step)\nc = Clip(v, zero, three)\nr = Round(c)\nd = Sub(r, c)\na = Add(d, c)\ny = Mul(a, step)",
    "PACT": "p = Abs(x)\nq = Sub(x, alpha)\nr = Abs(q)\ns = Sub(p, r)\nt = Add(s, alpha)\nu = Mul(t, half)"
    "\nv = Mul(u, scale)\nw0 = Round(v)\ny = Mul(w0, back)",
    "PACT per channel": "c = Relu(x)\nm = Min(c, alphas)\nd = Mul(m, scales)\nr = Round(d)\ny = Div(r, three)",
    "clamps of two wheres": "v = Div(x, step)\nr = Round(v)\ng = Greater(r, three)\na = Where(g, three, r)"
    "\nl = Less(a, zero)\nb = Where(l, zero, a)\ny = Mul(b, step)",
    "rounded by a floor": "a = Add(x, half)\nf = Floor(a)\nc = Clip(f, minus, two)\ny = Mul(c, step)",
    "sum of comparisons": "g = Greater(x, zero)\nh = Greater(x, half)\nk = Greater(x, alpha)\na = Cast<to=1>(g)"
    "\nb = Cast<to=1>(h)\nc = Cast<to=1>(k)\nd = Add(a, b)\ny = Add(d, c)",
    "fake quantise": "q = QuantizeLinear(x, code_scale, code_zero)\nc = Clip(q, code_lowest, code_top)"
    "\ny = DequantizeLinear(c, code_scale, code_zero)",
}


def joined(forms: dict[str, str], after: str = "") -> onnx.ModelProto:
    """One model of all forms, whose variables are numbered; constants keep their names."""
    lines, outputs = [], []
    for number, text in enumerate(forms.values()):
        for line in f"{text}{after}".strip().splitlines():
            left, _, right = line.strip().partition(" = ")
            head, _, arguments = right.partition("(")
            names = [name.strip() for name in arguments.rstrip(")").split(",")]
            renamed = [name if name in CONSTANTS or name == "x" else f"{name}_{number}" for name in names]
            lines.append(f"{left}_{number} = {head}({', '.join(renamed)})")
        outputs.append(f"{'z' if after else 'y'}_{number}")
    text = "\n".join(lines)
    used = {name: value for name, value in CONSTANTS.items() if any(name in line for line in lines)}
    return small_model(text, {"x": (2, CHANNELS, 8, 8)}, used, outputs)


def inputs() -> np.ndarray:
    """Numbers near thresholds, ties, large and tiny ones; float32 [2, CHANNELS, 8, 8]."""
    rng = np.random.default_rng(0)
    near = np.float32([0, -0.0, 0.5, 1.5, 2.5, -0.5, 1, -1, 0.185, 0.555, 0.925, 1.7, 0.28333333, 1e-45, -1e-45, 1e-30])
    near = np.concatenate([near, np.nextafter(near, np.float32(9)), np.nextafter(near, np.float32(-9))])
    x = np.concatenate([near, np.float32([1e6, -1e6, 3e5, -7e5]), rng.standard_normal(512).astype(np.float32)])
    return rng.permutation(x[:512]).reshape(2, CHANNELS, 8, 8)


def compare(model: onnx.ModelProto) -> Graph:
    mod = step_functions(imported(model), "exact")
    x = inputs()
    for want, got in zip(run_reference(model, {"x": x}).values(), run_oracle(mod, [x]), strict=True):
        np.testing.assert_array_equal(got, want)
    return Graph(mod["main"])


def test_two_values() -> None:
    graph = compare(joined(TWO_VALUES))
    known = domains(graph)
    missing = [name for name, result in zip(TWO_VALUES, graph.results, strict=True) if result not in known]
    assert not missing
    assert {known[result].bits for result in graph.results} == {1}


def test_few_values() -> None:
    graph = compare(joined(FEW_VALUES, "\nz = Conv(y, w)"))
    known = domains(graph)
    read = [graph.values[result].args[0] for result in graph.results]
    missing = [name for name, var in zip(FEW_VALUES, read, strict=True) if var not in known]
    assert not missing
    assert {known[var].bits for var in read} == {2}


def test_two_values_that_are_no_single_step_are_told() -> None:
    model = small_model(
        "g = Greater(x, half)\nl = Less(x, minus)\no = Or(g, l)\ny = Cast<to=1>(o)",
        {"x": (1, CHANNELS, 3, 3)},
        {"half": 0.5, "minus": -1.0},
    )
    mod = step_functions(imported(model), "exact")
    assert values_taken(mod) == {"y": (0.0, 1.0)}
    assert not domains(Graph(mod["main"]))


def test_a_quantiser_costs_nothing_without_binary_weights(rng: np.random.Generator) -> None:
    model = small_model(
        "s = Sign(x)\ny = Conv(s, w)",
        {"x": (1, CHANNELS, 3, 3)},
        {"w": rng.standard_normal((3, CHANNELS, 1, 1)).astype(np.float32)},
    )
    mod = step_functions(imported(model), "exact")
    assert operators(mod) == {"sign": 1, "nn.conv2d": 1}
    assert values_taken(mod) == {"s": (-1.0, 0.0, 1.0)} and not notes_of(mod)


@pytest.mark.parametrize("text", ["c = Relu(x)\ns = Sign(c)", "c = Round(x)\ns = Sign(c)", "c = Abs(x)\ns = Sign(c)"])
def test_zero_stays_zero_where_it_is_common(text: str, rng: np.random.Generator) -> None:
    model = small_model(f"{text}\ny = Conv(s, w)", {"x": (1, CHANNELS, 8, 8)}, {"w": signs(rng, 3, CHANNELS, 1, 1)})
    mod = step_functions(imported(model), "positive")
    x = rng.standard_normal((1, CHANNELS, 8, 8)).astype(np.float32)
    x[:, :, 0] = 0
    (want,) = run_reference(model, {"x": x}).values()
    (got,) = run_oracle(mod, [x])
    np.testing.assert_array_equal(got, want)
    assert not any(note.approximates for note in notes_of(mod))


def test_the_range_that_is_proved_is_noted() -> None:
    text = "s = Sign(x)\nt = Add(s, tenth)\nu = Sign(t)\nd = Sub(u, x)\ny = Add(x, d)"
    model = small_model(text, {"x": (1, CHANNELS, 2, 2)}, {"tenth": 0.1})
    (note,) = notes_of(step_functions(imported(model), "exact"))
    assert note.approximates and "between -1.67772e+07 and 1.67772e+07" in note.sentence
