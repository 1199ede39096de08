"""Shared code of the method examples: scikit-learn's digits, a tiny network, a training loop, means with errors.

The protocol is the same for every method, so that their accuracies compare: 500 training images and the other 1297 as
test images; a float stem, four 3x3 convolutions (the *body*, which a method makes binary), and a float head.
"""

from __future__ import annotations

import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, clamp_latent_, set_progress

SEEDS = 5
TOLERANCE = 1e-4
"""The largest difference of two scores that counts as equal, relative to the largest score."""

Layer = Callable[[int, int], nn.Module]
"""Makes one layer of the body from its input and output channels, with everything before its batch norm."""


@dataclass(frozen=True)
class Digits:
    """Images float32 [N, 1, 8, 8] from -1 to 1, and labels int64 [N]."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


@functools.cache
def load(train: int = 500) -> Digits:
    """The 1797 digits: the first ``train`` of a fixed shuffle as training images, the others as test images."""
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    x = torch.tensor(images[order].reshape(-1, 1, 8, 8) / 8 - 1, dtype=torch.float32)
    y = torch.tensor(labels[order])
    return Digits(x[:train], y[:train], x[train:], y[train:])


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


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the common protocol.

    Attributes:
        epochs, batch, rate: For Adam, whose learning rate falls to 0 on a cosine.
        optimizer: Makes another optimiser; its learning rates follow the same cosine.
        clamp: Latent weights are kept within [-clamp, clamp].
        mixup: Alpha of the Beta distribution by which images and labels are mixed; 0 does not mix.
        penalty: Computes from the loss what to add to it.
        after_step: Called after every step.
        before_epoch: Called with the share of training that is done.
    """

    epochs: int = 50
    batch: int = 50
    rate: float = 5e-3
    optimizer: Callable[[nn.Module], torch.optim.Optimizer] | None = None
    clamp: float = 1.5
    mixup: float = 0.0
    penalty: Callable[[Tensor], Tensor] | None = None
    after_step: Callable[[], None] | None = None
    before_epoch: Callable[[float], None] | None = None


def train(model: nn.Module, data: Digits, recipe: Recipe = Recipe(), seed: int = 0) -> nn.Module:
    """An ordinary training loop; returns the model in eval mode."""
    torch.manual_seed(seed)
    if recipe.optimizer is None:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    else:
        optimizer = recipe.optimizer(model)
    steps = recipe.epochs * math.ceil(len(data.train_images) / recipe.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for epoch in range(recipe.epochs):
        set_progress(model, epoch / recipe.epochs)
        if recipe.before_epoch is not None:
            recipe.before_epoch(epoch / recipe.epochs)
        for chosen in torch.randperm(len(data.train_images)).split(recipe.batch):
            images, labels = data.train_images[chosen], data.train_labels[chosen]
            if recipe.mixup:
                share = float(np.random.default_rng(int(chosen[0])).beta(recipe.mixup, recipe.mixup))
                other = torch.randperm(len(images))
                scores = model(share * images + (1 - share) * images[other])
                loss = share * functional.cross_entropy(scores, labels)
                loss = loss + (1 - share) * functional.cross_entropy(scores, labels[other])
            else:
                loss = functional.cross_entropy(model(images), labels)
            if recipe.penalty is not None:
                loss = loss + recipe.penalty(loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            clamp_latent_(model, recipe.clamp)
            if recipe.after_step is not None:
                recipe.after_step()
    return model.eval()


def accuracy(model: nn.Module, data: Digits) -> float:
    """The share of correctly classified test images, in per cent."""
    with torch.no_grad():
        return 100 * float((model(data.test_images).argmax(1) == data.test_labels).float().mean())


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error; prints as ``91.7 +- 0.4``."""

    value: float
    error: float

    @staticmethod
    def of(values: Iterable[float]) -> Mean:
        """From one value per seed."""
        array = np.array(list(values))
        error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
        return Mean(float(array.mean()), error)

    def __str__(self) -> str:
        return f"{self.value:.1f} +- {self.error:.1f}"


def over_seeds(run: Callable[[int], float], seeds: int = SEEDS) -> Mean:
    """The mean of ``run`` over the seeds 0, 1, ...; ``run`` seeds its model itself."""
    return Mean.of(run(seed) for seed in range(seeds))


@dataclass(frozen=True)
class Agreement:
    """Whether PyTorch, onnxruntime and the compiled model agree about every test image.

    If a float is within rounding of a binariser's threshold, its bit depends on the order of a sum, and so does
    everything computed from the bit. So scores that differ are also compared with onnxruntime's scores for neighbours
    of the image.

    Attributes:
        module: The compiled model.
        images: Number of images.
        predictions: Number of images with the same class in all three, or at a tie.
        distance: The largest difference of two scores of an image, relative to the largest score; without ties.
        ties: Number of images whose differing scores are those of a neighbour in onnxruntime. No pixel of a neighbour
            differs by more than 2^-18 of its value.
    """

    module: sbnn_tvm.CompiledModule
    images: int
    predictions: int
    distance: float
    ties: int = 0

    @property
    def passed(self) -> bool:
        """Whether all classes agree, scores agree within 1e-4, and at most one image in a hundred is at a tie."""
        return self.predictions == self.images and self.distance <= TOLERANCE and 100 * self.ties <= self.images

    def __str__(self) -> str:
        ties = f", except {self.ties} with a float within rounding of a threshold" if self.ties else ""
        return (
            f"torch = onnxruntime = compiled: {self.predictions} of {self.images} predictions, "
            f"scores within {self.distance:.1e}{ties}"
        )


def deploy(model: nn.Module, data: Digits) -> Agreement:
    """Export and compile a trained model, and compare on the whole test set.

    Raises:
        SystemExit: If the results, or the integers of a layer, differ.
    """
    proto = sbnn_tvm.frontends.torch.to_onnx(model)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL  # it changes the rounding
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    module = sbnn_tvm.compile(model)
    images = data.test_images.numpy()
    module.verify(images[:32])  # layer by layer; raises

    def reference(image: np.ndarray) -> np.ndarray:
        return session.run(None, {"input": image[None]})[0][0]

    expected = np.stack([reference(image) for image in images])
    with torch.no_grad():
        others = [model(data.test_images).numpy(), np.concatenate([module.run(image[None]) for image in images])]
    scale = np.abs(expected).max()
    distance = np.max([np.abs(other - expected).max(axis=1) for other in others], axis=0) / scale
    same = np.all([other.argmax(1) == expected.argmax(1) for other in others], axis=0)
    tie = np.zeros(len(images), bool)
    for index in np.flatnonzero(~same | (distance > TOLERANCE)):
        module.verify(images[index : index + 1])  # raises if a bit differs for another reason than rounding
        near = np.stack([reference(neighbour) for neighbour in neighbours(images[index])])
        gaps = [np.abs(near - other[index]).max(axis=1).min() for other in others]
        tie[index] = max(gaps) <= TOLERANCE * scale
    largest = float(distance[~tie].max(initial=0.0))
    result = Agreement(module, len(images), int((same | tie).sum()), largest, int(tie.sum()))
    if not result.passed:
        raise SystemExit(f"FAILED {result}")
    return result


def neighbours(image: np.ndarray, count: int = 64) -> Iterator[np.ndarray]:
    """The image, and images, float32 of its shape, whose pixels differ from it by up to 2^-18 of their values."""
    yield image
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield (image * (1 + 2.0**-18 * rng.uniform(-1, 1, image.shape))).astype(np.float32)


def check(holds: bool, claim: str) -> None:
    """Print that a claim holds, or end the example.

    Raises:
        SystemExit: If it does not hold.
    """
    if not holds:
        raise SystemExit(f"FAILED {claim}")
    print(f"ok {claim}")


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
