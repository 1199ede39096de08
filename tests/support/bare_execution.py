"""Run kernels as C functions on the CPU of a target: on this machine, or in an emulator, but not in this process."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tvm

from sbnn_tvm.deploy.targets import CpuTarget
from sbnn_tvm.execution.kernel_program import KernelProgram
from sbnn_tvm.execution.programs import why_not
from sbnn_tvm.passes.lowering.raw_kernels import raw_kernels
from sbnn_tvm.schedules.kernel import Kernel


def run_all(calls: Sequence[tuple[Kernel, Sequence[np.ndarray]]], target: CpuTarget) -> list[list[np.ndarray]]:
    """Compile kernels into one program, and call each with its data and tensor operands, on outputs that hold garbage.

    Skips the test where the emulator or the compiler is missing.
    """
    if reason := why_not(target):
        pytest.skip(reason)
    functions = {
        f"kernel{i}": kernel.func.with_attr("global_symbol", f"kernel{i}") for i, (kernel, _) in enumerate(calls)
    }
    program = KernelProgram(raw_kernels(tvm.IRModule(functions), target.target, "bare_"), target)
    results = []
    for i, (kernel, arrays) in enumerate(calls):
        results.append([np.full(shape, 77, dtype) for shape, dtype in kernel.outputs])
        program.run(f"kernel{i}", [*map(np.ascontiguousarray, (*arrays, *kernel.constants)), *results[-1]])
    return results
