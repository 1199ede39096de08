"""Libraries whose constants are stored coded: smaller, expanded when loaded, and verified like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.compiler import explain
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d
from sbnn_tvm.report.report import Report
from sbnn_tvm.runtime.loading import read_metadata


def network(weights, channels: int = 128, size: int = 10) -> nn.Module:
    """Two binary convolutions with the given signs, a threshold and a float output."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [Binarize()]
    for _ in range(2):
        conv = BinaryConv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            conv.weight.copy_(weights(conv.weight.shape))
        norm = nn.BatchNorm2d(channels)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.running_mean, 0, 10)
        layers += [conv, norm, Binarize()]
    model = nn.Sequential(*layers[:-1]).eval()
    model.example_input_array = torch.zeros(1, channels, size, size)
    return model


def sparse(density: float):
    return lambda shape: torch.rand(shape) - 1 + density


def sub_bit(shape: torch.Size) -> torch.Tensor:
    patterns = torch.randperm(512)[:16]
    chosen = patterns[torch.randint(16, shape[:2])]
    return (chosen[..., None] >> torch.arange(9) & 1).reshape(shape) - 0.5


@pytest.mark.parametrize(
    ("weights", "target", "codings", "bits"),
    [
        (sparse(0.02), "native", {"differences", "table", "rice"}, 0.8),
        (sub_bit, "arm", {"codebook", "differences"}, 0.7),
    ],
    ids=["sparse", "sub-bit"],
)
def test_coded_libraries_agree(
    weights, target: str, codings: set[str], bits: float, tmp_path: Path, rng: np.random.Generator
) -> None:
    module = sbnn_tvm.compile(network(weights), target)
    binary = [layer for layer in module.report.layers if layer.binary]
    for layer in binary:
        assert set(layer.coding.split(", ")) <= codings
        assert layer.weight_count == 128 * 128 * 9
        assert layer.bits_per_weight is not None and layer.bits_per_weight < bits
        assert layer.bytes < layer.expanded_bytes
    assert module.lowered.prepares
    assert module.verify(samples=1).passed
    path = module.export(tmp_path / "model.so")
    metadata = read_metadata(path)
    assert metadata.prepares and Report.from_json(metadata.report) == module.report
    if target == "native":
        image = rng.standard_normal((1, 128, 10, 10)).astype(np.float32)
        loaded = sbnn_tvm.load(path)
        np.testing.assert_array_equal(loaded.run(image), module.run(image))
        np.testing.assert_array_equal(loaded.run(image), module.run(image))  # the constants are still there


def test_small_constants_stay_as_they_are(tmp_path: Path) -> None:
    module = sbnn_tvm.compile(network(sparse(0.5), 8))
    assert all(layer.coding == "" and layer.bytes == layer.expanded_bytes for layer in module.report.layers)
    assert not read_metadata(module.export(tmp_path / "model.so")).prepares


def test_constants_shrink_with_density() -> None:
    reports = [explain(network(sparse(density), 256, 6)) for density in (0.5, 0.1, 0.02)]
    sizes = [sum(layer.bytes for layer in report.layers if layer.binary) for report in reports]
    assert sizes == sorted(sizes, reverse=True) and sizes[2] < 0.35 * sizes[0]
