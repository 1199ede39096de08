"""Terms that cancel in a forward pass are left out of a trace, and only these."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sbnn_tvm.frontends.torch.straight_through import cancel_straight_through


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


def changed_between(x: Tensor, y: Tensor) -> Tensor:
    b = y * 2
    difference = x.sign() - b.detach()
    b.add_(1.0)
    return difference + b


def result_changed(x: Tensor, y: Tensor) -> Tensor:
    a = x * 2
    out = (a - y).detach() + y
    out.mul_(3.0)
    return out + a


@pytest.mark.parametrize(
    ("function", "count", "exact"),
    [
        (lambda x, y: x.sign().detach() - y.detach() + y, 1, lambda x, y: x.sign()),
        (lambda x, y: (x.sign() - y).detach() + y, 1, lambda x, y: x.sign()),
        (lambda x, y: y + (torch.round(y) - y).detach(), 1, lambda x, y: torch.round(y)),
        (lambda x, y: y - y.detach() + x, 1, lambda x, y: x),
        (lambda x, y: x.detach() - y.detach() + y - x.detach() + x, 2, lambda x, y: x),
        (lambda x, y: (x.exp() - y).detach() + (y - x) + 1, 1, lambda x, y: x.exp() - x + 1),
        (lambda x, y: y - (y - x).detach(), 1, lambda x, y: x),
        (lambda x, y: x - y + y, 0, None),
        (lambda x, y: x.detach() - y.detach() + y.detach(), 0, None),
        (lambda x, y: torch.add(x, y, alpha=2) - y.detach(), 0, None),
        (lambda x, y: (y[:, :1] - x).detach() + x, 0, None),
        (lambda x, y: y - x - y.detach(), 0, None),
        (changed_between, 0, None),
        (result_changed, 0, None),
    ],
)
def test_sums(function: Callable, count: int, exact: Callable | None) -> None:
    x, y = torch.randn(2, 3, 4)
    with torch.no_grad():
        program = torch.export.export(Function(function), (x, y))
        want = function(x, y)
        assert cancel_straight_through(program) == count
        program.graph_module.graph.eliminate_dead_code()
        program.graph_module.recompile()
        got = program.module()(x, y)
    torch.testing.assert_close(got, want)
    if exact is not None:
        assert torch.equal(got, exact(x, y))
        assert not any(node.target is torch.ops.aten.detach.default for node in program.graph.nodes)
