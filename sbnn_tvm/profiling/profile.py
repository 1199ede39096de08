"""Where the time of a model goes: every kernel that it calls, on its own, with warm caches, and the machine's limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import tvm

from sbnn_tvm.passes.families.candidates import Family
from sbnn_tvm.passes.lowering.lower import LoweredLayer, symbol_of
from sbnn_tvm.passes.relax.graph import Graph, op_name

from ..execution.kernel_by_kernel import run_kernels
from ..report.record import LayerReport
from ..runtime.inputs import random_inputs
from ..runtime.loading import LoadedModule
from ..tuning_database.tasks import density
from .limits import Limit, adder_probe, float_probe, load_probe, measure, popcount_probe
from .timing import interleave

if TYPE_CHECKING:
    from ..module import CompiledModule

_PROBED = 192 * 1024  # bytes: what a kernel that only moves data does at most, with its data in the second-level cache


@dataclass(frozen=True)
class KernelTime:
    """One call of a kernel.

    Attributes:
        layer: The ONNX node; for a conversion between layers, the value.
        kernel: The kernel, as the report shows it; its symbol for a conversion.
        seconds: Of the fastest run.
        macs: Multiply-accumulates, 0 for what has no weights.
        bytes: Of all its arguments.
        limit: What it is compared with: the name of a probe of sbnn_tvm.profiling.limits.
        share: The time that the probe's instructions alone would take, over its own.
    """

    layer: str
    kernel: str
    seconds: float
    macs: int
    bytes: int
    limit: str
    share: float


class _Recorder:
    """Runs kernels as the model does, and then each many times."""

    def __init__(self, library: LoadedModule, seconds: float) -> None:
        self.library = library
        self.seconds = seconds
        self.calls: list[tuple[str, float, int]] = []

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Called for each kernel in order."""
        tensors = [tvm.runtime.tensor(array) for array in arrays]
        kernel = self.library.kernel(name)
        timing = interleave({name: lambda: kernel(*tensors)}, self.seconds)[name]
        for array, tensor in zip(arrays, tensors, strict=True):
            if array.flags.writeable:
                np.copyto(array, tensor.numpy())
        self.calls.append((name, timing.minimum, sum(array.nbytes for array in arrays)))


def profile(module: CompiledModule, library: LoadedModule, seconds: float = 0.06) -> list[KernelTime]:
    """Time every kernel of a model on the data that it gets for a random input.

    Args:
        module: Compiled for this machine.
        library: The same, loaded, on one thread.
        seconds: To time a kernel; its fastest call counts.
    """
    target = module.target
    probes = [popcount_probe(target), float_probe(target), adder_probe(target), load_probe(target, _PROBED, "L2")]
    limits = measure(probes, 1.0)
    recorder = _Recorder(library, seconds)
    inputs = random_inputs(module.inputs, np.random.default_rng(0))
    list(run_kernels(module.lowered, recorder, (*inputs, *module.constants)))
    entries = _entries(module)
    variables = [var.name for var, value in Graph(module.lowered.mod["main"]).bindings if op_name(value) == "call_tir"]
    times = []
    for variable, (symbol, time, size) in zip(variables, recorder.calls, strict=True):
        physical = module.lowered.physical.get(variable)
        value = variable.removesuffix("_results") if physical is None else physical.value
        entry, report = entries.get((value, symbol.split("_", 2)[-1]), (None, None))
        limit, work = _limit(entry, report, size, limits)
        times.append(
            KernelTime(
                variable if report is None else report.name,
                symbol if report is None else report.kernel,
                time,
                0 if report is None else report.macs,
                size,
                limit.name,
                work / limit.per_second / time,
            )
        )
    return times


def _entries(module: CompiledModule) -> dict[tuple[str, str], tuple[LoweredLayer, LayerReport]]:
    """Layers by what they compute, and the kernel: conversions of a layer's result have others."""
    found: dict[tuple[str, str], tuple[LoweredLayer, LayerReport]] = {}
    for entry, report in zip(module.lowered.layers, module.report.layers, strict=True):
        if entry.choice is not None:
            family = symbol_of(entry.choice.kernel)
            # Of two layers in one kernel, the first has the weights.
            found = {(name, family): (entry, report) for name in (entry.name, *entry.outputs)} | found
    return found


def _limit(
    entry: LoweredLayer | None, report: LayerReport | None, size: int, limits: dict[str, Limit]
) -> tuple[Limit, float]:
    """What bounds a kernel, and how much of that it does."""
    popcount, float32, adder, loads = limits.values()
    if entry is None or report is None or entry.choice is None or entry.layer is None or not report.macs:
        return loads, size
    match entry.choice.candidate.family:
        case Family.POPCOUNT:
            return popcount, report.macs * report.activations
        case Family.COUNTERS:
            return adder, report.macs * (density(entry.layer) or 1.0)
        case Family.FLOAT:
            return float32, report.macs
    return loads, size
