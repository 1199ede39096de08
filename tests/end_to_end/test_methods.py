"""A trained network with a different method in each layer deploys exactly."""

from __future__ import annotations

import digits
import pytest
import torch
import training_loop
from agreement import deploy
from torch import nn

from sbnn_tvm.frontends.torch import (
    Adaptive,
    AdaptiveBinarize,
    Binarize,
    BinarizeAboveMean,
    BinaryConv2d,
    ExpectedConnections,
    Magnitudes,
    Maxout,
    ScaledBits,
    TwoValues,
)


def mixed_network() -> nn.Module:
    """A method a layer, so that one compilation tries all of them."""
    layers = iter(
        [
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=TwoValues(), binarize=Binarize()),
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=Magnitudes(), binarize=BinarizeAboveMean()),
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=ScaledBits(), binarize=Binarize(i, learned=True)),
            lambda i, o: BinaryConv2d(i, o, 3, padding=1, domain=Adaptive(), binarize=AdaptiveBinarize()),
        ]
    )
    return digits.tiny_network(lambda i, o: next(layers)(i, o), activation=Maxout)


@pytest.mark.slow
def test_a_trained_model_deploys_exactly() -> None:
    torch.manual_seed(0)  # the bounds are those of one training
    data = digits.load()
    model = mixed_network()
    sparsify = ExpectedConnections(model[1][0], 0.1, weight=5.0)
    training_loop.train(model, data, training_loop.Recipe(epochs=4, penalty=sparsify, mixup=1.0))
    assert training_loop.accuracy(model, data) > 30  # chance is 10
    agreement = deploy(model, data)
    assert agreement.passed
    assert [layer.binary for layer in agreement.module.report.linear].count(True) == 4
