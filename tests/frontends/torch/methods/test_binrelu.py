"""BinReLU: its formula, its gradients, and that it costs nothing before a binary layer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinReLU


def with_floors(*floors: float) -> BinReLU:
    activation = BinReLU(len(floors))
    with torch.no_grad():
        activation.floor.copy_(torch.tensor(floors))
    return activation


@given(
    st.lists(st.floats(width=32, allow_nan=False), min_size=2, max_size=2),
    st.lists(st.floats(width=32, allow_infinity=False, allow_nan=False), min_size=2, max_size=2),
)
def test_it_keeps_the_bits_and_the_positive_half(x: list[float], floors: list[float]) -> None:
    values = torch.tensor([x])
    y = with_floors(*floors)(values)
    assert torch.equal(Binarize()(y), Binarize()(values))
    assert torch.equal(y.clamp_min(0), values.clamp_min(0))
    assert torch.equal(y, torch.maximum(values, -torch.tensor([floors]).abs()))


def test_gradients() -> None:
    activation = with_floors(0.5, -2.0)
    x = torch.tensor([[-1.0, -3.0], [-0.25, 4.0]], requires_grad=True)
    activation(x).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [[0, 0], [1, 1]]
    assert activation.floor.grad is not None and activation.floor.grad.tolist() == [-1, 1]


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="channels must be 1 or more, but got 0"):
        BinReLU(0)
    with pytest.raises(ValueError, match=r"floor is the distance of the floors from 0, so 0 or more, but got -1\.0"):
        BinReLU(3, floor=-1.0)


def test_compiled_before_binary_and_float_layers() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        with_floors(0.5, -1.5, 0.0),
        BinaryConv2d(3, 8, 3, padding=1, binarize=Binarize()),
        nn.BatchNorm2d(8),
        with_floors(*torch.randn(8).tolist()),
        BinaryConv2d(8, 8, 3, padding=1, binarize=Binarize()),
        nn.BatchNorm2d(8),
        with_floors(*torch.randn(8).tolist()),
        nn.Conv2d(8, 4, 3),
    )
    x = torch.randn(4, 3, 8, 8)
    model(x)
    model.example_input_array = x[:1]
    module = sbnn_tvm.compile(model.eval(), strict=True)
    kernels = [layer.kernel for layer in module.report.linear]
    assert [layer.binary for layer in module.report.linear] == [True, True, False]
    assert "threshold" in kernels[0]  # nothing is left of the activation between two binary layers
    with torch.no_grad():
        np.testing.assert_allclose(module.run(x[:1].numpy()), model(x[:1]).numpy(), rtol=1e-4, atol=1e-5)
    module.verify(x[:1].numpy())
