"""Make an existing float model binary: replace its layers in place, fine-tune, and print how each layer was compiled.

The model is an ordinary PyTorch CNN, trained in float first. Its first and last layer stay float, as in nearly all
published binary networks. The others lose some accuracy when they are binarised, and regain most of it in a few epochs.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import sbnn_tvm
from sbnn_tvm.frontends.torch import FIRST, LAST, BinaryConfig, ScaledSigns, binarize_, clamp_latent_


def float_model(width: int = 32) -> nn.Module:
    """A small ordinary CNN."""

    def conv(inputs: int, outputs: int) -> list[nn.Module]:
        return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.Hardtanh()]

    return nn.Sequential(
        *conv(1, width),
        *conv(width, 2 * width),
        nn.MaxPool2d(2),
        *conv(2 * width, 2 * width),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(8 * width, 10),
    )


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training images float32 [1347, 1, 8, 8] and labels, test images [450, 1, 8, 8] and labels."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 8 - 1, dtype=torch.float32)
    y = torch.tensor(labels[order])
    return x[450:], y[450:], x[:450], y[:450]


def fit(model: nn.Module, images: Tensor, labels: Tensor, epochs: int, rate: float) -> None:
    """An ordinary training loop; clamp_latent_ does nothing to a model without binary layers."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)  # made after binarize_, which may add parameters
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(images)).split(64):
            loss = functional.cross_entropy(model(images[chosen]), labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clamp_latent_(model)
    model.eval()


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of correctly classified images."""
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


def main(float_epochs: int = 4, binary_epochs: int = 6) -> float:
    """Train in float, convert, fine-tune, compile; returns the accuracy of the binary model."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    train_images, train_labels, test_images, test_labels = digits()
    model = float_model()
    fit(model, train_images, train_labels, float_epochs, 2e-3)
    print(f"float:                       {accuracy(model, test_images, test_labels):.1%}")

    config = BinaryConfig(weights=ScaledSigns(), activation_estimator="polynomial", learn_threshold=True)
    print(binarize_(model, config, skip=(FIRST, LAST)))
    print(f"binarised, not fine-tuned:   {accuracy(model, test_images, test_labels):.1%}")
    fit(model, train_images, train_labels, binary_epochs, 2e-3)
    result = accuracy(model, test_images, test_labels)
    print(f"binarised, {binary_epochs} epochs later:   {result:.1%}")

    module = sbnn_tvm.compile(model, input_shape=(1, 1, 8, 8))
    print(module.report)
    print(module.verify(test_images.numpy()))
    return result


if __name__ == "__main__":
    main()
