"""Conversion without training, and batch norms recalibrated."""

from __future__ import annotations

import digits
import pytest
import torch
import training_loop
from torch import nn

from sbnn_tvm.frontends.torch import (
    LSQ,
    BinaryConfig,
    EightBit,
    binarize_,
    calibrate_,
    quantize_,
    recalibrate_,
)


def test_quantize() -> None:
    torch.manual_seed(0)  # the bounds are those of one training
    data = digits.load()
    model = training_loop.train(digits.tiny_network(digits.float_layer), data, training_loop.Recipe(epochs=5))
    before = training_loop.accuracy(model, data)
    result = quantize_(model, calibration=data.train_images, skip=("stem.0", "head.2"))
    assert [layer.name for layer in result.layers] == [f"body.{i}.layer.1" for i in range(4)]
    assert all(0 < layer.density <= 0.5 and 0.4 < layer.error < 0.8 for layer in result.layers)  # Gaussian: 0.60
    assert len(result.recalibrated) == 5
    assert "4 layers two-valued, 2 float, 5 batch norms recalibrated" in str(result)
    assert training_loop.accuracy(model, data) > before - 40
    sparse = digits.tiny_network(digits.float_layer)
    assert all(abs(layer.density - 0.1) < 0.01 for layer in quantize_(sparse, density=0.1).layers)


def test_recalibration_is_the_mean_over_the_data() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()).train()
    batches = [torch.randn(50, 3) + 2 for _ in range(3)]
    assert recalibrate_(model, batches) == ("0",)
    torch.testing.assert_close(model[0].running_mean, torch.cat(batches).mean(0))
    assert model.training and model[1].training and model[0].momentum == 0.1
    for wrong, message in [((model, []), "batches is empty"), ((nn.ReLU(), batches), "no batch norm")]:
        with pytest.raises(ValueError, match=message):
            recalibrate_(*wrong)


def test_eight_bits_without_training() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(128, 4)
    )
    batches = [torch.randn(16, 1, 8, 8) for _ in range(2)]
    recalibrate_(model, batches)
    expected = model.eval()(batches[0])
    with pytest.raises(ValueError, match="pass calibration="):
        quantize_(model, eight_bit=EightBit())
    result = quantize_(model, eight_bit=EightBit(), eight_bit_layers=("*",), calibration=iter(batches), skip=("*",))
    assert [note.name for note in result.eight_bit] == ["0", "3", "5"] and not result.layers and not result.kept
    assert "0 layers two-valued, 3 of 8 bits, 0 float, 1 batch norms recalibrated" in str(result)
    y = model(batches[0])
    assert not torch.equal(y, expected)
    torch.testing.assert_close(y, expected, rtol=0, atol=0.03 * float(expected.detach().abs().max()))


def test_calibration_takes_the_range_of_all_data() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2)).train()
    binarize_(model, BinaryConfig(eight_bit=EightBit("observed")))
    batches = [torch.randn(4, 1, 6, 6) * scale for scale in (1, 5)]
    assert calibrate_(model, batches) == ("0.quantize", "3.quantize")
    together = torch.cat(batches)
    assert (model[0].quantize.low, model[0].quantize.high) == (together.min(), together.max()) and model.training
    hidden = torch.relu(nn.functional.conv2d(together, model[0].weight_quantizer(model[0].weight), model[0].bias))
    torch.testing.assert_close(model[3].quantize.high, hidden.max())
    for wrong, message in [
        ((model, []), "batches is empty"),
        ((nn.ReLU(), batches), "no quantiser to calibrate"),
        ((model, torch.zeros(1, 1, 6, 6)), r"quantiser '0\.quantize' cannot be calibrated: MovingAverage takes its"),
        ((nn.Sequential(LSQ()), torch.zeros(1)), "not all 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            calibrate_(*wrong)
