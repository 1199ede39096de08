"""Libraries whose weights are not quite the model's: right ones pass, wrong ones do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.verification.verify import verify
from tests.support.binarised_models import BINARIZE, BITS, IMAGE, binarized
from tests.support.mutants import Mutant
from tests.support.random_arrays import signs
from tests.support.small_models import small_model

RNG = np.random.default_rng(0)


def with_zeros(*shape: int) -> np.ndarray:
    """Signs of which two are 0."""
    weight = signs(RNG, *shape)
    weight.flat[[5, 77]] = 0
    return weight


LAYERS = {
    "a convolution": ("y = Conv<pads=[1, 1, 1, 1]>(b, w)", with_zeros(16, 8, 3, 3)),
    "groups": ("y = Conv<group=2>(b, w)", with_zeros(16, 4, 3, 3)),
    "a transposed convolution": ("y = ConvTranspose(b, w)", with_zeros(8, 16, 3, 3)),
    "a dense layer": ("f = Flatten(b)\ny = Gemm<transB=1>(f, w, o)", with_zeros(9, 288)),
    "a matrix": ("f = Flatten(b)\ny = MatMul(f, w)", with_zeros(288, 9)),
    "computed weights": ("v = Mul(w, s)\ny = Conv(b, v)", with_zeros(16, 8, 3, 3)),
    "a sign in the graph": ("u = Sign(w)\nv = Mul(s, u)\ny = Conv(b, v)", 0.1 * with_zeros(16, 8, 3, 3)),
}


def layer(name: str) -> onnx.ModelProto:
    text, weight = LAYERS[name]
    constants = {**BINARIZE, "w": weight, "s": RNG.uniform(0.1, 2, (16, 1, 1, 1)), "o": RNG.standard_normal(9)}
    return small_model(BITS + text, IMAGE, constants)


QUICK = ("a transposed convolution", "a dense layer", "a sign in the graph")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in LAYERS]
)
def test_signs_of_zeros(name: str) -> None:
    """The reference has the same signs, and the result says so."""
    module = sbnn_tvm.compile(layer(name), sign_zero="negative")
    (linear,) = module.report.linear
    assert "a}" in linear.weights or linear.weights == "{-1, +1}"
    verification = module.verify()
    assert not verification.less_exact and not verification.flipped
    assert f"signs instead of zeros in the weights of {linear.name} (2)" in str(verification)


def straight_through_net() -> onnx.ModelProto:
    """Two layers whose weights are -a and +a but for rounding, with decisions after the first and floats at the end."""
    latent = RNG.standard_normal((2, 32, 32, 3, 3)).astype(np.float32)
    weights = [np.float32(0.0371) * np.sign(each) - each + each for each in latent]
    text = BITS + "d = Conv<pads=[1, 1, 1, 1]>(b, w)\nn = Mul(d, s)\nm = Add(n, x)\n" + binarized("e", "m")
    text += "y = Conv<pads=[1, 1, 1, 1]>(e, v)"
    constants = {**BINARIZE, "w": weights[0], "v": weights[1], "s": RNG.uniform(0.5, 1, (32, 1, 1))}
    return small_model(text, {"x": (1, 32, 8, 8)}, constants, ("e", "y"))


def flip_one_bit(array: np.ndarray) -> None:
    array.flat[array.size // 2] ^= array.dtype.type(1)


def add_one_step(array: np.ndarray) -> None:
    """The difference that one wrong weight makes."""
    array.flat[array.size // 2] += np.float32(2 * 0.0371)


@pytest.mark.parametrize(("value", "change"), [("e", flip_one_bit), ("y", add_one_step)])
def test_wrong_libraries_with_rounded_weights_are_found(value: str, change: Callable[[np.ndarray], None]) -> None:
    module = sbnn_tvm.compile(straight_through_net())
    assert module.report.notes and all(layer.binary for layer in module.report.linear)
    assert not module.verify(samples=5).approximated
    inputs = [(np.random.default_rng(1).standard_normal((1, 32, 8, 8)).astype(np.float32),)]
    assert verify(Mutant(module, value, lambda array: None), inputs).passed
    assert not verify(Mutant(module, value, change), inputs).passed


def test_wrong_libraries_with_signs_of_zeros_are_found() -> None:
    module = sbnn_tvm.compile(layer("a convolution"), sign_zero="positive")
    inputs = [(np.random.default_rng(1).standard_normal(IMAGE["x"]).astype(np.float32),)]
    assert verify(Mutant(module, "y", lambda array: None), inputs).passed
    assert not verify(Mutant(module, "y", add_one_step), inputs).passed
