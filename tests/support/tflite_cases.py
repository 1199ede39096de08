"""TFLite files by the converters of TensorFlow and Larq, with what their interpreters compute.

``tests/frontends/tflite/cases/make_cases.py`` makes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime

from sbnn_tvm.frontends.onnx.load_model import load_model
from sbnn_tvm.frontends.tflite.to_onnx import to_onnx

from .paths import ROOT

FOLDER = ROOT / "tests" / "frontends" / "tflite" / "cases"


@dataclass(frozen=True, eq=False)
class Case:
    """A file with one input and one output.

    Attributes:
        file: The bytes of the file.
        numbers: Random float32 numbers; the first ones are the input.
        y: The output, as float32.
    """

    file: bytes
    numbers: np.ndarray
    y: np.ndarray

    def x(self, shape: tuple[int, ...]) -> np.ndarray:
        """The input, whose shape the file says."""
        return self.numbers[: np.prod(shape)].reshape(shape)

    def computed(self) -> np.ndarray:
        """The output of the ONNX model that the reader makes of the file, in onnxruntime."""
        model = load_model(to_onnx(self.file))
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        declared = session.get_inputs()[0]
        (y,) = session.run(None, {declared.name: self.x(tuple(declared.shape))})
        return y


def load(name: str) -> dict[str, Case]:
    """The cases of one file of the folder, by name."""
    with np.load(Path(FOLDER) / f"{name}.npz") as stored:
        arrays = {key: stored[key] for key in stored.files}
    shapes = [tuple(int(size) for size in shape if size) for shape in arrays["shapes"]]
    files = np.split(arrays["files"], np.cumsum(arrays["file_sizes"])[:-1])
    results = np.split(arrays["results"], np.cumsum([np.prod(shape) for shape in shapes])[:-1])
    return {
        str(case): Case(file.tobytes(), arrays["numbers"], y.reshape(shape))
        for case, file, y, shape in zip(arrays["names"], files, results, shapes, strict=True)
    }
