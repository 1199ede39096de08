"""Quantised models become layers of integers, and give onnxruntime's numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnxruntime.quantization import QuantType

import sbnn_tvm
from sbnn_tvm.report.report import UNSCHEDULED
from sbnn_tvm.verification.reference import Reference
from tests.support.grids import every

from ..support.quantised_models import FloatNetwork, conv_net, detector, mobilenet, quantised, resnet, run_fused
from ..support.small_models import small_model


def compiled(model: onnx.ModelProto, target: str = "native", layers: int | None = None) -> sbnn_tvm.CompiledModule:
    """The module, in which everything has a kernel, and so many layers with weights are of integers."""
    module = sbnn_tvm.compile(model, target)
    left = [layer.name for layer in module.report.layers if layer.kernel == UNSCHEDULED]
    assert not left, str(module.report)
    if layers is not None:
        assert len([layer for layer in module.report.layers if layer.kind.startswith("integer")]) == layers
    return module


def inputs(model: onnx.ModelProto, seed: int) -> np.ndarray:
    """A normally distributed input."""
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim]
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("qdq", "per_channel", "signed"),
    [(True, True, False), (True, False, True), (False, False, False), (False, True, True)],
    ids=["qdq-channel-uint8", "qdq-tensor-int8", "qoperator-tensor-uint8", "qoperator-channel-int8"],
)
def test_convolutions_give_the_bits_of_qlinearconv(tmp_path: Path, qdq: bool, per_channel: bool, signed: bool) -> None:
    """QDQ models as well: onnxruntime's optimisations make QLinearConv of them."""
    model = quantised(conv_net(), tmp_path, qdq=qdq, per_channel=per_channel, signed=signed)
    module = compiled(model, layers=3)
    for seed in range(3):
        x = inputs(model, seed)
        np.testing.assert_array_equal(module.run(x), run_fused(model, x))
    module.verify(samples=1)


@pytest.mark.parametrize("make", every(2, [mobilenet, resnet]))
def test_networks_are_integers_throughout(tmp_path: Path, make: Callable[[], onnx.ModelProto]) -> None:
    model = quantised(make(), tmp_path)
    module = compiled(model)
    assert not [layer for layer in module.report.layers if layer.weights == "float32"]
    module.verify(samples=2)


@pytest.mark.parametrize("make", [resnet, detector])
def test_networks_of_operators_on_integers(tmp_path: Path, make: Callable[..., onnx.ModelProto]) -> None:
    """QLinearAdd, QLinearMul, QLinearSigmoid, QLinearConcat and QLinearGlobalAveragePool have kernels as well."""
    model = quantised(make(width=4, size=8), tmp_path, qdq=False)
    module = compiled(model)
    assert all(layer.weights == "int8" for layer in module.report.linear)
    x = inputs(model, 0)
    name = model.graph.output[0].name
    np.testing.assert_array_equal(module.run(x), Reference(model).run({"x": x}, [name])[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"weight_type": QuantType.QUInt8, "per_channel": True},
        {"reduce_range": True},
        {"signed": True, "extra_options": {"ActivationSymmetric": True}},
        {"extra_options": {"WeightSymmetric": False}},
        {"extra_options": {"QuantizeBias": False}},
        {"extra_options": {"DedicatedQDQPair": True, "AddQDQPairToWeight": True}},
        {"extra_options": {"OpTypesToExcludeOutputQuantization": ["Conv", "Gemm", "Add"]}},
        {"op_types_to_quantize": ["Conv", "Gemm"]},
    ],
    ids=str,
)
def test_settings_of_the_quantiser(tmp_path: Path, settings: dict[str, Any]) -> None:
    """docs/your-network.md lists them."""
    module = compiled(quantised(resnet(width=4, size=8), tmp_path, **settings), layers=7)
    module.verify(samples=1)


def test_on_arm(tmp_path: Path) -> None:
    model = quantised(resnet(width=4, size=8), tmp_path, per_channel=True)
    module = compiled(model, "cortex-a72")
    module.verify(samples=1)


def test_integer_operators() -> None:
    """ConvInteger and MatMulInteger, whose sums become floats, times scales."""
    rng = np.random.default_rng(0)
    constants = {
        "w": rng.integers(-128, 128, (4, 3, 3, 3)).astype(np.int8), "z": np.uint8(7), "s": 0.01, "p": np.uint8(100),
        "v": rng.integers(-128, 128, (4, 5)).astype(np.int8), "t": 0.25, "shape": np.array([1, 4]),
    }  # fmt: skip
    text = """
        q = QuantizeLinear (x, t, z)
        c = ConvInteger <pads = [1, 1, 1, 1]> (q, w, z)
        f = Cast <to = 1> (c)
        g = Mul (f, s)
        m = GlobalMaxPool (g)
        r = Reshape (m, shape)
        d = QuantizeLinear (r, t, p)
        e = MatMulInteger (d, v, p)
        h = Cast <to = 1> (e)
        y = Mul (h, s)
    """
    model = small_model(text, {"x": [1, 3, 6, 6]}, constants)
    compiled(model, layers=2).verify(samples=2)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**16), qdq=st.booleans(), per_channel=st.booleans(), data=st.data())
def test_random_networks(tmp_path: Path, seed: int, qdq: bool, per_channel: bool, data: st.DataObject) -> None:
    net = FloatNetwork((data.draw(st.integers(1, 2)), 4, 8, 8), seed)
    x, channels = "x", 4
    for _ in range(data.draw(st.integers(1, 3))):
        kernel, groups = data.draw(st.sampled_from([1, 3, 5])), data.draw(st.sampled_from([1, 2, channels]))
        out = channels * data.draw(st.sampled_from([1, 2])) if groups < channels else channels
        x = net.conv(x, (channels, out), kernel, data.draw(st.sampled_from([1, 1, 2])), groups)
        channels = out
        if data.draw(st.booleans()):
            x = net.op("Relu", x)
    model = quantised(net.model(x), tmp_path, qdq=qdq, per_channel=per_channel)
    module = compiled(model)
    value = inputs(model, seed)
    np.testing.assert_array_equal(module.run(value), run_fused(model, value))
