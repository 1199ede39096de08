"""Terms that cancel in a forward pass are left out of a trace, and only these."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from sbnn_tvm.frontends.torch.export import to_onnx
from sbnn_tvm.frontends.torch.straight_through import cancel_straight_through


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


class OneInput(nn.Module):
    def __init__(self, function: nn.Module) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, x)


def changed_between(x: Tensor, y: Tensor) -> Tensor:
    b = y * 2
    difference = x.sign() - b.detach()
    b.add_(1.0)
    return difference + b


def kept_term_changed(x: Tensor, y: Tensor) -> Tensor:
    a = x * 2
    difference = a - y.detach()
    a.add_(1.0)
    return difference + y


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
        (kept_term_changed, 0, None),
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


def test_exact_weights_keep_the_sums() -> None:
    network = Function(lambda x, y: (x.sign() - y).detach() + y).eval()
    model = nn.Sequential(OneInput(network))
    shorter, longer = (to_onnx(model, (1, 3), exact_weights=exact) for exact in (False, True))
    assert [len(each.graph.node) for each in (shorter, longer)] == [1, 3]
    assert "exact_weights=True forbids it" in shorter.metadata_props[0].value and not longer.metadata_props
