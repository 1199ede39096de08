"""Constants that repeat the same numbers along an axis shrink, and only those."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.passes.phases.shrink_constants import shrink_constants
from sbnn_tvm.passes.relax.graph import Graph, constant
from tests.support.binarised_models import kinds
from tests.support.small_models import small_model

REPEATED = np.broadcast_to(np.arange(3.0).reshape(1, 3, 1, 1), (2, 3, 4, 5))


def shrunk(text: str, shape: tuple[int, ...], values: np.ndarray) -> tuple[int, ...]:
    """The shape of the constant k after the phase."""
    model = small_model(text, {"x": shape}, {"k": np.ascontiguousarray(values)})
    bindings = Graph(shrink_constants(import_onnx(model).mod)["main"]).bindings
    return next(found.shape for _, value in bindings for arg in value.args if (found := constant(arg)) is not None)


@pytest.mark.parametrize(
    "shape, values, expected",
    [
        ((2, 3, 4, 5), REPEATED, (1, 3, 1, 1)),
        ((2, 3, 4, 5), REPEATED[:1], (1, 3, 1, 1)),
        ((2, 3, 4, 5), np.ones((3, 4, 5)), (1, 1, 1, 1)),
        ((2, 3, 1, 5), REPEATED, (1, 3, 4, 1)),  # the constant alone gives the result its rows
        ((2, 3, 4, 5), np.arange(120.0).reshape(2, 3, 4, 5), (2, 3, 4, 5)),
        ((2, 3, 4, 5), np.where(np.arange(5) == 2, -0.0, 0.0), (1, 1, 1, 5)),
    ],
    ids=["per channel", "one sample", "one number", "broadcasts x", "all different", "zeros of both signs"],
)
def test_shapes(shape: tuple[int, ...], values: np.ndarray, expected: tuple[int, ...]) -> None:
    assert shrunk("y = Add(x, k)", shape, values) == expected
    assert shrunk("y = Greater(k, x)", shape, values) == expected


def test_an_expanded_bias_joins_the_layer_before_it() -> None:
    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bias = nn.Conv2d(3, 8, 3), nn.Parameter(torch.randn(1, 8, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return y + self.bias.expand_as(y)

    module = sbnn_tvm.compile(Biased().eval(), input_shape=(2, 3, 6, 6), strict=True)
    assert kinds(module) == ["conv 3x3"] and module.verify().passed
