"""Quantisers of 8 and 16 bits: values against ONNX's operators, gradients against LSQ's formulas, ranges."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.torch import LSQ, AffineQuantizer, MovingAverage, to_onnx
from sbnn_tvm.frontends.torch.compare_export import run_file
from sbnn_tvm.frontends.torch.layers.affine_quantizers import CODE_TYPES, WeightQuantizer

KINDS = [LSQ, MovingAverage]


def with_range(quantizer: AffineQuantizer, low: float, high: float) -> AffineQuantizer:
    with torch.no_grad():
        quantizer.set_range(torch.tensor(low), torch.tensor(high))
    return quantizer.eval()


def near_ties(quantizer: AffineQuantizer) -> Tensor:
    """Halves of the scale with their neighbours, the ends of the range, and numbers far away."""
    scale, _ = quantizer.affine()
    halves = (torch.arange(-300, 300) + 0.5) * scale.detach()
    below, above = (torch.nextafter(halves, torch.tensor(to)) for to in (-math.inf, math.inf))
    return torch.cat([halves, below, above, torch.tensor([-1e30, -0.0, 0.0, 1e30, math.inf]), torch.randn(99)])


@pytest.mark.parametrize("dtype", CODE_TYPES, ids=str)
def test_values_are_those_of_onnx(dtype: torch.dtype) -> None:
    for zero_point in (None, 0):
        quantizer = with_range(LSQ(dtype, zero_point), -0.7, 1.9)
        x, (scale, z) = near_ties(quantizer), quantizer.affine()
        codes = np.rint(x.numpy() / scale.detach().numpy()).astype(np.float64) + int(z)
        codes = codes.clip(quantizer.least, quantizer.most).astype(np.int64)
        expected = (codes - int(z)).astype(np.float32) * scale.detach().numpy()
        np.testing.assert_array_equal(quantizer(x).detach().numpy(), expected)
        assert quantizer(torch.zeros(1)) == 0
        if zero_point is None:  # the range is covered but for the rounding of the zero point
            ends = quantizer(torch.tensor([-0.7, 1.9])) - torch.tensor([-0.7, 1.9])
            assert (ends.abs() <= scale).all()


def test_stock_onnxruntime_computes_the_same() -> None:
    model = nn.Sequential(*(with_range(kind(dtype), -2.0, 3.0) for kind in KINDS for dtype in CODE_TYPES))
    x = torch.cat([near_ties(quantizer) for quantizer in model])
    proto = to_onnx(model, x.shape)
    assert [node.op_type for node in proto.graph.node] == ["QuantizeLinear", "DequantizeLinear"] * len(model)
    assert [node.name for node in proto.graph.node][:2] == ["0", "0/DequantizeLinear"]
    np.testing.assert_array_equal(run_file(proto, {"input": x.numpy()})["output"], model(x).detach().numpy())


def test_gradients_are_those_of_the_paper() -> None:
    quantizer = with_range(LSQ(torch.int8, zero_point=0), -1.28, 1.27).train()
    x = torch.tensor([[-5.0, -1.28, -0.4567, 0.0, 0.123, 1.26, 1.28, 9.0]], requires_grad=True)
    grad = torch.randn(1, 8)
    quantizer(x).backward(grad)
    v = (x / quantizer.step).detach()
    inside = (v > -128) & (v < 127)
    slope = torch.where(v <= -128, torch.tensor(-128.0), torch.where(v >= 127, torch.tensor(127.0), v.round() - v))
    torch.testing.assert_close(x.grad, grad * inside)
    assert quantizer.step.grad is not None
    torch.testing.assert_close(quantizer.step.grad, (grad * slope).sum() / math.sqrt(8 * 128))


@pytest.mark.parametrize("learned", [False, True])
def test_weights(learned: bool) -> None:
    weight = torch.randn(4, 2, 3, 3)
    weight[3] = 0
    quantizer = WeightQuantizer(weight, learned)
    codes, scale = quantizer.codes(weight), quantizer.scale(weight)
    assert codes.dtype == torch.int8 and codes.flatten(1).abs().amax(1).tolist() == [127, 127, 127, 0]
    torch.testing.assert_close(scale[:3], weight[:3].abs().amax((1, 2, 3)) / 127)
    latent = nn.Parameter(weight)
    y = quantizer(latent)
    assert torch.equal(y, codes * scale.reshape(-1, 1, 1, 1))
    grad = torch.randn_like(y)
    y.backward(grad)
    v = weight / scale.detach().reshape(-1, 1, 1, 1)
    inside = (v.abs() < 127) | torch.tensor(not learned)  # the largest weight is at the end of the range
    torch.testing.assert_close(latent.grad, grad * inside)
    if learned:
        slope = torch.where(v.abs() < 127, v.round() - v, 127 * v.sign())
        torch.testing.assert_close(quantizer.step.grad, (grad * slope).sum((1, 2, 3)) / math.sqrt(18 * 127))


def test_observed_ranges_move() -> None:
    quantizer = MovingAverage(momentum=0.25)
    quantizer(torch.tensor([-1.0, 2.0]))
    quantizer(torch.tensor([0.5, 6.0]))
    assert (quantizer.low, quantizer.high) == (-1 + 0.25 * 1.5, 2 + 0.25 * 4)
    before = quantizer.eval().affine()
    quantizer(torch.tensor([-100.0, 100.0]))
    assert quantizer.affine() == before
    scale, zero_point = before
    assert scale == torch.tensor(3.625) / 255 and zero_point == round(0.625 / 3.625 * 255)


@pytest.mark.parametrize(
    ("dtype", "fixed", "low", "high", "zero_point", "scale"),
    [
        (torch.uint8, None, 0.5, 2.55, 0, 0.01),
        (torch.uint8, None, -2.55, -1.0, 255, 0.01),
        (torch.int8, None, -1.28, 1.27, 0, 0.01),
        (torch.int8, 0, -1.0, 1.27, 0, 0.01),
        (torch.int8, 0, -2.56, 1.27, 0, 0.02),
        (torch.uint8, 0, -7.0, 2.55, 0, 0.01),
        (torch.uint8, 255, -2.55, 9.0, 255, 0.01),
        (torch.int16, 0, -327.68, 1.0, 0, 0.01),
    ],
)
def test_scale_and_zero_point_of_a_range(
    dtype: torch.dtype, fixed: int | None, low: float, high: float, zero_point: int, scale: float
) -> None:
    for kind in KINDS:
        found_scale, found = with_range(kind(dtype, fixed), low, high).affine()
        assert found == zero_point and found_scale.item() == pytest.approx(scale)


def test_the_first_batch_sets_a_learned_range() -> None:
    quantizer = LSQ(torch.uint8)
    x = torch.rand(4, 3, 5, 5) * 2.55
    quantizer(x).sum().backward()
    assert quantizer.zero_point == 0 and quantizer.step.item() == pytest.approx(float(x.max()) / 255)
    first = quantizer.step.item()
    quantizer(10 * x)
    assert quantizer.step.item() == first
    copy = LSQ(torch.uint8).eval()
    copy.load_state_dict(quantizer.state_dict())
    assert torch.equal(copy(x), quantizer(x))


def test_errors() -> None:
    for kind in KINDS:
        with pytest.raises(ValueError, match=r"uint8, int8, uint16 or int16, but got torch\.int32"):
            kind(torch.int32)
        with pytest.raises(ValueError, match="a code of int8, from -128 to 127, but got 200"):
            kind(torch.int8, 200)
        with pytest.raises(ValueError, match="has no range yet: run a batch in training mode, or calibrate_"):
            kind().eval()(torch.ones(2))
        with pytest.raises(ModelError, match="has no range yet"):
            to_onnx(nn.Sequential(kind()), (1, 2))
        broken = with_range(kind(), -1.0, math.inf)
        with pytest.raises(ModelError, match="quantiser '0' has a scale that is not finite"):
            to_onnx(nn.Sequential(broken), (1, 2))
    with pytest.raises(ValueError, match="from 0 to 0; expected finite numbers which are not all 0"):
        LSQ()(torch.zeros(3))
    with pytest.raises(ValueError, match="momentum above 0 and at most 1, but got 0"):
        MovingAverage(momentum=0)
