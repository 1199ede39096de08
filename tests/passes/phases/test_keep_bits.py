"""Binarisers move before poolings and selections of channels, together with monotone operations between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from tests.support.binarised_models import BINARIZE, binarized, check_exactly, kinds
from tests.support.grids import every
from tests.support.random_arrays import quarters, signs
from tests.support.small_models import small_model


def any_sign(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Negative, zero and positive numbers whose sums and products are exact in float32."""
    return rng.choice(np.float32([-2, -0.5, 0, 0.25, 1]), shape)


@dataclass
class Case:
    """Operations between a convolution, which computes ``d``, and a binariser, which reads ``f``.

    Attributes:
        text: The operations.
        constants: Their constants.
        kinds: The kinds of layer that result.
        before: Channels of ``d``.
        after: Channels of ``f``.
    """

    text: str
    constants: Mapping[str, object]
    kinds: Sequence[str]
    before: int = 20
    after: int = 20


def scale(rng: np.random.Generator, channels: int) -> dict[str, np.ndarray]:
    return {"s": any_sign(rng, 1, channels, 1, 1), "o": quarters(rng, 1, channels, 1, 1)}


MOVED = ["binary conv 3x3", "max pool on bits 3x3/2", "binary conv 1x1"]
STAYED = ["binary conv 3x3", "max pool 3x3/2", "binary conv 1x1"]
POOL = "m = MaxPool<kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]>(d)\n"
NORM = "n = Mul(m, s)\nf = Add(n, o)\n"


def cases(rng: np.random.Generator) -> dict[str, Case]:
    """Poolings and selections of channels, alone and with monotone operations."""
    return {
        **{f"batch norm of {c}": Case(POOL + NORM, scale(rng, c), MOVED, c, c) for c in (20, 63, 64, 65, 100)},
        "negated": Case(POOL + "f = Neg(m)\n", {}, MOVED),
        "subtracted from": Case(POOL + "f = Sub(o, m)\n", scale(rng, 20), MOVED),
        "divided": Case(POOL + "f = Div(m, q)\n", {"q": rng.choice(np.float32([-4, 2]), (1, 20, 1, 1))}, MOVED),
        "clipped and more": Case(
            POOL
            + "n = Mul(m, s)\nr = Clip(n, low, high)\nu = Relu(r)\nv = Max(u, o)\nz = LeakyRelu(v)\nf = Min(z, high)\n",
            {**scale(rng, 20), "low": -1.0, "high": 4.0},
            MOVED,
        ),
        "prelu that rises": Case(POOL + "f = PRelu(m, p)\n", {"p": np.abs(quarters(rng, 20, 1, 1))}, MOVED),
        "prelu that falls": Case(POOL + "f = PRelu(m, p)\n", {"p": any_sign(rng, 20, 1, 1)}, STAYED),
        "divided by the pool": Case(POOL + "f = Div(o, m)\n", scale(rng, 20), STAYED),
        "thresholds by channel": Case(POOL + "n = Mul(m, s)\nf = Sub(n, o)\n", scale(rng, 20), MOVED),
        "two pools": Case(
            POOL + NORM.replace("f =", "e =") + "f = MaxPool<kernel_shape=[2, 2]>(e)\n",
            scale(rng, 20),
            ["binary conv 3x3", "max pool on bits 3x3/2", "max pool on bits 2x2", "binary conv 1x1"],
        ),
        "a shuffle, then batch norm": Case(
            "r = Reshape(d, split)\nh = Transpose<perm=[0, 2, 1, 3, 4]>(r)\nm = Reshape(h, whole)\n" + NORM,
            {**scale(rng, 20), "split": np.array([2, 5, 4, 9, 9]), "whole": np.array([2, 20, 9, 9])},
            ["binary conv 3x3", "channels of bits: permutation", "binary conv 1x1"],
        ),
        "a concatenation, then batch norm": Case(
            "k = Conv(b0, w2)\nm = Concat<axis=1>(d, k)\n" + NORM,
            {**scale(rng, 33), "w2": signs(rng, 13, 30, 3, 3)},
            ["binary conv 3x3", "binary conv 3x3", "channels of bits: concatenation", "binary conv 1x1"],
            after=33,
        ),
        "a slice": Case(
            "f = Slice(d, from, to, axis)\n",
            {"from": np.array([3]), "to": np.array([20]), "axis": np.array([1])},
            ["binary conv 3x3", "channels of bits: 3 to 19", "binary conv 1x1"],
            after=17,
        ),
    }


CASES = cases(np.random.default_rng(11))


@pytest.mark.parametrize("name", every(2, CASES))
def test_binarisers_move(name: str, rng: np.random.Generator) -> None:
    check_case(rng, CASES[name], "native")


@pytest.mark.parametrize("name", ["batch norm of 65", "a shuffle, then batch norm"])
def test_binarisers_move_on_arm(name: str, rng: np.random.Generator) -> None:
    check_case(rng, CASES[name], "arm")


def check_case(rng: np.random.Generator, case: Case, target: str) -> None:
    text = binarized("b0", "x") + "d = Conv(b0, w0)\n" + case.text + binarized("b", "f") + "y = Conv(b, w1)"
    weights = {"w0": signs(rng, case.before, 30, 3, 3), "w1": signs(rng, 7, case.after, 1, 1)}
    constants = {**BINARIZE, "t": 0.5, **weights, **case.constants}
    module = check_exactly(small_model(text, {"x": (2, 30, 11, 11)}, constants), target)
    assert kinds(module) == ["elementwise", *case.kinds]


@pytest.mark.parametrize(
    "binariser",
    [
        "c = Less(f, t)\nb = Where(c, lo, hi)\n",
        "c = LessOrEqual(f, t)\nn_c = Not(c)\nb = Where(n_c, hi, lo)\n",
        "c = Greater(f, t)\nb = Where(c, lo, hi)\n",
        "c = GreaterOrEqual(f, t)\nn_c = Not(c)\nb = Where(n_c, hi, lo)\n",
    ],
)
def test_binarisers_that_are_high_for_nan_move(binariser: str, rng: np.random.Generator) -> None:
    text = binarized("b0", "x") + "d = Conv(b0, w0)\n" + POOL + NORM + binariser + "y = Conv(b, w1)"
    weights = {"w0": signs(rng, 20, 30, 3, 3), "w1": signs(rng, 7, 20, 1, 1)}
    module = check_exactly(small_model(text, {"x": (2, 30, 11, 11)}, {**BINARIZE, **weights, **scale(rng, 20)}))
    assert kinds(module) == ["elementwise", *MOVED]


def test_values_that_others_read_stay(rng: np.random.Generator) -> None:
    text = (
        binarized("b0", "x")
        + "d = Conv(b0, w0)\n"
        + POOL
        + NORM
        + binarized("b", "f")
        + "e = Conv(b, w1)\ny = Add(e, f)"
    )
    constants = {**BINARIZE, **scale(rng, 20), "w0": signs(rng, 20, 30, 3, 3), "w1": signs(rng, 20, 20, 1, 1)}
    module = check_exactly(small_model(text, {"x": (1, 30, 9, 9)}, constants))
    assert kinds(module) == ["elementwise", *STAYED]


def test_equal_binarisers_become_one(rng: np.random.Generator) -> None:
    text = (
        binarized("b", "x") + binarized("e", "x") + binarized("g", "x", "u")
        + "k = Conv(b, w0)\nl = Conv(e, w1)\nm = Conv(g, w1)\nn = Add(k, l)\ny = Add(n, m)"
    )  # fmt: skip
    constants = {**BINARIZE, "u": 0.25, "w0": signs(rng, 8, 30, 1, 1), "w1": signs(rng, 8, 30, 1, 1)}
    module = check_exactly(small_model(text, {"x": (1, 30, 5, 5)}, constants))
    assert kinds(module) == ["elementwise", *["binary conv 1x1"] * 3]
