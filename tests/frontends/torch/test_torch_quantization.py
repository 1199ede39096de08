"""Models that PyTorch's own quantisation has changed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.ao.quantization.quantize_fx import prepare_fx

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.torch import to_onnx
from sbnn_tvm.frontends.torch.compare_export import run_file

pytestmark = [
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated"),
    pytest.mark.filterwarnings("ignore:Please use quant_min and quant_max"),
]

SHAPE = (1, 3, 6, 6)


def float_network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


def trained() -> nn.Module:
    """A network of prepare_qat, with ranges."""
    model = nn.Sequential(ao.QuantStub(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), ao.DeQuantStub()).train()
    ao.fuse_modules_qat(model, [["1", "2", "3"]], inplace=True)
    model.qconfig = ao.get_default_qat_qconfig("fbgemm")
    ao.prepare_qat(model, inplace=True)
    model(torch.randn(4, *SHAPE[1:]))
    return model


def test_a_model_of_prepare_qat_is_exported_with_its_ranges() -> None:
    model, x = trained(), torch.randn(SHAPE) * 3
    before = {name: value.clone() for name, value in model.state_dict().items()}
    proto = to_onnx(model, SHAPE)
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= {node.op_type for node in proto.graph.node}
    output = run_file(proto, {"input": x.numpy()})["output"]
    expected = model.eval().apply(ao.disable_observer)(x).detach().numpy()
    step = np.unique(expected.round(6))[1] - expected.min()
    assert np.abs(output - expected).max() < 1.01 * step and (np.abs(output - expected) < 1e-5).mean() > 0.99


class FakeQuantized(nn.Module):
    """Fake quantisation as functions of torch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.tensor(0.02))
        self.register_buffer("zero_point", torch.tensor(7, dtype=torch.int32))

    def forward(self, x: Tensor) -> Tensor:
        scales = self.conv.weight.detach().abs().amax((1, 2, 3)) / 127
        zeros = torch.zeros(4, dtype=torch.int32)
        weight = torch.fake_quantize_per_channel_affine(self.conv.weight, scales, zeros, 0, -127, 127)
        x = torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, -128, 127)
        return torch.fake_quantize_per_tensor_affine(nn.functional.conv2d(x, weight).relu(), 0.05, 0, 0, 255)


def test_fake_quantisation_of_torch() -> None:
    proto = to_onnx(FakeQuantized(), SHAPE)
    assert [node.op_type for node in proto.graph.node] == [
        "QuantizeLinear", "DequantizeLinear", "Conv", "Relu", "QuantizeLinear", "DequantizeLinear",
    ]  # fmt: skip


def test_what_cannot_be_exported_says_what_can() -> None:
    with pytest.raises(ModelError, match=r"'0' \(Quantize\) computes with quantised tensors.*before its convert"):
        to_onnx(ao.convert(trained().eval()), SHAPE)
    prepared = prepare_fx(float_network(), ao.get_default_qconfig_mapping("fbgemm"), (torch.randn(SHAPE),))
    with pytest.raises(ModelError, match=r"'activation_post_process_0' .* nothing is quantised yet; .*convert_pt2e"):
        to_onnx(prepared, SHAPE)


def test_torchao() -> None:
    pytest.importorskip("torchao")
    from torchao.quantization import Int8WeightOnlyConfig, quantize_
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(torch.export.export(float_network(), (torch.randn(SHAPE),)).module(), quantizer)
    prepared(torch.randn(SHAPE))
    with pytest.raises(ModelError, match="nothing is quantised yet"):
        to_onnx(prepared, SHAPE)
    proto = to_onnx(convert_pt2e(prepared), SHAPE)
    codes = [list(tensor.dims) for tensor in proto.graph.initializer if "frozen_param" in tensor.name]
    assert codes == [[4, 3, 3, 3], [5, 64]]
    weights_only = float_network()
    quantize_(weights_only, Int8WeightOnlyConfig())
    with pytest.raises(ModelError, match=r"'weight' of '3' \(Linear\) is an Int8Tensor of torchao"):
        to_onnx(weights_only, SHAPE)
