"""Networks of the shapes of ResNet and VGG."""

from __future__ import annotations

import pytest
import torch

from sbnn_tvm.frontends import torch as sbnn
from sbnn_tvm.frontends.torch import (
    BinaryConv2d,
    BinaryLinear,
)


def test_resnet18_is_bi_real_18() -> None:
    with torch.device("meta"):
        model = sbnn.resnet18()
    layers = [module for module in model.modules() if isinstance(module, BinaryConv2d)]
    assert len(layers) == 16
    assert sum(layer.weight.numel() for layer in layers) == 10_985_472
    assert model(torch.empty(1, 3, 224, 224, device="meta")).shape == (1, 1000)


@pytest.mark.parametrize("size", [7, 8, 13])
def test_resnet_of_any_size(size: int) -> None:
    model = sbnn.resnet(5, in_channels=1, image_size=size, widths=(4, 8, 8), blocks=(1, 2, 1), prelu=True)
    assert model.example_input_array.shape == (1, 1, size, size)
    assert model(torch.randn(2, 1, size, size)).shape == (2, 5)


def test_vgg_of_any_size() -> None:
    model = sbnn.vgg_small(7, image_size=9, stages=((4,), (8, 8)), hidden=(16,), learn_threshold=True)
    assert sum(isinstance(module, BinaryConv2d | BinaryLinear) for module in model.modules()) == 3
    assert model(torch.randn(2, 3, 9, 9)).shape == (2, 7)


def test_model_errors() -> None:
    with pytest.raises(ValueError, match="image_size=4 cannot be halved 3 times"):
        sbnn.vgg_small(image_size=4)
    with pytest.raises(ValueError, match="one number per stage each, but have 4 and 2"):
        sbnn.resnet(blocks=(1, 1))
    with pytest.raises(ValueError, match="'small' or 'imagenet', but got 'big'"):
        sbnn.resnet(stem="big")  # type: ignore[arg-type]
