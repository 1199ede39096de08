"""Layers of float networks: functions, rows, products of activations, copies and resampling."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

import sbnn_tvm
from sbnn_tvm.passes.lowering.lower import UnscheduledOperator
from tests.support.grids import every
from tests.support.small_models import small_model

RNG = np.random.default_rng(0)


@dataclass(frozen=True)
class Case:
    """A graph, and its layers in any order: their kinds, or the operator where one is left to TVM."""

    text: str
    kinds: tuple[str, ...]
    inputs: Mapping[str, Any] = field(default_factory=lambda: {"x": (2, 5, 24)})
    constants: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ("y",)


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


QK = {"q": (1, 3, 7, 16), "k": (1, 3, 9, 16), "v": (1, 3, 9, 16)}
ATTENTION = (
    "t = Transpose<perm=[0, 1, 3, 2]>(k)\na = MatMul(q, t)\ns = Mul(a, c)\np = Softmax<axis=-1>(s)\no = MatMul(p, v)\n"
    "m = Transpose<perm=[0, 2, 1, 3]>(o)\ny = Reshape(m, rows)"
)
MAP = {"x": (2, 6, 5, 4)}
CASES = {
    "silu after a convolution": Case(
        "d = Conv(x, w)\ns = Sigmoid(d)\ny = Mul(d, s)", ("conv2d",), MAP, {"w": normal(8, 6, 3, 3)}
    ),
    "gelu after a dense layer": Case(
        "d = MatMul(x, w)\ne = Div(d, r)\nf = Erf(e)\ng = Add(f, one)\nh = Mul(d, g)\ny = Mul(h, half)",
        ("dense",),
        constants={"w": normal(24, 20), "r": np.sqrt(2), "one": 1.0, "half": 0.5},
    ),
    "gelu by its name": Case("y = Gelu(x)", ("elementwise",)),
    "a function after a binary layer": Case(
        "c = Greater(x, zero)\nb = Where(c, one, minus)\nd = Conv(b, w)\ny = Tanh(d)",
        ("elementwise", "binary_conv2d", "elementwise"),
        MAP,
        {"zero": 0.0, "one": 1.0, "minus": -1.0, "w": np.sign(normal(8, 6, 3, 3))},
    ),
    "layer norm": Case("y = LayerNormalization(x, s, t)", ("rows",), constants={"s": normal(24), "t": normal(24)}),
    "layer norm of a sum, which is read again": Case(
        "a = Add(x, z)\nn = LayerNormalization(a, s, t)\nd = MatMul(n, w)\ny = Add(d, a)",
        ("rows", "dense"),
        {"x": (2, 5, 24), "z": (2, 5, 24)},
        {"s": normal(24), "t": normal(24), "w": normal(24, 24)},
    ),
    "softmax": Case("y = Softmax<axis=-1>(x)", ("rows",)),
    "log softmax": Case("y = LogSoftmax<axis=-1>(x)", ("rows",)),
    "softmax over the channels of a map": Case("y = Softmax<axis=1>(x)", ("rows",), MAP),
    "l2 norm": Case("n = ReduceL2<keepdims=1>(x, axes)\ny = Div(x, n)", ("rows",), constants={"axes": np.array([-1])}),
    "a reduction that drops its axis": Case(
        "axes = Constant<value_ints=[-1]>()\nm = ReduceMax<keepdims=0>(x, axes)\ny = Mul(m, two)",
        ("rows", "elementwise"),
        constants={"two": 2.0},
    ),
    "attention": Case(
        ATTENTION,
        ("batched_matmul", "rows", "batched_matmul", "copy"),
        QK,
        {"c": 0.25, "rows": np.array([1, 7, 48])},
    ),
    "a mask": Case(
        "a = MatMul(q, t)\ns = Add(a, m)\ny = Softmax<axis=-1>(s)",
        ("batched_matmul", "rows"),
        {"q": (2, 2, 7, 16), "t": (2, 2, 16, 9), "m": (2, 2, 7, 9)},
    ),
    "attention by einsum": Case(
        'a = Einsum<equation="bqhd,bkhd->bhqk">(q, k)\ns = Mul(a, c)\np = Softmax<axis=-1>(s)\n'
        'y = Einsum<equation="bhqk,bkhd->bqhd">(p, v)',
        ("copy", "copy", "copy", "batched_matmul", "rows", "batched_matmul"),
        {"q": (1, 7, 3, 16), "k": (1, 9, 3, 16), "v": (1, 9, 3, 16)},
        {"c": 0.25},
    ),
    "a class token": Case(
        "z = Concat<axis=1>(t, x)\na = Add(z, p)\nn = LayerNormalization(a, s, b)\ny = Gather<axis=1>(n, first)",
        ("concatenate", "rows", "copy"),
        constants={
            "t": normal(2, 1, 24),
            "p": normal(1, 6, 24),
            "s": normal(24),
            "b": normal(24),
            "first": np.int64(0),
        },
    ),
    "elu, celu, selu": Case("a = Elu<alpha=1.5>(x)\nb = Celu<alpha=0.5>(a)\ny = Selu(b)", ("elementwise",)),
    "mish after a convolution": Case("c = Conv(x, w)\ny = Mish(c)", ("conv2d",), MAP, {"w": normal(8, 6, 3, 3)}),
    "splits and slices": Case(
        "a, b = Split<axis=1, num_outputs=2>(x)\nm = Mul(a, b)\ny = Transpose<perm=[0, 2, 1]>(m)",
        ("copy", "copy", "elementwise", "copy"),
        {"x": (2, 8, 24)},
    ),
    "nearest, which is a selection": Case(
        'r = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(x, , scales)\n'
        "y = Relu(r)",
        ("select_channels",),
        MAP,
        {"scales": np.array([1, 1, 2, 3], np.float32)},
    ),
    "bilinear": Case(
        'y = Resize<mode="linear">(x, , scales)', ("resample",), MAP, {"scales": np.array([1, 1, 2, 3], np.float32)}
    ),
    "a transposed convolution": Case(
        "d = ConvTranspose<strides=[2, 2]>(x, w, b)\ne = Relu(d)\ny = Conv(e, v)",
        ("conv2d", "interleave", "conv2d"),
        MAP,
        {"w": normal(6, 9, 2, 2), "b": normal(9), "v": normal(4, 9, 1, 1)},
    ),
    "a transposed convolution of a sequence": Case(
        "d = ConvTranspose<strides=[3], pads=[1, 2], group=2>(x, w, b)\ny = Relu(d)",
        ("conv2d", "conv2d", "conv2d", "interleave"),
        {"x": (2, 6, 11)},
        {"w": normal(6, 9, 5), "b": normal(18)},
    ),
    "an image of bytes, channels last": Case(
        "f = Cast<to=1>(x)\nt = Transpose<perm=[0, 3, 1, 2]>(f)\nd = Div(t, c)\nm = Sub(d, b)\ny = Conv(m, w)",
        ("elementwise", "conv2d"),
        {"x": ((1, 7, 6, 3), "uint8")},
        {"c": 255.0, "b": normal(3, 1, 1), "w": normal(8, 3, 3, 3)},
    ),
    "an image of bytes that is transposed first": Case(
        "t = Transpose<perm=[0, 3, 1, 2]>(x)\nf = Cast<to=1>(t)\nd = Mul(f, c)\ny = Conv(d, w)",
        ("elementwise", "conv2d"),
        {"x": ((1, 7, 6, 3), "uint8")},
        {"c": 1 / 255, "w": normal(8, 3, 3, 3)},
    ),
    "cubic": Case(
        'a = Resize<mode="cubic">(x, , scales)\n'
        'b = Resize<mode="cubic", coordinate_transformation_mode="align_corners", cubic_coeff_a=-0.5>(x, , scales)\n'
        "y = Add(a, b)",
        ("resample", "resample"),
        MAP,
        {"scales": np.array([1, 1, 2, 3], np.float32)},
    ),
}


@pytest.mark.parametrize("name", every(2, CASES))
def test_layers(name: str) -> None:
    case = CASES[name]
    module = sbnn_tvm.compile(small_model(case.text, case.inputs, case.constants, case.outputs))
    entries = module.lowered.entries
    found = [each.operator if isinstance(each, UnscheduledOperator) else each.layer.kind for each in entries]
    assert sorted(found) == sorted(case.kinds)
    verification = module.verify(samples=2)
    assert all(layer.wrong == 0 for layer in verification.layers) and len(verification.layers) >= len(case.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["attention", "layer norm", "gelu by its name", "bilinear"])
def test_layers_on_arm(name: str) -> None:
    case = CASES[name]
    model = small_model(case.text, case.inputs, case.constants, case.outputs)
    sbnn_tvm.compile(model, target="arm").verify(samples=1)
