"""Layers on bits with two-valued weights become layers of signs with scales and window sums."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.passes.phases.canonicalize import canonicalize
from sbnn_tvm.passes.phases.recognise import recognise
from sbnn_tvm.passes.relax.domains import domains
from sbnn_tvm.passes.relax.graph import Graph, constant, op_name
from sbnn_tvm.passes.relax.weights import BinaryWeight
from tests.support.binarised_models import BINARIZE, BITS, IMAGE
from tests.support.passes import agrees, imported
from tests.support.random_arrays import normal, signs, two_valued
from tests.support.small_models import small_model


def weights(rng: np.random.Generator) -> dict[str, tuple[np.ndarray, bool]]:
    """Weights, and whether every channel takes two values."""
    return {
        "signs": (signs(rng, 5, 6), True),
        "a symmetric pair per channel": (signs(rng, 5, 6) * np.abs(normal(rng, 5, 1)), True),
        "a pair per channel": (np.where(rng.random((5, 6)) < 0.5, normal(rng, 5, 1), normal(rng, 5, 1)), True),
        "one value per channel": (np.repeat(normal(rng, 5, 1), 6, axis=1), True),
        "a channel of zeros": (signs(rng, 5, 6) * np.float32([1, 0, 2, 0, 3])[:, None], True),
        "{0, 1}": (two_valued(rng, 0, 1, 5, 6), True),
        "neighbouring floats": (two_valued(rng, 0.1, np.nextafter(np.float32(0.1), 1), 5, 6), True),
        "three values": (rng.choice(np.float32([-1, 0, 1]), (5, 60)), False),
        "a third value in the last channel": (np.vstack([signs(rng, 4, 6), np.float32([[1, 1, -1, 1, -1, 0]])]), False),
        "not a number": (np.float32([[1, -1, np.nan]]), False),
    }


WEIGHTS = weights(np.random.default_rng(0))


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


def linear_layers(rng: np.random.Generator) -> list[tuple[str, tuple[int, ...], np.ndarray, int]]:
    """A layer on bits ``b``, the shape of x, its weight, and the number of window sums that it needs."""
    return [
        (CONV, (2, 8, 6, 6), signs(rng, 5, 8, 3, 3), 0),
        (CONV, (2, 8, 6, 6), signs(rng, 5, 8, 3, 3) * np.abs(normal(rng, 5, 1, 1, 1)), 0),
        (CONV, (2, 8, 6, 6), two_valued(rng, -0.1, 0.3, 5, 8, 3, 3), 1),
        (CONV.replace("<", "<group=4, "), (2, 8, 6, 6), two_valued(rng, 0, 1, 12, 2, 3, 3), 1),
        ("y = MatMul(b, w)", (3, 20), two_valued(rng, -0.1, 0.3, 20, 5), 1),
        ("y = MatMul(b, w)", (2, 3, 20), two_valued(rng, -0.2, 0.2, 20, 5), 0),
        ("y = Gemm<transB=1>(b, w)", (3, 20), two_valued(rng, 0, 0.3, 5, 20), 1),
    ]


@pytest.mark.parametrize(
    ("text", "shape", "weight", "sums"),
    linear_layers(np.random.default_rng(0)),
)
@pytest.mark.parametrize("domain", [SIGN, BIT, BinaryDomain(-0.25, 2.0)], ids=str)
def test_layers_become_signs_with_scales(
    text: str, shape: tuple[int, ...], weight: np.ndarray, sums: int, domain: BinaryDomain
) -> None:
    """Weights that multiply bits become -1 and +1. Offsets become window sums, one per group for all its channels."""
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
