"""Sparse layers in bit planes: right among layers of every other form, and only where they pay."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.algebra.domain import SIGN
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLayer, Signs, TwoValues, resnet, vgg_small
from sbnn_tvm.passes.families.counters import counters_cost
from sbnn_tvm.passes.families.popcount import popcount_cost
from sbnn_tvm.schedules import isa as isas
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.tir import loops
from tests.support import foreign_models
from tests.support.grids import every


def sparse(model: nn.Module, density: float = 0.05, seed: int = 0) -> nn.Module:
    """A model with few positive weights, and batch norms of both signs."""
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
        if isinstance(module, BinaryLayer):
            with torch.no_grad():
                module.weight.copy_(torch.rand_like(module.weight) - (1 - density))
    return model.eval()


def kernels(module: sbnn_tvm.CompiledModule) -> list[str]:
    return [layer.kernel for layer in module.report.layers]


class Mixed(nn.Module):
    """Planes meet words, floats, channels that are put together, groups, strides, and a graph output."""

    def __init__(self) -> None:
        super().__init__()
        self.binarize = Binarize()
        self.first = BinaryConv2d(64, 64, 3, padding=1, domain=Signs())
        self.norm = nn.BatchNorm2d(64)
        self.left = BinaryConv2d(64, 48, 3, stride=2, padding=1, padding_value=-1)
        self.right = BinaryConv2d(64, 48, 3, stride=2, padding=1, padding_value=1, groups=2)
        self.pool = nn.MaxPool2d(2)
        self.norms = nn.ModuleList([nn.BatchNorm2d(48), nn.BatchNorm2d(48)])
        self.last = BinaryConv2d(96, 64, 3, padding=2, dilation=2, domain=TwoValues())

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        bits = self.binarize(self.norm(self.first(self.binarize(x))))
        branches = [self.left(bits), self.right(bits)]
        joined = torch.cat([self.binarize(norm(each)) for norm, each in zip(self.norms, branches, strict=True)], 1)
        return self.last(joined), self.pool(bits), joined


@pytest.mark.parametrize("target", every(3, ["native", "x86-64-v3", "x86-64", "arm", "armv7"]))
def test_among_other_forms(target: str, rng: np.random.Generator) -> None:
    if target.startswith("x86") and not sbnn_tvm.compile(foreign_models.mlp(), target).target.native:
        pytest.skip(f"this machine cannot run {target}")
    forced = {"left": "counters", "right": "popcount"}  # what is joined lies in planes and in words
    module = sbnn_tvm.compile(sparse(Mixed()), target, input_shape=(2, 64, 17, 15), kernels=forced)
    assert sum(name.startswith("counters") for name in kernels(module)) >= 3
    # A coarse grid hits thresholds exactly.
    x = rng.integers(-1, 2, (2, 64, 17, 15)).astype(np.float32)
    result = module.verify(x)
    assert result.flipped == 0 and len(result.layers) >= 5


@pytest.mark.parametrize(
    "model",
    every(
        3,
        [
            vgg_small(in_channels=3, image_size=16, stages=((64, 64), (128, 128)), hidden=(64,)),
            resnet(in_channels=3, image_size=16, widths=(64, 128), blocks=(2, 2), prelu=True, learn_threshold=True),
            resnet(in_channels=3, image_size=16, widths=(64,), blocks=(3,), domain=TwoValues()),
        ],
    ),
    ids=["vgg", "resnet", "two values"],
)
def test_networks(model: nn.Module) -> None:
    module = sbnn_tvm.compile(sparse(model))
    assert any(name.startswith("counters") for name in kernels(module))
    assert all(layer.activations == 1 for layer in module.report.layers if layer.kernel.startswith("counters"))
    module.verify()


def test_foreign_weights(tmp_path, rng: np.random.Generator) -> None:
    with patch.multiple(loops, GRAIN=64, MODEL_GRAINS=1):  # most loops are parallel, as in a large network
        module = sbnn_tvm.compile(foreign_models.bireal_net(channels=64, size=32, density=0.04, symmetric=False))
        path = module.export(tmp_path / "model.so")
    assert any(name.startswith("counters") for name in kernels(module))
    module.verify()
    library = sbnn_tvm.load(path, num_threads=2)
    x = rng.standard_normal(library.inputs[0].shape).astype(np.float32)
    np.testing.assert_array_equal(library.run(x), module.run(x))


def test_they_are_chosen_where_they_pay(rng: np.random.Generator) -> None:
    def counters_pay(shape: Conv2dShape, bits: np.ndarray, isa: isas.Isa, floats: bool) -> bool:
        return counters_cost(shape, bits, isa, floats, SIGN) < popcount_cost(shape, isa, floats)

    every = (isas.AVX512_VPOPCNTDQ, isas.AVX512, isas.AVX2, isas.X86_BASELINE, isas.NEON, isas.ARMV7_NEON)
    large, small = (Conv2dShape(1, h, h, c, c, (3, 3), (1, 1), (1, 1, 1, 1)) for h, c in ((56, 64), (7, 512)))
    few, many = (rng.random((64, 64, 3, 3)) < density for density in (0.05, 0.5))
    for isa in every:
        for floats in (False, True):
            assert counters_pay(large, few, isa, floats) and counters_pay(large, ~few, isa, floats)
        # In cycles, popcounts are faster on most AArch64 cores.
        assert counters_pay(large, many, isa, floats=False) == (isa != isas.NEON)
    # Few pixels fill no vector.
    half = rng.random((512, 512, 3, 3)) < 0.5
    for isa in (isas.AVX512_VPOPCNTDQ, isas.AVX512, isas.AVX2, isas.NEON):
        assert not counters_pay(small, half, isa, floats=False)
