"""Classify images with a compiled model, as a deployed program does. Needs only numpy.

python examples/classify.py MODEL.so IMAGES.npy PREDICTIONS.npy
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np

import sbnn_tvm

COMPILER = ("torch", "onnx", "onnxruntime", "tvm", "sbnn_tvm.compiler")
"""Modules that a process which only runs models must not import."""


def main(library: str, images_path: str, predictions_path: str) -> int:
    """Write the class of every image, and print the loading time and wrong imports as one line of JSON."""
    begin = time.perf_counter()
    model = sbnn_tvm.load(library)
    seconds = time.perf_counter() - begin
    images = np.load(images_path)
    scores = np.concatenate([model.run(image[None]) for image in images])
    np.save(predictions_path, scores.argmax(axis=1))
    imported = [name for name in COMPILER if name in sys.modules]
    print(json.dumps({"load_seconds": seconds, "imported": imported}))
    return 1 if imported else 0


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
