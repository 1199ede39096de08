"""Do PyTorch, onnxruntime and the compiled model agree about every test image?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnxruntime
import torch
from torch import nn
from training_loop import Data

import sbnn_tvm

TOLERANCE = 1e-4
"""The largest difference of two scores that counts as equal, relative to the largest score."""


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


def deploy(model: nn.Module, data: Data) -> Agreement:
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
