"""Why a layer stays in float: the values of its weights, and the node that its activations come from."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.compiler import explain
from sbnn_tvm.passes.relax.node_names import with_node_names
from sbnn_tvm.passes.relax.weight_values import in_words
from tests.support.binarised_models import BINARIZE, BITS, IMAGE
from tests.support.random_arrays import normal, signs
from tests.support.small_models import small_model

RNG = np.random.default_rng(0)
SIGNS = signs(RNG, 4, 8, 3, 3)


def with_zeros(*places: tuple[int, ...]) -> np.ndarray:
    weight = 0.5 * SIGNS
    for place in places:
        weight[place] = 0
    return weight.astype(np.float32)


WEIGHTS = [
    (RNG.choice(np.float32([-0.21, 0, 0.21]), (4, 90)), "take 3 values in output channel 0: -0.21, 0, 0.21 (ternary)"),
    (RNG.choice(np.float32([-0.4, -0.2, 0, 0.2]), (4, 90)), "channel 0: -0.4, -0.2, 0, 0.2 (2 bits)"),
    (RNG.choice(np.float32([-3, -1, 1, 3]), (4, 90)), "channel 0: -3, -1, 1, 3 (2 bits)"),
    (RNG.integers(-4, 4, (4, 900)).astype(np.float32), "-4, -3, -2, -1, 0, 1, 2, 3 (3 bits)"),
    (RNG.choice(np.float32([-1, 0.3, 2]), (4, 90)), "take 3 values in output channel 0: -1, 0.3, 2"),
    (normal(RNG, 4, 90), "its weights take 90 values in output channel 0"),
    (normal(RNG, 4, 2), "it has no more than 2 weights per output channel"),
    (np.float32([[1, 2, 3], [1, np.inf, 2]]), "its weights in output channel 1 are not all finite"),
    (
        with_zeros((2, 3, 1, 0)),
        "1 of its 288 weights is 0, at [2, 3, 1, 0], and the others -a and +a "
        "(pass sign_zero='positive' or 'negative')",
    ),
    (
        with_zeros((1, 0, 0, 2), (3, 7, 2, 2)),
        "2 of its 288 weights are 0, the first at [1, 0, 0, 2], and the others -a and +a "
        "(pass sign_zero='positive' or 'negative')",
    ),
    (
        SIGNS * np.linspace(0.5, 2, 8, dtype=np.float32)[:, None, None],
        "its weights are signs times a scale per input channel, from 0.5 to 2; only a scale per output channel can "
        "follow a sum of signs",
    ),
    (
        SIGNS * RNG.uniform(0.999, 1, SIGNS.shape).astype(np.float32),
        "of the largest from two: set each output channel to two values",
    ),
]


@pytest.mark.parametrize(("weight", "words"), WEIGHTS, ids=[words[-40:] for _, words in WEIGHTS])
def test_weights_in_words(weight: np.ndarray, words: str) -> None:
    found = in_words(weight)
    assert found == words or found.endswith(words)
    assert ("ternary" in found) == ("ternary" in words) and ("bits)" in found) == ("bits)" in words)


UNEVEN = "s = Sign(x)\nu = Mul(s, s)\nv = Mul(u, third)\na = Add(s, v)\n"
ACTIVATIONS = [
    (
        UNEVEN + "q = Transpose<perm=[0, 1, 3, 2]>(a)\np = MaxPool<kernel_shape=[1, 1]>(q)",
        "'Add:a' takes 3 values: -0.7",
    ),
    (UNEVEN + "p = Reshape(a, to)", "'Add:a' takes 3 values: -0.7, 0, 1.3"),
    (BITS + "p = Mul(b, scales)", "'Mul:p' scales values {-1, 1} by a number per channel; one number for all"),
    (BITS + "q = Sub(b, scales)\np = Pad(q, pads)", "'Sub:q' shifts values {-1, 1} by a number per channel"),
    (BITS + "r = Relu(x)\np = Concat<axis=1>(b, r)", "they come from 'Relu:r' (relu)"),
    (
        BITS + "e = Where(c, hi, t)\np = Concat<axis=1>(b, e)",
        "'Concat:p' concatenates values {-1, 1} and {0, 1}; give them the same values",
    ),
    (
        BITS + "p = AveragePool<kernel_shape=[2, 2]>(b)",
        "'AveragePool:p' makes means of {-1, 1}, so a binariser belongs after it",
    ),
    (BITS + "a = Add(b, x)\nq = Slice(a, one, two, one)\np = Pad(q, pads)", "they come from 'Add:a' (add)"),
]


@pytest.mark.parametrize(("text", "cause"), ACTIVATIONS)
def test_the_cause_lies_behind_what_moves_values(text: str, cause: str) -> None:
    constants = {**BINARIZE, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "to": np.array([2, 8, 6, 6])}
    constants |= {"third": 0.3, "scales": RNG.uniform(0.1, 1, (8, 1, 1))}
    constants |= {"one": np.array([1]), "two": np.array([2]), "w": signs(RNG, 4, 16 if "Concat" in text else 8, 3, 3)}
    if "Slice" in text:
        text = text.replace("q = Slice(a, one, two, one)", "q = Slice(a, one, ends, axes)")
        constants |= {"ends": np.array([5]), "axes": np.array([2])}
    (layer,) = explain(small_model(f"{text}\ny = Conv(p, w)", IMAGE, constants)).linear
    assert layer.why.startswith("its weights are binary, but its activations are not two-valued: ")
    assert cause in layer.why


def test_names_of_nodes() -> None:
    nodes = {"layers_0_conv": "layers.0.conv", "add_1": "/Add_1"}
    assert with_node_names("from <add_1> and <layers_0_conv_map_signed>", nodes) == "from '/Add_1' and 'layers.0.conv'"
    assert with_node_names("from <unknown_value>", nodes) == "from 'unknown_value'"
