"""Every way to write a binariser, a padding or a dense layer becomes one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.passes.phases.canonicalize import canonicalize
from sbnn_tvm.passes.relax.comparisons import comparison
from sbnn_tvm.passes.relax.domains import domains
from sbnn_tvm.passes.relax.graph import Graph, constant
from tests.support.binarised_models import BINARIZE, IMAGE
from tests.support.passes import agrees, imported, only, operators
from tests.support.random_arrays import normal
from tests.support.small_models import small_model


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
    mod = canonicalize(imported(model))
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
    mod = canonicalize(imported(model))
    graph = Graph(mod["main"])
    assert graph.results[0] not in domains(graph)
    agrees(mod, model, exact=True)


def test_zero_padding_goes_into_the_convolution(rng: np.random.Generator) -> None:
    pads = {"pads": np.array([0, 0, 1, 0, 0, 0, 2, 3]), "w": normal(rng, 4, 8, 3, 3)}
    model = small_model("p = Pad(x, pads)\ny = Conv<pads=[1, 2, 0, 1], strides=[2, 1]>(p, w)", IMAGE, pads)
    mod = canonicalize(imported(model))
    assert set(operators(mod)) == {"nn.conv2d"}
    assert [int(p) for p in only(mod, "nn.conv2d").attrs.padding] == [2, 2, 2, 4]
    agrees(mod, model)


@pytest.mark.parametrize(
    ("pads", "value"),
    [([0, 0, 1, 1, 0, 0, 1, 1], 1.0), ([0, 1, 0, 0, 0, 1, 0, 0], 0.0), ([1, 0, 0, 0, 0, 0, 0, 0], 0.0)],
)
def test_other_padding_stays(pads: Sequence[int], value: float, rng: np.random.Generator) -> None:
    constants = {"pads": np.array(pads), "v": value, "w": normal(rng, 4, 8 + pads[1] + pads[5], 3, 3)}
    model = small_model("p = Pad(x, pads, v)\ny = Conv(p, w)", IMAGE, constants)
    mod = canonicalize(imported(model))
    assert operators(mod) == {"nn.pad": 1, "nn.conv2d": 1}


def test_padding_that_others_read_is_kept_for_them(rng: np.random.Generator) -> None:
    constants = {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "w": normal(rng, 4, 8, 3, 3)}
    model = small_model("p = Pad(x, pads)\ny = Conv(p, w)\nz = Relu(p)", IMAGE, constants, ("y", "z"))
    mod = canonicalize(imported(model))
    assert operators(mod) == {"nn.pad": 1, "nn.conv2d": 1, "nn.relu": 1}
    agrees(mod, model)


def test_dense_layers_on_maps_and_on_four_axes(rng: np.random.Generator) -> None:
    model = small_model(
        "f = Flatten(x)\nd = Gemm(f, w, a)\ne = MatMul(x, v)\ny = Relu(d)",
        IMAGE,
        {"w": normal(rng, 288, 5), "a": normal(rng, 5), "v": normal(rng, 6, 3)},
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
