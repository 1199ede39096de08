"""Every way to write a padding or a dense layer becomes one form."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from sbnn_tvm.passes.phases.canonicalize import canonicalize
from sbnn_tvm.passes.relax.graph import constant
from tests.support.binarised_models import IMAGE
from tests.support.passes import agrees, imported, only, operators
from tests.support.random_arrays import normal
from tests.support.small_models import small_model


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
