"""Conversion without training, and batch norms recalibrated."""

from __future__ import annotations

import digits
import pytest
import torch
import training_loop
from torch import nn

from sbnn_tvm.frontends.torch import (
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
