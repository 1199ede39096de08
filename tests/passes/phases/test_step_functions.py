"""Every way to write an activation of few values becomes one form, exactly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.passes.phases.step_functions import SignZero, step_functions
from sbnn_tvm.passes.relax.comparisons import comparison
from sbnn_tvm.passes.relax.domains import domains
from sbnn_tvm.passes.relax.graph import Graph, constant
from tests.support.binarised_models import BINARIZE, IMAGE
from tests.support.passes import agrees, imported, operators
from tests.support.small_models import run_oracle, small_model


@pytest.mark.parametrize(("sign_zero", "at_zero"), [("exact", 0), ("positive", 1), ("negative", -1)])
def test_sign(sign_zero: SignZero, at_zero: int) -> None:
    model = small_model("y = Sign(x)", {"x": (1, 5)})
    mod = step_functions(imported(model), sign_zero)
    (result,) = run_oracle(mod, [np.float32([[-0.5, -0.0, 0.0, 1e-30, 2]])])
    np.testing.assert_array_equal(result, [[-1, at_zero, at_zero, 1, 1]])
    assert bool(domains(Graph(mod["main"]))) == (sign_zero != "exact")


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
    mod = step_functions(imported(model), "exact")
    assert set(operators(mod)) == {"greater", "greater_equal", "less", "less_equal", "logical_not", "where", "multiply"}
    graph = Graph(mod["main"])
    for result in graph.results:
        where = graph.values[result]
        compared = comparison(graph, where.args[0])
        assert compared is not None
        assert constant(compared.threshold) is not None and constant(compared.x) is None
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
    mod = step_functions(imported(model), "exact")
    assert operators(mod)["where"] == 1
    assert set(operators(mod)) <= {"multiply", "greater_equal", "less_equal", "logical_not", "where"}
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
    mod = step_functions(imported(model), "exact")
    graph = Graph(mod["main"])
    assert graph.results[0] not in domains(graph)
    agrees(mod, model, exact=True)
