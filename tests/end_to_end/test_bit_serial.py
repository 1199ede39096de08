"""Activations of several bits, from ONNX to a library: recognition, kernels, what is refused, what the report says."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx import opset
from sbnn_tvm.module import CompiledModule
from tests.support.grids import every
from tests.support.random_arrays import normal, signs
from tests.support.small_models import grid_inputs, run_reference, small_model

UNSIGNED = np.float32([0.25, 0.75, 1.5])


def packed(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return opset.pack_bits(rng.integers(0, 2, shape))


def per_channel(rng: np.random.Generator, channels: int, count: int = 3) -> np.ndarray:
    return np.sort(np.round(normal(rng, channels, 1, 1, count) * 4) / 4, axis=-1)


def check(model: onnx.ModelProto, target: str = "native", **options: Any) -> CompiledModule:
    """Compile and compare with onnxruntime: outputs within 1e-4, layers exactly as far as they are integers."""
    feeds = grid_inputs(model)
    module = sbnn_tvm.compile(model, target, **options)
    module.verify(feeds)
    outputs = module.run(feeds) if module.target.native else module.emulate(feeds)
    for want, got in zip(
        run_reference(model, feeds).values(), outputs if isinstance(outputs, tuple) else (outputs,), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * max(1, np.abs(want).max()))
    return module


def bits(module: CompiledModule) -> dict[str, tuple[int, str]]:
    """For each binary layer the bits of its activations, and its kernel without the tile."""
    return {
        layer.name.rpartition(":")[2]: (layer.activations, layer.kernel.split()[0] + layer.kernel.partition(" + ")[2])
        for layer in module.report.linear
        if layer.binary
    }


BATCH_NORM = "BatchNormalization<epsilon = 0.0>"
QUANTIZE = "ai.sbnn.Quantize"


def chain(rng: np.random.Generator, lo: float = 0.0, step: float = 1.0, pad_value: int = 0) -> onnx.ModelProto:
    """Stem, quantiser per channel, binary convolution, batch norm, quantiser, grouped convolution, shortcut."""
    channels = 40
    text = f"""
        stem = Conv<pads = [1, 1, 1, 1]>(x, w0)
        q1 = {QUANTIZE}<lo = {lo}, step = {step}>(stem, t1)
        y1 = ai.sbnn.BinaryConv2d<weight_shape = [40, 40, 3, 3], pads = [1, 1, 1, 1], pad_value = {pad_value}>
             (q1, w1, scale, zero)
        n1 = {BATCH_NORM}(y1, g, b, m, v)
        q2 = {QUANTIZE}<lo = {lo}, step = {step}>(n1, t2)
        y2 = ai.sbnn.BinaryConv2d<weight_shape = [40, 20, 3, 3], group = 2, pads = [1, 1, 1, 1], strides = [2, 2]>
             (q2, w2, scale, offset)
        n2 = {BATCH_NORM}(y2, g, b, m, v)
        short = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(n1)
        sum = Add(n2, short)
        q3 = {QUANTIZE}<lo = {lo}, step = {step}>(sum, t1)
        y = Conv(q3, w3)
    """.replace("\n             (", "(")
    constants = {
        "w0": normal(rng, channels, 3, 3, 3), "t1": per_channel(rng, channels), "t2": UNSIGNED,
        "w1": packed(rng, channels, channels, 3, 3),
        "w2": packed(rng, channels, 20, 3, 3), "scale": np.abs(normal(rng, channels)), "zero": np.zeros(channels),
        "offset": normal(rng, channels), "g": normal(rng, channels), "b": normal(rng, channels),
        "m": normal(rng, channels), "v": np.full(channels, 4.0), "w3": signs(rng, 24, channels, 1, 1),
    }  # fmt: skip
    return small_model(text, {"x": (2, 3, 10, 10)}, constants)


@pytest.mark.parametrize("target", every(3, ["native", "x86-64-v3", "x86-64", "arm"]))
def test_a_chain_on_every_instruction_set(target: str, rng: np.random.Generator) -> None:
    module = check(chain(rng), target)
    assert {name: found[0] for name, found in bits(module).items()} == {"y1": 2, "y2": 2, "y": 2}
    assert bits(module)["y"][1] == "popcount_conv2d"


@pytest.mark.parametrize(
    "lo, step, pad_value", every(2, [(-3.0, 2.0, 0), (-1.5, 1.0, 0), (0.0, 1.0, 1), (0.25, 0.1, 0)])
)
def test_levels_and_padding(lo: float, step: float, pad_value: int, rng: np.random.Generator) -> None:
    module = check(chain(rng, lo, step, pad_value))
    assert {found[0] for found in bits(module).values()} == {2}


def test_a_batch_norm_folds_into_integer_thresholds(rng: np.random.Generator) -> None:
    text = f"""
        q1 = {QUANTIZE}(x, t)
        y1 = ai.sbnn.BinaryConv2d<weight_shape = [48, 70, 3, 3], pads = [1, 1, 1, 1]>(q1, w1, scale, zero)
        n1 = {BATCH_NORM}(y1, g, b, m, v)
        a1 = LeakyRelu<alpha = 0.25>(n1)
        q2 = {QUANTIZE}(a1, t2)
        flat = Flatten(q2)
        y = ai.sbnn.BinaryLinear<in_features = 1200>(flat, w2, scale2, zero2)
    """
    channels = 48
    constants = {
        "t": UNSIGNED, "w1": packed(rng, channels, 70, 3, 3), "scale": np.abs(normal(rng, channels)),
        "zero": np.zeros(channels), "g": normal(rng, channels), "b": normal(rng, channels),
        "m": normal(rng, channels), "v": np.full(channels, 4.0),
        "t2": np.sort(normal(rng, 7)) * 3, "w2": packed(rng, 10, 1200), "scale2": np.ones(10), "zero2": np.zeros(10),
    }  # fmt: skip
    module = check(small_model(text, {"x": (2, 70, 5, 5)}, constants), strict=True)
    assert bits(module) == {"y1": (2, "popcount_conv2dthreshold"), "y": (3, "popcount_conv2d")}


@pytest.mark.parametrize("count", [1, 3, 7, 15])
def test_dense_layers_of_every_number_of_bits(count: int, rng: np.random.Generator) -> None:
    text = f"""
        q1 = {QUANTIZE}<lo = -1.0, step = 0.5>(x, t)
        y1 = ai.sbnn.BinaryLinear<in_features = 70>(q1, w1, s1, o1)
        q2 = {QUANTIZE}(y1, t2)
        y = ai.sbnn.BinaryLinear<in_features = 33>(q2, w2, s2, o2)
    """
    constants = {
        "t": np.sort(normal(rng, 70, count)), "w1": packed(rng, 33, 70), "s1": np.ones(33), "o1": np.ones(33) / 2,
        "t2": np.sort(normal(rng, count) * 9), "w2": packed(rng, 9, 33), "s2": normal(rng, 9), "o2": np.zeros(9),
    }  # fmt: skip
    module = check(small_model(text, {"x": (5, 70)}, constants), strict=True)
    assert {found[0] for found in bits(module).values()} == {count.bit_length()}


def test_channels_are_selected_on_codes(rng: np.random.Generator) -> None:
    text = f"""
        q = {QUANTIZE}(x, t)
        left, right = Split<axis = 1, num_outputs = 2>(q)
        swapped = Concat<axis = 1>(right, left)
        y1 = ai.sbnn.BinaryConv2d<weight_shape = [8, 40, 1, 1]>(swapped, w, s, o)
        y2 = Relu(swapped)
    """
    constants = {"t": UNSIGNED, "w": packed(rng, 8, 40, 1, 1), "s": np.ones(8), "o": np.zeros(8)}
    module = check(small_model(text, {"x": (2, 40, 5, 5)}, constants, ("y1", "y2")), strict=True)
    assert bits(module)["y1"][0] == 2 and "channels of bits" in str(module.report)


@pytest.mark.parametrize(
    "between",
    [
        f"q = {QUANTIZE}<lo = -1.5>(c, t)\n p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(q)",
        f"m = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(c)\n p = {QUANTIZE}(m, t)",
        "m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(c)\n"
        f"n = Mul(m, falling)\n r = LeakyRelu(n)\n p = {QUANTIZE}<step = 0.5>(r, t)",
    ],
    ids=["behind", "before", "falling"],
)
def test_maxima_of_codes(between: str, rng: np.random.Generator) -> None:
    text = f"c = Conv(x, w0)\n {between}\n y = Conv(p, w)"
    constants = {"w0": normal(rng, 24, 3, 3, 3), "t": per_channel(rng, 24), "w": signs(rng, 16, 24, 3, 3)}
    if "falling" in between:
        constants["falling"] = np.where(np.arange(24) % 3, -1.5, 2).reshape(24, 1, 1)
    module = check(small_model(text, {"x": (2, 3, 12, 12)}, constants), strict=True)
    assert bits(module)["y"][0] == 2
    (pool,) = [layer.kind for layer in module.report.layers if "pool" in layer.kind]
    assert pool.startswith("max pool on bits")


ROUNDINGS = {
    "DoReFa": "c = Clip(x, zero, two)\n k = Mul(c, steps)\n r = Round(k)\n q = Div(r, steps)",
    "rounded before it is clipped": "k = Div(x, scale)\n r = Round(k)\n c = Clip(r, low, high)\n q = Mul(c, scale)",
    "with a zero point": "k = Div(x, scale)\n r = Round(k)\n a = Add(r, two)\n c = Clip(a, zero, high)\n"
    "b = Sub(c, two)\n q = Mul(b, scale)",
    "levels of three bits that are no products": "c = Clip(x, zero, one)\n k = Mul(c, seven)\n r = Round(k)\n"
    "q = Div(r, seven)",
    "three levels": "c = Clip(x, minus_one, one)\n q = Round(c)",
    "two levels": "c = Clip(x, zero, one)\n q = Round(c)",
}


@pytest.mark.parametrize("kind", ROUNDINGS)
def test_roundings_are_quantisers(kind: str, rng: np.random.Generator) -> None:
    constants = {
        "zero": np.float32(0), "one": np.float32(1), "two": np.float32(2), "steps": np.float32(1.5),
        "scale": np.float32(0.3), "seven": np.float32(7),
        "low": np.float32(-2), "high": np.float32(5), "minus_one": np.float32(-1), "w": signs(rng, 16, 24, 3, 3),
    }  # fmt: skip
    used = {name: value for name, value in constants.items() if name in ROUNDINGS[kind] or name == "w"}
    model = small_model(ROUNDINGS[kind] + "\n y = Conv(q, w)", {"x": (1, 24, 6, 6)}, used, ("y", "q"))
    feeds = grid_inputs(model, step=1 / 6)  # among them ties between two levels
    module = sbnn_tvm.compile(model, strict=True)
    _, q = module.run(feeds)
    np.testing.assert_array_equal(q, run_reference(model, feeds)["q"])
    module.verify(feeds)
    levels = len(np.unique(q))
    assert bits(module)["y"][0] == (levels - 1).bit_length()


def test_why_a_layer_of_many_levels_is_float(rng: np.random.Generator) -> None:
    text = "c = Clip(x, zero, high)\n r = Round(c)\n y = Conv(r, w)"
    constants = {"zero": np.float32(0), "high": np.float32(255), "w": signs(rng, 16, 24, 3, 3)}
    module = check(small_model(text, {"x": (1, 24, 6, 6)}, constants))
    (layer,) = module.report.linear
    assert not layer.binary and "they come from 'Round:r' (round)" in layer.why

    text = f"q = {QUANTIZE}(x, t)\n y = Conv(q, w)"
    module = check(small_model(text, {"x": (1, 24, 6, 6)}, {"t": UNSIGNED, "w": normal(rng, 16, 24, 3, 3)}))
    assert "its activations have 2 bits, but its weights take" in module.report.linear[0].why


@pytest.mark.parametrize(
    ("attributes", "thresholds", "says"),
    [
        ("", np.float32([0, 1]), r"thresholds that are float32 \[2\]; expected float32 with 1, 3, 7 or 15"),
        ("", np.float32(1), "expected float32 with 1, 3, 7 or 15"),
        ("", np.float32([0, 2, 1]), "do not ascend"),
        ("", np.float32([0, 1, np.nan]), "do not ascend"),
        ("<step = 0.0>", UNSIGNED, "has lo 0 and step 0; expected"),
        ("", np.zeros((5, 1, 1, 3), np.float32), r"thresholds \[5, 1, 1, 3\] that do not broadcast to its input"),
    ],
)
def test_wrong_quantisers_are_refused(attributes: str, thresholds: np.ndarray, says: str) -> None:
    model = small_model("y = ai.sbnn.Quantize(x, t)", {"x": (1, 3, 4, 4)}, {"t": UNSIGNED})
    text = f"y = ai.sbnn.Quantize{attributes}(x, t)"
    model.graph.node[0].CopyFrom(onnx.parser.parse_node(text))
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(thresholds, "t"))
    with pytest.raises(ModelError, match=says):
        sbnn_tvm.compile(model)
