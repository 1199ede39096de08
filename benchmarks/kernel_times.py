"""Where the time of a network goes: every kernel that it calls, on its own, with warm caches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm
from rich.table import Table

import sbnn_tvm
from sbnn_tvm.bench import interleave
from sbnn_tvm.inputs import random_inputs
from sbnn_tvm.passes.graph import Graph, op_name
from sbnn_tvm.stepping import run_kernels


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel.

    Attributes:
        variable: What it computes; of a layer with several outputs, the layer and ``_results``.
        kernel: Symbol of the kernel.
        seconds: Of the fastest run.
        macs: Multiply-accumulates, 0 for what has no weights.
        bytes: Of all its arguments.
    """

    variable: str
    kernel: str
    seconds: float
    macs: int
    bytes: int


class _Recorder:
    """Runs kernels as the model does, and then each many times."""

    def __init__(self, library: sbnn_tvm.LoadedModule, seconds: float) -> None:
        self.library = library
        self.seconds = seconds
        self.calls: list[tuple[str, float, int]] = []

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        kernel = self.library.kernel(name)
        timing = interleave({name: lambda: kernel(*tensors)}, self.seconds)[name]
        for array, tensor in zip(arrays, tensors, strict=True):
            if array.flags.writeable:
                np.copyto(array, tensor.numpy())
        self.calls.append((name, timing.minimum, sum(array.nbytes for array in arrays)))


def kernel_times(module: sbnn_tvm.CompiledModule, seconds: float = 0.06) -> list[KernelTime]:
    """Time every kernel of a model on the data that it gets for a random input.

    Args:
        module: Compiled for this machine.
        seconds: To time a kernel; its fastest call counts.
    """
    recorder = _Recorder(module.library, seconds)
    inputs = random_inputs(module.inputs, np.random.default_rng(0))
    list(run_kernels(module.lowered, recorder, inputs))
    macs = {name: report.macs for name, report in _reports(module)}
    variables = [var.name for var, value in Graph(module.lowered.mod["main"]).bindings if op_name(value) == "call_tir"]
    return [
        KernelTime(variable, kernel, seconds, macs.get(variable.removesuffix("_results"), 0), size)
        for variable, (kernel, seconds, size) in zip(variables, recorder.calls, strict=True)
    ]


def _reports(module: sbnn_tvm.CompiledModule) -> list[tuple[str, sbnn_tvm.report.LayerReport]]:
    pairs = zip(module.lowered.layers, module.report.layers, strict=True)
    return [(name, report) for layer, report in pairs for name in (layer.name, *layer.outputs[:1])]


def table(title: str, times: list[KernelTime]) -> Table:
    """One row a call, and the sum."""
    total = sum(time.seconds for time in times)
    out = Table(title=f"{title}: every kernel alone, {total * 1e3:.3f} ms together")
    for heading in ("computes", "kernel", "us", "%", "MAC/ns", "bytes/ns"):
        out.add_column(heading, justify="left" if heading in ("computes", "kernel") else "right")
    for time in times:
        speed = f"{time.macs / time.seconds * 1e-9:.0f}" if time.macs else ""
        traffic = f"{time.bytes / time.seconds * 1e-9:.1f}"
        share = f"{time.seconds / total:.1%}"
        out.add_row(time.variable, time.kernel, f"{time.seconds * 1e6:.1f}", share, speed, traffic)
    return out
