"""Parts of small models in ONNX's text format whose activations are binarised, and checks of what they compile to."""

from __future__ import annotations

import numpy as np
import onnx

import sbnn_tvm
from sbnn_tvm.module import CompiledModule
from tests.support.small_models import grid_inputs, run_reference

IMAGE = {"x": (2, 8, 6, 6)}
BINARIZE = {"t": 0.0, "hi": 1.0, "lo": -1.0}
"""The constants of BITS and of ``binarized``: threshold and two values."""
BITS = "c = Greater(x, t)\nb = Where(c, hi, lo)\n"
"""``b`` is ``x`` binarised."""


def binarized(result: str, value: str, threshold: str = "t") -> str:
    """The lines that binarise a value: ``hi`` above the threshold, else ``lo``."""
    return f"{result}_c = Greater({value}, {threshold})\n{result} = Where({result}_c, hi, lo)\n"


def check_exactly(model: onnx.ModelProto, target: str = "native") -> CompiledModule:
    """Compile, compare with onnxruntime exactly, let the module verify itself; every layer has a kernel of ours."""
    feeds = grid_inputs(model)
    module = sbnn_tvm.compile(model, target)
    outputs = module.run(feeds) if module.target.native else module.emulate(feeds)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    for (name, expected), output in zip(run_reference(model, feeds).items(), outputs, strict=True):
        np.testing.assert_array_equal(output, expected, err_msg=name)
    module.verify(feeds)
    assert all(layer.scheduled for layer in module.report.layers)
    return module


def kinds(module: CompiledModule) -> list[str]:
    """The kinds of all layers, in order."""
    return [layer.kind for layer in module.report.layers]
