"""Models whose activations are quantised by their range at run time, as onnxruntime's quantize_dynamic writes them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import sbnn_tvm

from ..support.quantised_models import FloatNetwork, dynamically_quantised, mlp, transformer_block


def check(model: onnx.ModelProto, integers: int, target: str = "native") -> None:
    """Every operator has a kernel, so many layers sum integers, and the bits are those of onnxruntime."""
    module = sbnn_tvm.compile(model, target, strict=True)
    kinds = [layer.kind for layer in module.report.layers]
    assert sum(kind.startswith("integer") for kind in kinds) == integers, str(module.report)
    assert sum(kind == "quantisation range" for kind in kinds) == sum(
        node.op_type == "DynamicQuantizeLinear" for node in model.graph.node
    )
    assert not any(kind in ("conv", "dense") for kind in kinds)
    verification = module.verify(samples=2)
    assert all(layer.max_rel == 0 for layer in verification.layers if "quantized" in layer.name), str(verification)


def test_convolutions_and_a_dense_layer(tmp_path: Path) -> None:
    """Padding is the zero point. One convolution is depthwise, and its groups read the same codes as another layer."""
    net = FloatNetwork((2, 3, 9, 7))
    x = net.op("Relu", net.conv("x", (3, 12), stride=2))
    x = net.op("Add", net.conv(x, (12, 12), groups=12), net.conv(x, (12, 12), kernel=1))
    x = net.op("Flatten", net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    model = dynamically_quantised(net.model(net.dense(x, (12 * 2 * 2, 5))), tmp_path)
    check(model, 4)


@pytest.mark.slow
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("rows", [(1,), (5,), (2, 3)])
def test_dense_layers(tmp_path: Path, rows: tuple[int, ...], signed: bool) -> None:
    """Scales per channel, and weights of uint8 with zero points of their own."""
    check(dynamically_quantised(mlp(rows, (24, 33, 7)), tmp_path, signed=signed, per_channel=True), 2)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["native", "cortex-a72"])
def test_a_transformer_block(tmp_path: Path, target: str) -> None:
    check(dynamically_quantised(transformer_block(), tmp_path), 6, target)
