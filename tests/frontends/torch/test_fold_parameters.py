"""What depends on parameters only is a constant of the trace; the rest, and what would grow, stays."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sbnn_tvm.frontends.torch import to_onnx
from sbnn_tvm.frontends.torch.fold_parameters import fold_parameters


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        signs, size = w.sign(), w.abs().mean((1, 2, 3))
        wide = size[:1].expand(100_000) * 2
        low, high = size.chunk(2)
        y = (
            torch.nn.functional.conv2d(x, signs) * size[:, None, None]
            + wide[:8, None, None]
            + torch.cat([high, low])[0]
        )
        return y + torch.rand(1) * 0 + self.count


def test_folded_parameters() -> None:
    model, x = Quantised().eval(), torch.randn(2, 4, 5, 5)
    with torch.no_grad():
        program = torch.export.export(model, (x,))
        model.count.zero_()
        fold_parameters(program)
        program.graph_module.recompile()
        targets = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
        assert "aten.sign.default" not in targets and "aten.mean.dim" not in targets
        assert {"aten.rand.default", "aten.add_.Tensor", "aten.expand.default", "aten.chunk.default"} <= set(targets)
        got = program.module()(x)
        model.count.zero_()
        assert torch.equal(got, model(x))


def test_a_file_holds_no_quantiser_of_weights() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(8, 4, 3, 3))

        def forward(self, x: Tensor) -> Tensor:
            size = self.weight.abs().mean((1, 2, 3), keepdim=True)
            ideal = size * torch.sign(self.weight)
            clipped = self.weight.clamp(-1, 1)
            return torch.nn.functional.conv2d(x, ideal.detach() - clipped.detach() + clipped)

    proto = to_onnx(Net(), (1, 4, 5, 5))
    assert [node.op_type for node in proto.graph.node] == ["Conv"]
    assert "straight-through arithmetic" in proto.metadata_props[0].value
