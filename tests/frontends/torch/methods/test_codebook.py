"""Weights out of a learned codebook of kernels: training, export, and the size of what is stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import BinaryConv2d, BinaryLinear, SubBit, to_onnx


def layer_of(t: int = 4, every: int = 25) -> BinaryConv2d:
    torch.manual_seed(0)  # the same layer at each call
    return BinaryConv2d(128, 128, 3, padding=1, domain=SubBit(t, every))


def test_kernels_are_the_nearest_patterns() -> None:
    layer = layer_of(3).eval()
    codebook = layer.values.patterns.detach().sign()
    assert len(codebook.unique(dim=0)) == 8
    kernels, signs = layer.weight.detach().reshape(-1, 9), layer.signs().reshape(-1, 9)
    distances = torch.cdist(kernels, codebook)
    torch.testing.assert_close((kernels - signs).norm(dim=1), distances.min(dim=1).values)


def test_gradients() -> None:
    layer, x = layer_of(every=2), torch.randn(2, 128, 5, 5)
    layer(x).square().sum().backward()
    assert not layer.values.patterns.grad.any() and (layer.weight.grad != 0).any()
    layer.zero_grad()
    layer(x).square().sum().backward()  # the second pass trains the codebook
    assert layer.values.patterns.grad.abs().sum() > 0
    assert (layer.weight.grad != 0).any()
    with torch.no_grad():
        layer.weight.fill_(2.0)
    layer.zero_grad()
    layer(x).square().sum().backward()
    assert not layer.weight.grad.any()  # clipped


def test_equal_patterns_are_drawn_anew() -> None:
    layer = layer_of(every=1)
    with torch.no_grad():
        layer.values.patterns[5:9] = layer.values.patterns[2]
        layer.values.patterns[0] *= 100
    before = layer.values.patterns.detach().clone()
    layer(torch.randn(1, 128, 3, 3))
    assert len((layer.values.patterns > 0).unique(dim=0)) == 16
    assert layer.values.patterns.abs().max() <= 3
    assert torch.equal(layer.values.patterns[1:5], before[1:5])  # the first of equal ones stays


def test_patterns_near_0_keep_their_signs() -> None:
    layer, x = layer_of(every=1), torch.randn(1, 128, 3, 3)
    signs = layer.values.codebook()
    with torch.no_grad():
        layer.values.patterns.copy_(torch.where(signs, -0.9e-3, 0.9e-3))
    assert torch.equal(layer.values.codebook(), signs)
    layer(x)
    assert torch.equal(layer.values.codebook(), signs)
    with torch.no_grad():
        layer.values.patterns[0] *= 2
    assert torch.equal(layer.values.codebook()[0], ~signs[0])


def test_a_state_dict_of_earlier_versions_loads() -> None:
    layer, fresh = layer_of(), BinaryConv2d(128, 128, 3, padding=1, domain=SubBit(4))
    new = ("values.memory", "values.passes", "values.draws.seed", "values.draws.draws")
    state = {name: value for name, value in layer.state_dict().items() if name not in new}
    assert len(state) == 2
    fresh.load_state_dict(state)
    assert torch.equal(fresh.signs(), layer.signs())


def test_a_file_and_a_library_hold_t_bits_a_kernel() -> None:
    model = nn.Sequential(sbnn_tvm.frontends.torch.Binarize(), layer_of()).eval()
    proto = to_onnx(model, (1, 128, 6, 6))
    (decoder,) = [node for node in proto.graph.node if node.op_type.startswith("Decode")]
    assert decoder.op_type == "DecodeCodebook"
    sizes = {tensor.name: len(tensor.raw_data) for tensor in proto.graph.initializer}
    assert sizes["1.weight.indices"] == 128 * 128 * 4 // 8 and sizes["1.weight.patterns"] == 16 * 2
    module = sbnn_tvm.compile(model, input_shape=(1, 128, 6, 6))
    (report,) = [layer for layer in module.report.layers if layer.binary]
    assert "codebook" in report.coding
    assert module.verify(samples=1).passed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SubBit(0), "index_bits and every of 1 or more, but got 0 and 25"),
        (
            lambda: BinaryConv2d(8, 8, 2, domain=SubBit(4)),
            r"SubBit\(index_bits=4\) needs kernels of more than 4 weights",
        ),
        (lambda: BinaryLinear(8, 8, domain=SubBit(4)), "but the layer's have 1"),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
