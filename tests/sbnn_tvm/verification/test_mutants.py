"""A right library passes over many inputs, and one that is a little wrong does not."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.verification.reference import Reference
from sbnn_tvm.verification.result import Verification
from sbnn_tvm.verification.verify import verify
from tests.support.mutants import Mutant
from tests.support.small_models import small_model

BINARIZE = "c = Greater(x, zero)\nb = Where(c, hi, lo)\n"
ENDS = {"zero": 0.0, "one": 1.0, "minus": -1.0, "half": 0.5}


def exact_binary() -> onnx.ModelProto:
    """Sums of signs, binarised and not."""
    rng = np.random.default_rng(3)
    text = BINARIZE + "d = Conv(b, w)\ng = Greater(d, t)\ne = Where(g, hi, lo)\nf = Conv(e, v)\ny = Mul(f, s)"
    constants = {**ENDS, "hi": 1.0, "lo": -1.0, "t": rng.integers(-4, 5, (32, 1, 1)) * 2.0 + 1}
    constants |= {"w": rng.choice([-1.0, 1.0], (32, 20, 3, 3)), "v": rng.choice([-1.0, 1.0], (8, 32, 1, 1))}
    return small_model(text, {"x": (1, 20, 8, 8)}, {**constants, "s": rng.uniform(0.5, 2, (8, 1, 1))}, ("e", "y"))


def large_scale(last: str) -> onnx.ModelProto:
    """Sums that the reference rounds, scaled up, then clipped: the clipped value does not show how large it was."""
    rng = np.random.default_rng(4)
    text = BINARIZE + "d = Conv(b, w)\nn = BatchNormalization(d, s, zeros, zeros, ones)\n" + last
    text += "\ng = Greater(k, zero)\ny = Where(g, one, minus)"
    constants = {**ENDS, "hi": 0.7, "lo": -0.3, "w": rng.choice([-1.0, 1.0], (32, 20, 1, 1))}
    constants |= {"s": rng.uniform(0.5e4, 2e4, 32), "zeros": np.zeros(32), "ones": np.ones(32)}
    return small_model(text, {"x": (1, 20, 14, 14)}, constants)


def composed_flips(middle: str) -> onnx.ModelProto:
    """Values that lie exactly at their thresholds, after several layers of floats, then a pooling."""
    rng = np.random.default_rng(5)
    text = "f0 = Conv(x, w0)\nf1 = Mul(f0, f0)\nf2 = Conv<pads=[1, 1, 1, 1]>(f1, w1)\nf = Sigmoid(f2)\n" + middle
    text += "\np = AveragePool<kernel_shape=[2, 2], strides=[2, 2]>(a)\ny = Conv(p, w2)"
    constants = {
        **ENDS,
        "w0": 0.1 * rng.standard_normal((16, 8, 3, 3)),
        "w1": 0.1 * rng.standard_normal((16, 16, 3, 3)),
    }
    constants |= {"w2": rng.standard_normal((8, 16, 1, 1)), "s": rng.standard_normal((16, 1, 1))}
    before = small_model(text, {"x": (1, 8, 12, 12)}, {**constants, "t": 0.0})
    thresholds = Reference(before).run({"x": image()})["f"][0].copy()
    thresholds[rng.random(thresholds.shape) > 0.05] += 1
    return small_model(text, {"x": (1, 8, 12, 12)}, {**constants, "t": thresholds})


def small_sigmoids() -> onnx.ModelProto:
    """Sigmoids near -15, where onnxruntime has few right digits."""
    weight = 0.01 * np.random.default_rng(6).standard_normal((64, 50))
    return small_model("m = MatMul(x, w)\nn = Add(m, o)\ny = Sigmoid(n)", {"x": (1, 64)}, {"w": weight, "o": -15.0})


def sigmoids_of_cancelled_sums() -> onnx.ModelProto:
    """Sigmoids near -17 and -40 of sums whose large terms cancel: onnxruntime's error is that of numbers near 1."""
    rng = np.random.default_rng(10)
    weight = (1e5 * rng.standard_normal((64, 200))).astype(np.float32)
    text = "m = MatMul(x, w)\nk = MatMul(m, v)\nn = Add(k, o)\ny = Sigmoid(n)"
    back = np.concatenate([np.eye(200), -np.eye(200)])
    offset = np.where(np.arange(200) % 10, -40.0, -17.0)
    constants = {"w": np.concatenate([weight, weight * np.float32(1 + 2**-20)], 1), "v": back, "o": offset}
    return small_model(text, {"x": (4, 64)}, constants)


def halves() -> onnx.ModelProto:
    """Elementwise float16."""
    return small_model("a = Relu(x)\nb = Mul(a, a)\ny = Add(b, a)", {"x": ((1, 512), "float16")})


def image() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((1, 8, 12, 12)).astype(np.float32)


NETS: dict[str, Callable[[], onnx.ModelProto]] = {
    "exact binary": exact_binary,
    "clipped": lambda: large_scale("k = Clip(n, minus, one)"),
    "rectified": lambda: large_scale("k = Relu(n)"),
    "small sigmoids": small_sigmoids,
    "sigmoids of cancelled sums": sigmoids_of_cancelled_sums,
    "float16": halves,
}
MIDDLES = {
    "a residual sum": "g = Greater(f, t)\nb = Where(g, one, minus)\na = Add(b, f1)",
    "scaled": "g = Greater(f, t)\nb = Where(g, one, minus)\nm = Mul(b, s)\na = Add(m, s)",
    "rounded": "d = Sub(f, t)\nk = Add(d, half)\na = Round(k)",
    "index of the largest": "d = Sub(f, t)\ni = ArgMax<axis=1, keepdims=1>(d)\nj = Cast<to=1>(i)\na = Mul(j, s)",
}


@cache
def compiled(net: str) -> CompiledModule:
    return sbnn_tvm.compile(NETS[net]())


@pytest.mark.parametrize("net", NETS)
def test_a_right_library_passes(net: str) -> None:
    verification = compiled(net).verify(samples=20, seed=1)
    if net in ("clipped", "rectified"):
        assert verification.flipped > 100
    if net == "exact binary":
        assert not verification.flipped and not verification.less_exact
    if net == "small sigmoids":
        assert verification.less_exact == 20 * 50
        assert "onnxruntime is the less exact side in 1000 values, by float64 sums" in str(verification)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 7))
@pytest.mark.parametrize("net", NETS)
def test_a_right_library_passes_over_many_seeds(net: str, seed: int) -> None:
    compiled(net).verify(samples=20, seed=seed)


@pytest.mark.parametrize(
    "middle", [*list(MIDDLES)[:2], *(pytest.param(m, marks=pytest.mark.slow) for m in list(MIDDLES)[2:])]
)
def test_flips_that_only_the_whole_run_has_are_found(middle: str) -> None:
    module = sbnn_tvm.compile(composed_flips(MIDDLES[middle]))
    verification = module.verify(image())
    assert verification.after_flips == 1 and not verification.outputs[0].within
    assert verification.first_flip in ("g", "b", "a", "i")
    assert f"first in '{verification.first_flip}'" in str(verification)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def mutated(net: str, value: str, change: Callable[[np.ndarray], None], samples: int = 1) -> Verification:
    module = compiled(net)
    rng = np.random.default_rng(8)
    inputs = [tuple(rng.standard_normal(s.shape).astype(s.dtype) for s in module.inputs) for _ in range(samples)]
    assert verify(Mutant(module, value, lambda array: None), inputs).passed
    return verify(Mutant(module, value, change), inputs)


def flip_one_bit(array: np.ndarray) -> None:
    array.flat[array.size // 2] ^= array.dtype.type(1)


def add_to_one(difference: float) -> Callable[[np.ndarray], None]:
    """Add a share of the largest value to one element."""

    def change(array: np.ndarray) -> None:
        array.flat[array.size // 2] += array.dtype.type(difference * np.abs(array).max())

    return change


def times(factor: float) -> Callable[[np.ndarray], None]:
    def change(array: np.ndarray) -> None:
        array *= array.dtype.type(factor)

    return change


@pytest.mark.parametrize(
    ("net", "value", "change"),
    [
        ("exact binary", "b", flip_one_bit),
        ("exact binary", "e", flip_one_bit),
        ("exact binary", "y", add_to_one(1e-5)),
        ("exact binary", "y", times(1 + 2**-17)),
        ("small sigmoids", "y", times(1.6)),
        ("small sigmoids", "y", add_to_one(0.6)),
        ("sigmoids of cancelled sums", "y", times(10)),
        ("float16", "y", times(1.01)),
        ("float16", "y", add_to_one(0.01)),
    ],
)
def test_a_wrong_value_is_found(net: str, value: str, change: Callable[[np.ndarray], None]) -> None:
    verification = mutated(net, value, change)
    assert not verification.passed and verification.first_difference is not None
    assert verification.first_difference.name == value


@pytest.mark.parametrize("net", ["clipped", "rectified"])
def test_flipped_bits_far_from_their_thresholds_are_found(net: str) -> None:
    """Every bit of an output is flipped, of which rounding explains only those at the threshold."""
    module, reference = compiled(net), Reference(NETS[net]())
    x = np.random.default_rng(8).standard_normal((1, 20, 14, 14)).astype(np.float32)

    def flip_all(array: np.ndarray) -> None:
        array[...] = ~array if array.dtype.kind == "u" else -array

    at_threshold = int((np.abs(reference.run({"x": x})["d"]) < 1e-3).sum())
    found = verify(Mutant(module, "y", flip_all), [(x,)]).first_difference
    assert found is not None and found.name == "y"
    assert found.wrong >= found.elements - at_threshold and at_threshold < found.elements / 4


def test_one_step_of_a_large_sum_is_found() -> None:
    """20,000 equal signs: one step of the sum is 1e-4 of it."""
    sign = np.random.default_rng(9).choice(np.float32([-1, 1]), 20000)
    text = BINARIZE + "y = MatMul(b, w)"
    module = sbnn_tvm.compile(
        small_model(text, {"x": (1, 20000)}, {"zero": 0.0, "hi": 1.0, "lo": -1.0, "w": sign[:, None]})
    )
    inputs = [(sign[None],)]
    assert verify(module, inputs).passed

    def one_step(array: np.ndarray) -> None:
        array -= np.float32(2)

    assert not verify(Mutant(module, "y", one_step), inputs).passed


def test_right_layers_in_a_wrong_library_are_found() -> None:
    module = compiled("exact binary")
    mutant = Mutant(module, "y", lambda array: None)
    mutant.library = Mutant(module, "y", times(1.5))
    verification = verify(mutant, [(np.ones((1, 20, 8, 8), np.float32),)])
    assert verification.unexplained == 1
    assert "the library gives another 'y' than its kernels run one after the other" in str(verification)


def test_a_layer_that_is_wrong_only_on_its_own_values_is_found() -> None:
    """Its inputs in the whole run are not the reference's, to the last bit."""
    module = sbnn_tvm.compile(composed_flips(MIDDLES["scaled"]))
    x = image()
    alone = Reference(module.imported.model).run({"x": x})["p"]

    def change(array: np.ndarray) -> None:
        if not np.allclose(array, np.moveaxis(alone, 1, -1), rtol=0, atol=1e-5 * np.abs(alone).max()):
            array += np.float32(0.01)

    verification = verify(Mutant(module, "p", change), [(x,)])
    assert not verification.passed
