"""A network whose float layers have few weights: their kernels, their report, and what can be forced."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d


def sparse_(layer: nn.Module, density: float) -> nn.Module:
    with torch.no_grad():
        layer.weight.mul_(torch.rand_like(layer.weight) < density)
    return layer


class WithResidual(nn.Module):
    """A binary convolution, and a float one of few weights on the same bits."""

    def __init__(self) -> None:
        super().__init__()
        self.binarize, self.signs = Binarize(), BinaryConv2d(24, 40, 3, padding=1)
        self.rest = sparse_(nn.Conv2d(24, 40, 3, padding=1, bias=False), 0.02)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.binarize(x)
        return self.signs(x) + self.rest(x)


def test_compiled_network() -> None:
    body = [WithResidual(), nn.BatchNorm2d(40), Binarize(), BinaryConv2d(40, 40, 3), nn.BatchNorm2d(40), nn.ReLU()]
    head = [sparse_(nn.Conv2d(40, 40, 3, groups=2), 0.02), nn.Flatten(), nn.Linear(40 * 9, 10)]
    model = nn.Sequential(nn.Conv2d(3, 24, 3), *body, *head).eval()
    for batch in (1, 2):
        module = sbnn_tvm.compile(model, input_shape=(batch, 3, 9, 9))
        assert module.verify().passed
        layers = {layer.name: layer for layer in module.report.layers}
        rest, grouped = layers["1.rest"], layers["7"]
        assert rest.kernel.startswith("sparse_float_conv2d") and rest.activations == 1
        assert grouped.kernel.startswith("sparse_float_conv2d") and grouped.activations == 32
        share = np.count_nonzero(model[1].rest.weight.detach().numpy()) / model[1].rest.weight.numel()
        assert rest.weights == f"float32, {share:.2%} not 0"
        assert rest.macs == batch * 49 * np.count_nonzero(model[1].rest.weight.detach().numpy())
    dense = sbnn_tvm.compile(model, input_shape=(1, 3, 9, 9), kernels={"1.rest": "float", "9": "sparse_float"})
    kernels = {layer.name: layer.kernel for layer in dense.report.layers}
    assert kernels["1.rest"].startswith("float_conv2d") and kernels["9"].startswith("sparse_float")
    assert dense.verify().passed
