"""The example of the README: compile a model, print its report, verify, export and run it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import sbnn_tvm
from sbnn_tvm.frontends.torch import vgg_small


def main() -> None:
    """Compile an untrained VGG-Small for two targets."""
    model = vgg_small(classes=10, image_size=32)  # or your own model, trained like any PyTorch model
    image = np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32)

    module = sbnn_tvm.compile(model, target="native")
    print(module.report)  # for each layer: its kernel, and the reason
    print(module.verify(image))  # against onnxruntime
    print("classified as", np.argmax(module.run(image)))  # numpy in, numpy out

    folder = Path("out")
    folder.mkdir(exist_ok=True)
    library = module.export(folder / "model.so")
    again = sbnn_tvm.load(library)  # imports the runtime only: no torch, no onnx, no compiler
    assert np.array_equal(again.run(image), module.run(image))

    sbnn_tvm.compile(model, target="arm").export(folder / "model.arm.so")  # for example for a Raspberry Pi
    sbnn_tvm.export_onnx(model, folder / "model.onnx")  # the same file runs in stock onnxruntime


if __name__ == "__main__":
    main()
