"""An assignment of one number under a mask computes what torch computes, and its file has static shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from sbnn_tvm.frontends.torch import to_onnx


def whole(x: Tensor) -> Tensor:
    y = x.sign()
    y[y == 0] = 1
    return y


def rows(x: Tensor) -> Tensor:
    y = x * 2
    y[x.sum((1, 2)) > 0] = torch.tensor([3.0])
    return y


def inner(x: Tensor) -> Tensor:
    y = x * 2
    y[:, x[0] > 0] = -4
    y[:, x[0, :, 0] > 0] = 5
    return y


def view(x: Tensor) -> Tensor:
    y = x * 2
    part = y[:, 1:]
    part[part < 0] = 0
    return y


class Calls(nn.Module):
    def __init__(self, *functions: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, x: Tensor) -> list[Tensor]:
        return [function(x) for function in self.functions]


def test_masked_assignments() -> None:
    model = Calls(whole, rows, inner, view)
    proto = to_onnx(model, (3, 4, 5))
    assert not {"NonZero", "GatherND"} & {node.op_type for node in proto.graph.node}
    x = torch.randn(3, 4, 5)
    x[1, 2] = 0
    for want, got in zip(model(x), ReferenceEvaluator(proto).run(None, {"input": x.numpy()}), strict=True):
        np.testing.assert_array_equal(want.numpy(), got)
