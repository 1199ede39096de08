"""Binary kernels selected without repetition: values, gradients, schedule, export."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, SelectedKernels, set_progress, to_onnx


def layer_of(t: int = 3, **options) -> BinaryConv2d:
    torch.manual_seed(0)  # the same layer at each call
    return BinaryConv2d(32, 32, 3, padding=1, domain=SelectedKernels(t, **options))


def test_the_most_frequent_kernels_come_first() -> None:
    layer = layer_of()
    kernels = (layer.weight.detach() > 0).reshape(-1, 9)
    distinct, counts = kernels.unique(dim=0, return_counts=True)
    codebook = layer.values.kernels[layer.values.selected()] > 0
    found = [int(counts[(distinct == row).all(1)].sum()) for row in codebook]
    assert found == counts.sort(descending=True).values[:8].tolist()


def test_kernels_are_the_nearest_of_those_selected() -> None:
    layer = layer_of().eval()
    codebook = layer.values.kernels[layer.values.selected()]
    assert len(codebook.unique(dim=0)) == 8
    kernels, signs = layer.weight.detach().reshape(-1, 9), layer.signs().reshape(-1, 9)
    distances = torch.cdist(kernels, codebook)
    torch.testing.assert_close((kernels - signs).norm(dim=1), distances.min(dim=1).values)


def test_training_selects_without_repetition_and_learns() -> None:
    layer = layer_of(2, noise=0.3, temperature=(1.0, 1.0))
    target = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0])
    wanted = int((layer.values.kernels == target).all(1).nonzero())
    optimizer = torch.optim.Adam([layer.values.scores], lr=0.1)
    for step in range(60):
        set_progress(layer, step / 60)
        signs = layer.signs().reshape(-1, 9)
        assert set(signs.unique().tolist()) == {-1.0, 1.0} and len(signs.unique(dim=0)) <= 4
        assert len(layer.values.selected().unique()) == 4
        loss = -(signs @ target).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert wanted in layer.values.selected()


def test_gradient_is_that_of_the_plan() -> None:
    layer = layer_of(noise=0.0, temperature=(0.5, 0.5), iterations=3)
    values, gradient = layer.values, torch.randn(32 * 32, 9)
    layer.signs().reshape(-1, 9).backward(gradient)
    plan_scores = values.scores.detach().requires_grad_()
    own = torch.cdist(layer.weight.detach().reshape(-1, 9), values.kernels[values.selected()]).argmin(1)
    per_place = torch.zeros(8, 9).index_add_(0, own, gradient)
    logarithms = torch.cat([plan_scores / 0.5, torch.zeros(1, 512)])
    for _ in range(3):
        logarithms = logarithms.log_softmax(0)
        logarithms = logarithms.log_softmax(1) + torch.tensor([0.0] * 8 + [504.0]).log().nan_to_num(0, 0, 0)[
            :, None
        ] * (torch.arange(9)[:, None] == 8)
    ((logarithms[:8].exp() @ values.kernels) * per_place).sum().backward()
    torch.testing.assert_close(values.scores.grad, plan_scores.grad, rtol=1e-4, atol=1e-5)
    inside = layer.weight.detach().abs() <= 1
    assert torch.equal(layer.weight.grad.reshape(-1, 9), gradient) and inside.all()


def test_noise_fades_with_the_progress() -> None:
    layer = layer_of(noise=5.0)
    settled = layer.eval().signs()
    layer.train()
    assert not torch.equal(layer.signs(), settled)
    set_progress(layer, 1.0)
    assert torch.equal(layer.signs(), settled)


def test_a_file_holds_t_bits_a_kernel() -> None:
    layer = BinaryConv2d(128, 128, 3, padding=1, domain=SelectedKernels(4))  # files code large layers only
    proto = to_onnx(nn.Sequential(Binarize(), layer).eval(), (1, 128, 4, 4))
    sizes = {tensor.name: len(tensor.raw_data) for tensor in proto.graph.initializer}
    assert sizes["1.weight.indices"] == 128 * 128 * 4 // 8 and sizes["1.weight.patterns"] == 16 * 2


@pytest.mark.slow
def test_a_library_computes_it_on_bits() -> None:
    layer = BinaryConv2d(128, 128, 3, padding=1, domain=SelectedKernels(4))
    module = sbnn_tvm.compile(nn.Sequential(Binarize(), layer).eval(), input_shape=(1, 128, 6, 6))
    (report,) = [layer for layer in module.report.layers if layer.binary]
    assert "codebook" in report.coding
    assert module.verify(samples=1).passed


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SelectedKernels(0), "index_bits and iterations of 1 or more, but got 0 and 10"),
        (lambda: SelectedKernels(temperature=(0.1, 1.0)), r"but got temperature=\(0.1, 1.0\), noise=0.1"),
        (
            lambda: BinaryConv2d(8, 8, 1, domain=SelectedKernels(4)),
            r"SelectedKernels\(index_bits=4\) needs kernels of more than 4 weights",
        ),
        (lambda: BinaryConv2d(8, 8, 5, domain=SelectedKernels(4)), r"at most 9 weights, .* have 25: use SubBit\(4\)"),
    ],
)
def test_errors(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
