"""scikit-learn's digits, and a tiny network for them: what most of the method examples train.

The protocol is the same for every method, so that their accuracies compare: 500 training images and the other 1297 as
test images; a float stem, four 3x3 convolutions (the *body*, which a method makes binary), and a float head. Run this
module to train the float network and the plain binary one.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch
from agreement import deploy
from claims import SEEDS, Mean
from sklearn.datasets import load_digits
from torch import nn
from training_loop import Data, accuracy, train

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d

Layer = Callable[[int, int], nn.Module]
"""Makes one layer of the body from its input and output channels, with everything before its batch norm."""


@functools.cache
def load(train: int = 500) -> Data:
    """The 1797 digits, [1, 8, 8] from -1 to 1: of a fixed shuffle the first ``train`` images to train on."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 8 - 1, dtype=torch.float32)
    y = torch.tensor(labels[order])
    return Data(x[:train], y[:train], x[train:], y[train:])


def binary_layer(inputs: int, outputs: int) -> nn.Module:
    """The plain layer: signs times signs, scaled."""
    return BinaryConv2d(inputs, outputs, 3, padding=1, binarize=Binarize())


def float_layer(inputs: int, outputs: int) -> nn.Module:
    """The float layer, for a reference accuracy and for methods that convert a trained float network."""
    return nn.Sequential(nn.Hardtanh(), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))


def tiny_network(
    layer: Layer = binary_layer,
    *,
    width: int = 16,
    activation: Callable[[int], nn.Module] = lambda channels: nn.Identity(),
) -> nn.Sequential:
    """1 -> width / 2 channels in float, four layers of ``width`` channels, a head on the means of the image's quarters.

    Args:
        layer: Makes the layers of the body, ``body.0.layer`` to ``body.3.layer``; a batch norm follows each.
        width: Channels of the body.
        activation: Makes the module after a batch norm, from the number of channels.
    """
    body = nn.Sequential()
    channels = width // 2
    for _ in range(4):
        parts: OrderedDict[str, nn.Module] = OrderedDict(layer=layer(channels, width), norm=nn.BatchNorm2d(width))
        parts["activation"] = activation(width)
        body.append(nn.Sequential(parts))
        channels = width
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(1, width // 2, 3, padding=1, bias=False), nn.BatchNorm2d(width // 2)),
            body=body,
            head=nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(4 * width, 10)),
        )
    )
    model.example_input_array = torch.zeros(1, 1, 8, 8)  # the shape to export and compile for
    return model


def main() -> None:
    """Train and deploy the float network and the plain binary one."""
    torch.set_num_threads(1)  # in layers this small, threads cost more time than they save
    data = load()
    for name, layer in (("float32", float_layer), ("{-a, +a}", binary_layer)):
        models = []
        for seed in range(SEEDS):
            torch.manual_seed(seed)
            models.append(train(tiny_network(layer), data, seed=seed))
        print(f"{name}: {Mean.of(accuracy(model, data) for model in models)} %; {deploy(models[0], data)}")


if __name__ == "__main__":
    main()
