"""Compile a model for a microcontroller, with a sample and what the model makes of it.

``python prepare.py --target cortex-m4 zoo:digits build/model`` writes ``model.a``, ``model.h`` and ``sample.h``, which
the program of this folder is built from. The sample is a test image for a model of the zoo, and random for an ONNX
file; a comment in ``sample.h`` has onnxruntime's result.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnxruntime

import sbnn_tvm
from sbnn_tvm.zoo import ZooModel


def prepare(model: Path | ZooModel, target: str, folder: Path, seed: int = 0) -> None:
    """Write the library, its header and the sample to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    module = sbnn_tvm.compile(model, target=target, name="model")
    module.export(folder / "model.a", runtime="c")
    session = onnxruntime.InferenceSession(model)
    (tensor,) = module.inputs
    if isinstance(model, ZooModel):
        sample = model.images[:1]
    else:
        sample = np.random.default_rng(seed).standard_normal(tensor.shape).astype(tensor.dtype)
    (expected,) = session.run(None, {tensor.name: sample})
    (folder / "sample.h").write_text(
        f"enum {{ SAMPLE_OUTPUT_BYTES = {expected.nbytes} }};\n"
        + array("sample_input", sample)
        + f"/* onnxruntime: {np.array2string(expected.ravel(), precision=4, threshold=20)} */\n".replace("\n ", "\n   ")
    )


def array(name: str, values: np.ndarray) -> str:
    """The bytes of an array as a constant in C."""
    text = ", ".join(map(str, np.ascontiguousarray(values).view(np.uint8).ravel()))
    return f"static const _Alignas(64) unsigned char {name}[] = {{{text}}};\n"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cortex-m4", help="cortex-m4, cortex-m7 or cortex-m55")
    parser.add_argument("model", help="an ONNX file with one input and one output, or zoo:NAME")
    parser.add_argument("folder", type=Path, help="where the files are written")
    arguments = parser.parse_args()
    name = arguments.model
    model = sbnn_tvm.zoo.load(name.removeprefix("zoo:")) if name.startswith("zoo:") else Path(name)
    prepare(model, arguments.target, arguments.folder)


if __name__ == "__main__":
    main()
