"""The float branch beside binary blocks: its shapes and size, that it starts at zero, and that it is compiled."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, SqueezeInteraction, add_branches_, resnet


def small_resnet() -> nn.Module:
    """Two binary blocks, the second with stride 2 on an odd image."""
    return resnet(3, widths=(8, 16), blocks=(1, 1), image_size=7)


def test_a_branch_is_light() -> None:
    branch = SqueezeInteraction(64, 64)
    parameters = sum(each.weight.numel() for each in branch if isinstance(each, nn.Conv2d))
    assert parameters / (9 * 64 * 64) == pytest.approx(0.118, abs=0.001)
    assert SqueezeInteraction(3, 5, 2, ratio=8)(torch.zeros(2, 3, 7, 8)).shape == (2, 5, 4, 4)
    with pytest.raises(ValueError, match=r"must be 1 or more, but is 0\.5"):
        SqueezeInteraction(8, 8, ratio=0.5)


def test_new_branches_change_nothing() -> None:
    model = small_resnet()
    x = torch.randn(4, 3, 7, 7)
    before = copy_of_output(model, x)
    assert add_branches_(model, ["layers.0.0", "layers.1.0"]) is model
    assert torch.equal(copy_of_output(model, x), before)
    model.train()(x).square().sum().backward()
    assert model.layers[1][0].branch[-1].weight.grad.abs().max() > 0


def copy_of_output(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The output in eval mode."""
    with torch.no_grad():
        return model.eval()(x)


def test_wrong_blocks() -> None:
    model = small_resnet()
    for name, message in (
        ("layers.7", "no module 'layers.7'"),
        ("", "no module ''"),
        ("head", "'head' is no binary block: it has no BinaryConv2d"),
    ):
        with pytest.raises(ValueError, match=message):
            add_branches_(model, [name])
    add_branches_(model, ["layers.0.0"])
    with pytest.raises(ValueError, match=r"'layers\.0' has a branch already"):
        add_branches_(model, ["layers.0"])


@pytest.mark.slow
def test_a_block_with_a_branch_is_compiled_on_bits() -> None:
    model = nn.Sequential(nn.Sequential(BinaryConv2d(8, 12, 3, 2, padding=1, binarize=Binarize()), nn.BatchNorm2d(12)))
    add_branches_(model, ["0"])
    nn.init.normal_(model[0].branch[-1].weight)
    module = sbnn_tvm.compile(model.eval(), input_shape=(1, 8, 5, 5))
    assert [layer.name for layer in module.report.linear if layer.binary] == ["0.block.0"]
    x = torch.randn(3, 8, 5, 5)
    module.verify(x.numpy())
