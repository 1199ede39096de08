"""Networks as they are published, in small: torch, the exported file and the compiled library give the same numbers."""

from __future__ import annotations

import copy
from dataclasses import fields

import numpy as np
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import (
    VGG,
    Binarize,
    BinaryConv2d,
    NetworkConfig,
    RPReLU,
    TwoValues,
    bcdnet,
    group_mobilenet,
    quicknet,
    reactnet,
    to_onnx,
    vgg_small,
)
from sbnn_tvm.frontends.torch.networks.bcdnet import shift_quarters
from sbnn_tvm.frontends.torch.networks.config import NetworkOptions
from tests.support.operation_counts import operations
from tests.support.small_models import run_reference

NETWORKS = {
    "reactnet": lambda: reactnet(5, image_size=13, in_channels=2, width=12, blocks=((2, 1), (4, 2), (4, 1))),
    "quicknet": lambda: quicknet(5, image_size=21, in_channels=2, stem_channels=3, widths=(20, 33), blocks=(2, 1)),
    "bcdnet": lambda: bcdnet(5, image_size=13, width=12, blocks=(("conv", 2, 1), ("mlp", 2, 1)), far=3),
    "bcdnet of groups, shifted by halves": lambda: bcdnet(
        5, image_size=16, width=40, blocks=(("mlp", 1, 1), ("conv", 2, 2)), groups=2, dynamic=True
    ),
    "group_mobilenet": lambda: group_mobilenet(
        5, image_size=13, width=12, blocks=((2, 1), (4, 2), (4, 1)), groups=(1, 3, 4)
    ),
}


def random_network(name: str) -> nn.Module:
    """With statistics, thresholds and knees that are not the initial ones."""
    model = NETWORKS[name]()
    with torch.no_grad():
        model.train()(torch.randn(4, *model.example_input_array.shape[1:]))
        for module in model.modules():
            if isinstance(module, Binarize | nn.BatchNorm2d | nn.PReLU | RPReLU):
                for parameter in module.parameters(recurse=False):
                    parameter.add_(torch.randn_like(parameter) / 4)
    return model.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_torch_file_and_library_agree(name: str) -> None:
    model = random_network(name)
    x = torch.randn(model.example_input_array.shape)
    with torch.no_grad():
        eager = copy.deepcopy(model)(x).numpy()
    proto = to_onnx(model)
    (reference,) = run_reference(proto, {"input": x.numpy()}).values()
    np.testing.assert_allclose(reference, eager, rtol=1e-5, atol=1e-5)
    module = sbnn_tvm.compile(proto)
    assert not module.report.fallbacks()
    binary = [name for name, layer in model.named_modules() if isinstance(layer, BinaryConv2d)]
    assert binary == [layer.name for layer in module.report.linear if layer.binary]
    module.verify(x.numpy())


def test_the_activation_with_a_learned_knee() -> None:
    layer = RPReLU(2)
    with torch.no_grad():
        layer.before.copy_(torch.tensor([1.0, 0.0]))
        layer.after.copy_(torch.tensor([0.0, 2.0]))
    x = torch.tensor([[-2.0, -2.0], [3.0, 3.0]])
    expected = torch.tensor([[-0.25, 1.5], [4.0, 5.0]])
    torch.testing.assert_close(layer(x), expected)


def test_a_block_cannot_triple_its_channels() -> None:
    with pytest.raises(ValueError, match="keeps its channels or doubles them, but has 8 to 24"):
        reactnet(5, image_size=16, width=8, blocks=((3, 1),))
    with pytest.raises(ValueError, match="one number per section each"):
        quicknet(5, widths=(8, 16), blocks=(1,))


def test_shifts_are_circular() -> None:
    x = torch.zeros(1, 8, 4, 5)
    x[..., 0, 0] = 1
    places = [(1, 0)] * 2 + [(3, 0)] * 2 + [(0, 2)] * 2 + [(0, 3)] * 2
    assert [tuple(each.nonzero()[0].tolist()) for each in shift_quarters(x, 1, 2)[0]] == places
    with pytest.raises(ValueError, match="in quarters, but there are 6 of them"):
        shift_quarters(x[:, :6], 1, 1)


def test_wrong_blocks() -> None:
    with pytest.raises(ValueError, match="an MLP block keeps channels and size, but has 8 to 16 channels and stride 1"):
        bcdnet(5, image_size=16, width=8, blocks=(("mlp", 2, 1),))
    with pytest.raises(ValueError, match="in quarters, but has 6 of them"):
        bcdnet(5, image_size=16, width=6, blocks=(("mlp", 1, 1),))
    with pytest.raises(ValueError, match="'conv' or 'mlp', but got 'pool'"):
        bcdnet(5, image_size=16, width=8, blocks=(("pool", 1, 1),))
    with pytest.raises(ValueError, match="one for each of 1 blocks, but got 2"):
        group_mobilenet(5, image_size=16, width=8, blocks=((1, 1),), groups=(1, 2))


def test_the_published_cost() -> None:
    with torch.device("meta"):
        assert operations(bcdnet()).binary_macs == pytest.approx(4.82e9, rel=1e-3)


def test_factories_take_the_attributes_of_the_configuration() -> None:
    assert {*NetworkOptions.__annotations__} == {field.name for field in fields(NetworkConfig)} - {"classes"}
    config = NetworkConfig(classes=7, in_channels=1, image_size=16, domain=TwoValues(), learn_threshold=True)
    torch.manual_seed(0)
    expected = VGG(config, stages=((8,), (8,))).state_dict()
    torch.manual_seed(0)
    same = vgg_small(7, stages=((8,), (8,)), in_channels=1, image_size=16, domain=TwoValues(), learn_threshold=True)
    torch.testing.assert_close(same.state_dict(), expected, rtol=0, atol=0)
    with pytest.raises(TypeError, match="unexpected keyword argument 'doman'"):
        vgg_small(doman=TwoValues())
