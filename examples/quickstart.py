"""Start here: compile a trained network, classify digits, verify, print the report, export and run the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import sbnn_tvm


def main() -> None:
    """Compile a network of the zoo for two targets."""
    digits = sbnn_tvm.zoo.load("mnist-sbnn-5")  # or your own model: a torch module, or the path of an ONNX file
    print(f"{digits.card.name}: {digits.card.summary}, {digits.card.accuracy:.1%} of the test images are right")

    module = sbnn_tvm.compile(digits, target="native")
    print(module.report)  # for each layer: its kernel, and the reason
    print(module.verify(digits.images))  # against onnxruntime
    scores = np.concatenate([module.run(image[None]) for image in digits.images])  # numpy in, numpy out
    print("ten digits, classified as", *scores.argmax(axis=1))

    folder = Path("out")
    folder.mkdir(exist_ok=True)
    library = module.export(folder / "model.so")
    again = sbnn_tvm.load(library)  # imports the runtime only: no torch, no onnx, no compiler
    assert np.array_equal(again.run(digits.images[:1]), scores[:1])

    sbnn_tvm.compile(digits, target="arm").export(folder / "model.arm.so")  # for example for a Raspberry Pi


if __name__ == "__main__":
    main()
