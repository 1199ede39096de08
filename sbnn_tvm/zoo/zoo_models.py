"""The models that come with the package; the folder ``models`` has an ONNX file and a card of each, and test images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError
from .card import Card

if TYPE_CHECKING:
    import numpy as np

FOLDER = Path(__file__).with_name("models")


@dataclass(frozen=True, eq=False)
class ZooModel(os.PathLike[str]):
    """A trained model; it is the path of its ONNX file.

    Attributes:
        card: What it is, and how it was made.
        path: The ONNX file.
        images: float32 [10, C, H, W], the first test image of each class; the network takes one at a time.
        labels: int64 [10], the classes of the images.
    """

    card: Card
    path: Path
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)

    def __fspath__(self) -> str:
        return str(self.path)


def names() -> list[str]:
    """The names of the models, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> ZooModel:
    """A model of the zoo.

    Args:
        name: One of ``names()``.

    Raises:
        ModelError: If there is no such model.

    Example::

        digits = sbnn_tvm.zoo.load("mnist-sbnn-5")
        module = sbnn_tvm.compile(digits)
        print(module.run(digits.images[:1]).argmax(), "should be", digits.labels[0])
    """
    import numpy as np

    if name not in names():
        raise ModelError(f"the zoo has no model {name!r}; it has {', '.join(names())}")
    card = Card.read(FOLDER / f"{name}.json")
    with np.load(FOLDER / f"{card.data_set}.npz", allow_pickle=False) as samples:
        return ZooModel(card, FOLDER / f"{name}.onnx", samples["images"], samples["labels"])
