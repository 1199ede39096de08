"""Weights of three and four values become two binary weights, on bits and on codes of several bits."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sbnn_tvm
from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain
from sbnn_tvm.compiler import explain
from sbnn_tvm.passes.phases.canonicalize import canonicalize
from sbnn_tvm.passes.phases.recognise import recognise
from sbnn_tvm.passes.relax.graph import Graph, constant, op_name
from sbnn_tvm.passes.relax.weight_planes import WeightPlanes
from tests.support.binarised_models import BITS, binarized
from tests.support.passes import agrees, imported
from tests.support.small_models import small_model

TERNARY, CODES = (-1, 0, 1), (-2, -1, 0, 1)


def weights(rng: np.random.Generator, codes: tuple[int, ...], *shape: int, scaled: bool = True) -> np.ndarray:
    """Weights of a few values, each output channel with a scale of its own."""
    scale = rng.uniform(0.05, 2, (shape[0], *[1] * (len(shape) - 1))) if scaled else 1
    return (rng.choice(codes, shape) * np.float32(scale)).astype(np.float32)


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([TERNARY, CODES, (0, 1, 2), (-3, -1, 1, 3), (-2, -1, 1), (0, 1), (-1, 1), (2,), (0,), (-1, 2)]),
    st.booleans(),
)
def test_planes_add_up_to_the_weights(seed: int, codes: tuple[int, ...], mixed: bool) -> None:
    rng = np.random.default_rng(seed)
    weight = weights(rng, codes, 5, 16, 3)
    if mixed:  # other channels of the same layer
        weight[0] = rng.choice(np.float32([-0.3, 0.3]), weight[0].shape)
        weight[1] = 0
        weight[2] = -0.7
    split = WeightPlanes.of(weight)
    assert split is not None and set(np.unique([split.first, split.second])) <= {-1, 1}
    column = (-1, 1, 1)
    total = split.factor * split.first + split.second
    restored = split.tau.astype(np.float64).reshape(column) * total + split.phi.reshape(column)
    np.testing.assert_allclose(restored, weight, rtol=0, atol=5e-7 * np.abs(weight).max())
    if codes == TERNARY:
        assert split.factor == 1 and not split.phi.any()


@pytest.mark.parametrize(
    "weight",
    [
        np.random.default_rng(0).standard_normal((4, 16, 3, 3)).astype(np.float32),
        weights(np.random.default_rng(0), (-1, 0, 2, 3, 4), 4, 16, 3, 3),
        weights(np.random.default_rng(0), (-10, 0, 11), 4, 16, 3, 3),
        weights(np.random.default_rng(0), TERNARY, 4, 15, 3, 3),
        np.where(np.arange(64) % 3, 1, np.where(np.arange(64) % 2, 0, -1 + 2**-22)).astype(np.float32).reshape(1, 64),
        np.full((2, 16), np.nan, np.float32),
    ],
    ids=["normal", "five values", "uneven", "few channels", "unequal weights of one code", "not finite"],
)
def test_other_weights_stay(weight: np.ndarray) -> None:
    if weight.shape == (1, 64):
        weight[0, 0] = -1  # two neighbours of -1
    assert WeightPlanes.of(weight) is None


LAYERS = {
    "a convolution": ("y = Conv<pads=[1, 1, 1, 1], strides=[1, 2]>(b, w)", (2, 20, 6, 6), (5, 20, 3, 3)),
    "groups": ("y = Conv<group=2>(b, w)", (1, 40, 5, 5), (6, 20, 2, 2)),
    "rows": ("y = MatMul(b, w)", (3, 40), (40, 7)),
    "a flattened map": ("f = Flatten(b)\ny = Gemm<transB=1>(f, w)", (2, 16, 2, 3), (7, 96)),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("domain", [SIGN, BIT, BinaryDomain(-0.25, 2.0)], ids=str)
@pytest.mark.parametrize("codes", [CODES, pytest.param(TERNARY, marks=pytest.mark.slow)], ids=str)
def test_two_calls_with_signs(name: str, codes: tuple[int, ...], domain: BinaryDomain) -> None:
    text, extent, shape = LAYERS[name]
    weight = weights(np.random.default_rng(0), codes, *shape[::-1]).T if "MatMul" in text else None
    weight = weights(np.random.default_rng(0), codes, *shape) if weight is None else weight
    model = small_model(BITS + text, {"x": extent}, {"t": 0.0, "hi": domain.hi, "lo": domain.lo, "w": weight})
    mod = recognise(canonicalize(imported(model)))
    linear = [call for _, call in Graph(mod["main"]).bindings if op_name(call) in ("nn.conv2d", "matmul")]
    assert len(linear) == (2 if codes == TERNARY else 3)
    assert all(np.all(np.abs(constant(call.args[1])) == 1) for call in linear)
    agrees(mod, model)


def net(codes: tuple[int, ...], domain: BinaryDomain, bits: int = 1) -> onnx.ModelProto:
    """A layer with a batch norm and a binariser, a layer with a residual, and a dense layer."""
    rng = np.random.default_rng(1)
    text = BITS
    if bits == 2:
        text = "k = Clip(x, zero, three)\nb = Round(k)\n"
    text += "d = Conv<pads=[1, 1, 1, 1]>(b, w)\nn = BatchNormalization(d, g, o, m, v)\n" + binarized("e", "n")
    text += "f = Conv<pads=[1, 1, 1, 1]>(e, u)\nr = Add(f, n)\n" + binarized("h", "r")
    text += "q = Flatten(h)\ny = Gemm<transB=1>(q, z)"
    constants = {"t": 0.0, "hi": domain.hi, "lo": domain.lo, "zero": 0.0, "three": 3.0}
    constants |= {"w": weights(rng, codes, 24, 20, 3, 3), "u": weights(rng, codes, 24, 24, 3, 3)}
    constants |= {"z": weights(rng, codes, 5, 24 * 36), "g": rng.uniform(-1, 1, 24), "o": rng.normal(0, 1, 24)}
    constants |= {"m": rng.normal(0, 1, 24), "v": rng.uniform(0.5, 2, 24)}
    return small_model(text, {"x": (2, 20, 6, 6)}, constants)


CASES = [(TERNARY, SIGN, 1), (CODES, BIT, 1), (TERNARY, BIT, 2), (CODES, SIGN, 2)]


@pytest.mark.parametrize(
    ("codes", "domain", "bits"), [CASES[1], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[::2])]
)
def test_networks_agree_with_onnxruntime(codes: tuple[int, ...], domain: BinaryDomain, bits: int) -> None:
    module = sbnn_tvm.compile(net(codes, domain, bits), strict=True)
    assert module.verify().passed
    assert [(layer.name, layer.binary) for layer in module.report.linear] == [
        ("Conv:d", True),
        ("Conv:f", True),
        ("Gemm:y", True),
    ]


def test_the_report_has_one_layer_with_weights() -> None:
    first, second = [layer for layer in explain(net(TERNARY, SIGN)).layers if layer.name == "Conv:f"]
    assert first.kind == "first plane of binary conv 3x3" and first.weights == "" and not first.macs
    assert second.kind == "binary conv 3x3" and second.weights == "ternary" and second.macs == 2 * 36 * 24 * 24 * 9
    (layer,) = [each for each in explain(net(CODES, SIGN)).linear if each.name == "Conv:f"]
    assert layer.weights == "2 bits"
