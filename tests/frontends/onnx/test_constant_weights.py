"""Weights that a graph computes from constants are constants after import, whatever operators compute them."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.passes.relax.graph import Graph
from sbnn_tvm.passes.relax.weights import BinaryWeight, linear_weight
from tests.support.passes import agrees, imported
from tests.support.random_arrays import normal, signs
from tests.support.small_models import small_model

RNG = np.random.default_rng(0)
SIGNS, LATENT = signs(RNG, 16, 8, 3, 3), normal(RNG, 16, 8, 3, 3)
CONV = "\ny = Conv<pads=[1, 1, 1, 1]>(x, v)"
IMAGE, ROWS = (2, 8, 6, 6), (2, 5, 32)
CHANNELS = np.ones(16)

WEIGHTS = {
    "XNOR-Net: signs times means of sizes": (
        "s = Sign(w)\na = Abs(w)\nm = ReduceMean<keepdims=1>(a, axes)\nv = Mul(s, m)" + CONV,
        {"w": LATENT, "axes": np.array([1, 2, 3])},
    ),
    "ReActNet: a where": ("g = GreaterOrEqual(w, zero)\nv = Where(g, scale, minus)" + CONV, {"w": LATENT}),
    "IR-Net: standardised, a power of two": (
        "m = ReduceMean<keepdims=1>(w, axes)\nd = Sub(w, m)\ns = Sign(d)\nl = Log(scale)\nr = Round(l)\n"
        "p = Pow(two, r)\nv = Mul(s, p)" + CONV,
        {"w": LATENT, "axes": np.array([1, 2, 3])},
    ),
    "SiMaN: greater than the median": (
        "t = ReduceMean<keepdims=1>(w, axes)\ng = Greater(w, t)\nc = Cast<to=1>(g)\nv = Mul(c, scale)" + CONV,
        {"w": LATENT, "axes": np.array([1, 2, 3])},
    ),
    "DoReFa of one bit": (
        "t = Tanh(w)\nh = Mul(t, half)\nu = Add(h, half)\nr = Round(u)\nd = Mul(r, two)\nv = Sub(d, one)" + CONV,
        {"w": LATENT},
    ),
    "LSQ of one bit": ("d = Div(w, scale)\ns = Sign(d)\nv = Mul(s, scale)" + CONV, {"w": LATENT}),
    "dequantised": (
        "v = DequantizeLinear<axis=0>(w, scales, zeros)" + CONV,
        {"w": SIGNS.astype(np.int8), "scales": CHANNELS * 0.5, "zeros": np.zeros(16, np.int8)},
    ),
    "quantised and dequantised": (
        "q = QuantizeLinear(w, half, middle)\nv = DequantizeLinear(q, half, middle)" + CONV,
        {"w": SIGNS, "middle": np.uint8(128)},
    ),
    "transposed and reshaped": (
        "u = Transpose<perm=[3, 2, 0, 1]>(w)\nv = Reshape(u, to)" + CONV,
        {"w": signs(RNG, 3, 3, 8, 16), "to": np.array([16, 8, 3, 3])},
    ),
    "padded": ("v = Pad(w, pads, one)" + CONV, {"w": SIGNS[..., :1, :1], "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1])}),
    "a codebook": (
        "u = Gather<axis=0>(w, index)\nv = Reshape(u, to)" + CONV,
        {"w": signs(RNG, 32, 9), "index": RNG.integers(0, 32, 128), "to": np.array([16, 8, 3, 3])},
    ),
    "one axis": ("r = Reshape(x, to)\ny = Conv(r, v)", {"v": SIGNS[..., 0], "to": np.array([2, 8, 36])}),
    "a transposed convolution": ("y = ConvTranspose<strides=[2, 2]>(x, v)", {"v": signs(RNG, 8, 16, 2, 2)}),
    "Gemm": ("r = Flatten(x)\ny = Gemm<transB=1, alpha=0.5>(r, v)", {"v": signs(RNG, 9, 288)}),
    "a matrix": ("y = MatMul(x, v)", {"v": signs(RNG, 32, 9)}),
    "a matrix of three axes": ("y = MatMul(x, v)", {"v": signs(RNG, 1, 32, 9)}),
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_found(name: str) -> None:
    text, constants = WEIGHTS[name]
    numbers = {"zero": 0.0, "half": 0.5, "one": 1.0, "two": 2.0, "scale": 0.3, "minus": -0.3}
    model = small_model(text, {"x": ROWS if "matrix" in name else IMAGE}, {**numbers, **constants})
    mod = imported(model)
    weights = [weight for _, call in Graph(mod["main"]).bindings if (weight := linear_weight(call)) is not None]
    assert len(weights) == 1 and BinaryWeight.telling(weights[0])
    if "axes" in name:
        agrees(mod, model)
