"""Time every kernel of a model alone, with warm caches, and compare it with the machine's limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tvm

from sbnn_tvm.passes.families.family import Bound, Resource
from sbnn_tvm.passes.lowering.lower import LoweredLayer
from sbnn_tvm.passes.relax.graph import Graph, op_name

from ..execution.run_kernels import run_kernels
from ..execution.runnable_model import RunnableModel
from ..report.report import LayerReport
from ..runtime.inputs import random_inputs
from ..runtime.tvm_module import TvmModule
from .limits import adder_probe, float_probe, integer_probe, load_probe, measure, popcount_probe
from .timing import interleave

_PROBED = 192 * 1024  # bytes: fits the second-level cache, whose loads limit kernels that only move data


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel.

    Attributes:
        layer: The ONNX node; for a conversion between layers, the value.
        kernel: The kernel's name in the report; for a conversion, its symbol.
        seconds: Time of the fastest run, in seconds.
        macs: Multiply-accumulates; 0 without weights.
        bytes: Total size of its arguments in bytes.
        limit: Name of the probe (sbnn_tvm.profiling.limits) that it is compared with.
        share: Time of the probe's instructions alone for the same work, over the kernel's time.
    """

    layer: str
    kernel: str
    seconds: float
    macs: int
    bytes: int
    limit: str
    share: float


class _Recorder:
    """Runs the kernels in the order of the model and times each one."""

    def __init__(self, library: TvmModule, seconds: float) -> None:
        self.library = library
        self.seconds = seconds
        self.calls: list[tuple[str, float, int]] = []

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Time a kernel, and store its outputs for the next ones."""
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        kernel = self.library.kernel(name)
        timing = interleave({name: lambda: kernel(*tensors)}, self.seconds)[name]
        for array, tensor in zip(arrays, tensors, strict=True):
            if array.flags.writeable:
                np.copyto(array, tensor.numpy())
        self.calls.append((name, timing.minimum, sum(array.nbytes for array in arrays)))


def profile(module: RunnableModel, library: TvmModule, seconds: float = 0.06) -> list[KernelTime]:
    """Time every kernel of a model on the data that it reads for a random input.

    Args:
        module: A model that was compiled for this machine.
        library: The same model, loaded, on one thread.
        seconds: Time per kernel; its fastest call counts.
    """
    target = module.target
    registers = [popcount_probe, float_probe, integer_probe, adder_probe]
    probes = [*(probe(target) for probe in registers), load_probe(target, _PROBED, "L2")]
    limits = measure(probes, 1.0)
    recorder = _Recorder(library, seconds)
    inputs = random_inputs(module.imported.inputs, np.random.default_rng(0))
    list(run_kernels(module.lowered, recorder, (*inputs, *module.constants)))
    layers = _layers(module)
    variables = [var.name for var, value in Graph(module.lowered.mod["main"]).bindings if op_name(value) == "call_tir"]
    times = []
    for variable, (symbol, time, size) in zip(variables, recorder.calls, strict=True):
        lowered, report = layers.get(variable, (None, None))
        bound = None if lowered is None else lowered.choice.candidate.family.bound(lowered.layer)
        bound = bound or Bound(Resource.L2_LOADS, size)
        limit = limits[bound.resource.value]
        times.append(
            KernelTime(
                variable if report is None else report.name,
                symbol if report is None else report.kernel,
                time,
                0 if report is None else report.macs,
                size,
                limit.name,
                bound.work / limit.per_second / time,
            )
        )
    return times


def _layers(module: RunnableModel) -> dict[str, tuple[LoweredLayer, LayerReport]]:
    """Layers by the variable that calls their kernel; conversions between layouts have none."""
    found: dict[str, tuple[LoweredLayer, LayerReport]] = {}
    for entry, report in zip(module.lowered.entries, module.report.layers, strict=True):
        if isinstance(entry, LoweredLayer):
            found.setdefault(entry.call, (entry, report))  # of two layers in one kernel, the first has weights
    return found
