"""The card of a model: what it is, how good it is, and how it was made."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Card:
    """What is known about a model of the zoo.

    Attributes:
        name: Its name in the zoo.
        summary: What it does, in one line.
        data: The data set, and which part of it trained the network.
        data_set: The name of the data set in examples/datasets.py.
        input: Shape of the input, and what its numbers mean.
        architecture: The layers.
        accuracy: The share of the test images that the file classifies correctly, in onnxruntime.
        tests: The number of test images.
        file_bytes, sha256: Size and checksum of the ONNX file.
        licence: Of the weights, and of the data set.
        command: What trained it, in a checkout.
    """

    name: str
    summary: str
    data: str
    data_set: str
    input: str
    architecture: str
    accuracy: float
    tests: int
    file_bytes: int
    sha256: str
    licence: str
    command: str

    @staticmethod
    def read(path: Path) -> Card:
        """The card in a JSON file."""
        return Card(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        """Writes the card as a JSON file."""
        path.write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")
