"""The BNN-PYNQ networks of Brevitas through each of its exports: on bits, and equal to PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sbnn_tvm

pytestmark = pytest.mark.interop

PIXELS = {"tfc": (1, 28, 28), "cnv": (3, 32, 32)}


def network(name: str) -> torch.nn.Module:
    """A network with random weights and random statistics of its batch norms."""
    models = pytest.importorskip("brevitas_examples.bnn_pynq.models", reason="needs the package brevitas")
    torch.manual_seed(0)
    net: torch.nn.Module = models.model_with_cfg(name, False)[0]
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
            if module.weight is not None:
                with torch.no_grad():
                    module.weight.normal_()
                    module.bias.normal_()
            module.eval()  # keeps these statistics while the quantisers collect theirs
    net(torch.rand(4, *PIXELS[name[:3]]))
    return net.eval()


def plain(net: torch.nn.Module, image: torch.Tensor, path: str) -> None:
    torch.onnx.export(net, (image,), path, opset_version=14, dynamo=False)


def qonnx(net: torch.nn.Module, image: torch.Tensor, path: str) -> None:
    pytest.importorskip("brevitas.export").export_qonnx(net, image, path)


def old_qonnx(net: torch.nn.Module, image: torch.Tensor, path: str) -> None:
    pytest.importorskip("brevitas.export").export_qonnx(net, image, path, opset_version=13, dynamo=False)


def qcdq(net: torch.nn.Module, image: torch.Tensor, path: str) -> None:
    pytest.importorskip("brevitas.export").export_onnx_qcdq(net, image, path, opset_version=14, dynamo=False)


@pytest.mark.parametrize(
    ("name", "export", "on_bits", "layers"),
    [
        ("tfc_1w1a", plain, 4, 4),
        ("tfc_1w1a", qonnx, 4, 4),
        ("tfc_1w2a", plain, 4, 4),
        ("tfc_1w2a", qonnx, 4, 4),
        ("tfc_1w2a", old_qonnx, 4, 4),
        ("tfc_2w2a", qonnx, 0, 4),  # weights of 3 values
        ("tfc_2w2a", qcdq, 0, 4),  # which Brevitas does not write for weights of one bit
        ("cnv_1w1a", qonnx, 8, 9),  # the first layer reads pixels of 8 bits
        ("cnv_1w2a", plain, 8, 9),
        ("cnv_1w2a", old_qonnx, 8, 9),
    ],
)
def test_exports(
    tmp_path: Path, name: str, export: Callable[[torch.nn.Module, torch.Tensor, str], None], on_bits: int, layers: int
) -> None:
    net, path = network(name), str(tmp_path / "net.onnx")
    images = torch.rand(4, 1, *PIXELS[name[:3]])
    with torch.no_grad():
        want: list[Any] = [net(image) for image in images]
    export(net, images[0], path)
    module = sbnn_tvm.compile(path)
    assert module.verify(samples=2).passed
    assert sum(layer.binary for layer in module.report.linear) >= on_bits
    assert len(module.report.linear) == layers
    for image, expected in zip(images, want, strict=True):
        expected = getattr(expected, "value", expected).numpy()
        np.testing.assert_allclose(module.run(image.numpy()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("scales", ["by tensor", "by channel", "powers of two"])
def test_integer_layers(tmp_path: Path, bits: int, scales: str) -> None:
    """QCDQ of convolutions and dense layers of integers, with int32 biases."""
    qnn, quant = pytest.importorskip("brevitas.nn"), pytest.importorskip("brevitas.quant")
    weight_quant, act_quant = {
        "by tensor": (quant.Int8WeightPerTensorFloat, quant.ShiftedUint8ActPerTensorFloat),
        "by channel": (quant.Int8WeightPerChannelFloat, quant.Int8ActPerTensorFloat),
        "powers of two": (quant.Int8WeightPerTensorFixedPoint, quant.Int8ActPerTensorFixedPoint),
    }[scales]
    weights = {"weight_quant": weight_quant, "weight_bit_width": bits}
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        qnn.QuantIdentity(act_quant=act_quant, return_quant_tensor=True),
        qnn.QuantConv2d(3, 8, 3, padding=1, bias=True, bias_quant=quant.Int32Bias, **weights),
        qnn.QuantReLU(bit_width=8, return_quant_tensor=True),
        qnn.QuantConv2d(8, 8, 3, groups=8, **weights),
        torch.nn.Flatten(),
        qnn.QuantLinear(8 * 36, 10, bias=True, **weights),
    )
    net(torch.randn(8, 3, 8, 8))
    net.eval()
    image, path = torch.randn(1, 3, 8, 8), str(tmp_path / "net.onnx")
    qcdq(net, image, path)
    module = sbnn_tvm.compile(path)
    if scales == "powers of two":  # otherwise the float sums of the references round, next to ties of the codes
        assert module.verify(samples=2).passed
    with torch.no_grad():
        np.testing.assert_allclose(module.run(image.numpy()), net(image).numpy(), rtol=1e-2, atol=1e-2)
