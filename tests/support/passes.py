"""Relax modules before and after a pass: what is in them, and that they compute the same.

The oracle for numbers is TVM's default lowering of the module; it must equal onnxruntime.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
from tvm.ir import IRModule

from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.passes.relax.graph import Graph, op_name
from tests.support.small_models import grid_inputs, run_oracle, run_reference


def imported(model: onnx.ModelProto) -> IRModule:
    """The module of a model before any pass."""
    return import_onnx(model).mod


def operators(mod: IRModule) -> Counter[str]:
    """How often each operator is called in main."""
    return Counter(op_name(value) for _, value in Graph(mod["main"]).bindings)


def only(mod: IRModule, operator: str) -> Any:
    """The one call of an operator in main."""
    (call,) = [value for _, value in Graph(mod["main"]).bindings if op_name(value) == operator]
    return call


def agrees(mod: IRModule, model: onnx.ModelProto, exact: bool = False) -> None:
    """The module computes what onnxruntime does, on inputs with ties."""
    feeds = grid_inputs(model)
    outputs = run_oracle(mod, list(feeds.values()))
    for (name, want), got in zip(run_reference(model, feeds).items(), outputs, strict=True):
        if exact:
            np.testing.assert_array_equal(got, want, err_msg=name)
        else:
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(initial=1e-30), err_msg=name)
