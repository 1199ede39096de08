"""Run one kernel: on this machine, or on an emulated ARM CPU whose memory is guarded."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import tvm

from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.passes.lowering.machine_code import MACHINE_CODE
from sbnn_tvm.schedules.kernel import Kernel

X86 = ["x86-64-v4", "x86-64-v3", "x86-64"]
ARM = ["arm", "armv7"]
# One for each way to generate code: vector popcount (native, where the machine has it), byte shuffle, neither; NEON.
TARGETS = ["native", *X86, *ARM]
FEWER = ["native", "x86-64-v3", "arm"]

_GUARD = 64  # bytes after every output that must stay as they are


def target_for(name: str) -> CpuTarget:
    """A target by name; skips the test if it is x86 and this machine cannot run it."""
    target = resolve(name)
    if name not in ARM and not target.native:
        pytest.skip(f"this machine has no {name}")
    return target


def run(kernel: Kernel, target: CpuTarget, *arrays: np.ndarray) -> list[np.ndarray]:
    """Compile a kernel and call it with its data and tensor operands; the outputs are garbage before."""
    return compiled(kernel, target)(*arrays)


def compiled(kernel: Kernel, target: CpuTarget) -> Callable[..., list[np.ndarray]]:
    """A kernel as a function of its data and tensor operands."""
    module = tvm.IRModule({"kernel": kernel.func.with_attr("global_symbol", "kernel")})
    if not target.native:
        emulator = Emulator(module, target, num_tasks=3)

        def emulate(*arrays: np.ndarray) -> list[np.ndarray]:
            outputs = [np.full(shape, 77, dtype) for shape, dtype in kernel.outputs]
            emulator.run("kernel", [*map(np.ascontiguousarray, (*arrays, *kernel.constants)), *outputs])
            return outputs

        return emulate
    library = tvm.compile(module, target.target, tir_pipeline=MACHINE_CODE)

    def call(*arrays: np.ndarray) -> list[np.ndarray]:
        inputs = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in (*arrays, *kernel.constants)]
        rooms = [_room(shape, dtype) for shape, dtype in kernel.outputs]
        outputs = [room[: -_GUARD // room.itemsize] for room in rooms]
        outputs = [output.reshape(shape) for output, (shape, _) in zip(outputs, kernel.outputs, strict=True)]
        library["kernel"](*inputs, *map(tvm.runtime.from_dlpack, outputs))
        for room in rooms:
            assert (room[-_GUARD // room.itemsize :] == 77).all(), f"{kernel.name} writes beyond its output"
        return outputs

    return call


def _room(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """A flat array for an output and its guard, aligned as TVM aligns its tensors."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize + _GUARD
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    room = memory[start : start + size].view(dtype)
    room[:] = 77
    return room
