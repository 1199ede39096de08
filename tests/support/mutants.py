"""Compiled models in which one kernel computes something else, to test what tests them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tvm.relax import TensorType

from sbnn_tvm.execution.run_kernels import KernelRunner, outputs_of, run_kernels
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.passes.relax.graph import Graph, op_name

Change = Callable[[np.ndarray], None]


class Mutant:
    """A compiled model, with the output of one kernel changed in place whenever it runs.

    Args:
        module: The model.
        value: The value that the kernel computes, by its name in the ONNX model.
        change: Changes the array that the kernel wrote.
    """

    def __init__(self, module: CompiledModule, value: str, change: Change) -> None:
        self.imported, self.lowered, self.target = module.imported, module.lowered, module.target
        self.report, self.constants = module.report, module.constants
        self.kernel_runner: KernelRunner = _ChangedKernel(module.kernel_runner, kernel_of(module, value), change)
        self.library: Any = self

    def run(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """What a library of these kernels would compute."""
        return outputs_of(run_kernels(self.lowered, self.kernel_runner, (*arrays, *self.constants)))

    def emulate(self, *arrays: np.ndarray) -> tuple[np.ndarray, ...]:
        """The same."""
        return self.run(*arrays)


class _ChangedKernel:
    def __init__(self, runner: KernelRunner, name: str, change: Change) -> None:
        self._runner, self._name, self._change = runner, name, change

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        self._runner.run(name, arrays)
        if name == self._name:
            self._change(arrays[-1])


def kernel_of(module: CompiledModule, value: str) -> str:
    """The name of the kernel that computes a value of the ONNX model first."""
    trace, physical = module.imported.trace, module.lowered.physical
    for var, call in Graph(module.lowered.mod["main"]).bindings:
        known = op_name(call) == "call_tir" and isinstance(var.ty, TensorType) and var.name in physical
        if known and trace.get(physical[var.name].value) == value:
            return str(call.args[0].name_hint)
    raise AssertionError(f"no kernel computes '{value}'")
