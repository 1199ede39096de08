"""Call the kernels of a C library one by one on this machine.

The machine code is that of the library. What the library's runtime provides to kernels is written in Python here:
memory for temporary buffers, and the tasks of parallel loops, one after the other.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from sbnn_tvm.passes.lowering.raw_kernels import ALIGNMENT, HOOKS, RawKernels

from ..deploy.linking import write_kernels
from ..deploy.targets import CpuTarget
from ..errors import EmulationError, LibraryError
from ..temporary_folder import temporary_folder

_Task = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class _TaskGroup(ctypes.Structure):
    """TVMParallelGroupEnv (tvm/runtime/c_backend_api.h)."""

    _fields_ = (("sync_handle", ctypes.c_void_p), ("num_task", ctypes.c_int32))


class NativeKernels:
    """Calls raw kernels on this machine."""

    def __init__(self, kernels: RawKernels, target: CpuTarget, num_tasks: int = 1) -> None:
        """Link and load the kernels.

        Args:
            kernels: The kernels.
            target: The target that they were compiled for, which must be this machine's CPU.
            num_tasks: Number of tasks of a parallel loop.
        """
        self._kernels = kernels
        with temporary_folder(LibraryError) as folder:
            write_kernels(kernels.code, folder / "kernels.so", target)
            self._library = ctypes.CDLL(str(folder / "kernels.so"))
        self._workspaces: list[np.ndarray] = []
        self._hooks = _hooks(self._workspaces, num_tasks)
        for name, function in zip(HOOKS, self._hooks, strict=True):
            if hasattr(self._library, name):  # only those that some kernel uses
                ctypes.c_void_p.in_dll(self._library, name).value = ctypes.cast(function, ctypes.c_void_p).value

    def run(self, name: str, arrays: Sequence[np.ndarray]) -> None:
        """Call a kernel by its name; the outputs are the last arrays, written in place.

        Raises:
            EmulationError: If the arrays do not fit the kernel, or it fails.
        """
        signature = self._kernels.signatures[name]
        if wrong := signature.mismatch(arrays):
            raise EmulationError(f"kernel {name!r} cannot be called: {wrong}")
        aligned = [aligned_copy(array) for array in arrays]
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in aligned]
        extents = [ctypes.c_int64(arrays[index].shape[axis]) for index, axis in signature.extents]
        self._workspaces.clear()
        if self._library[self._kernels.prefix + name](*pointers, *extents) != 0:
            raise EmulationError(f"kernel {name!r} failed")
        for array, copy in zip(arrays, aligned, strict=True):
            if array.flags.writeable:
                np.copyto(array, copy)


def aligned_copy(array: np.ndarray) -> np.ndarray:
    """A copy with the alignment that kernels require."""
    memory = _aligned_bytes(array.nbytes)
    copy = memory.view(array.dtype).reshape(array.shape)
    np.copyto(copy, array)
    return copy


def _aligned_bytes(size: int) -> np.ndarray:
    memory = np.empty(size + ALIGNMENT, np.uint8)
    begin = -memory.ctypes.data % ALIGNMENT
    return memory[begin : begin + size]


def _hooks(workspaces: list[np.ndarray], num_tasks: int) -> tuple[Any, ...]:
    """The functions that kernels call, in the order of HOOKS."""

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)
    def launch(body: int, data: int, tasks: int) -> int:
        group = _TaskGroup(None, tasks or num_tasks)
        results = [_Task(body)(task, ctypes.addressof(group), data) for task in range(group.num_task)]
        return next((result for result in results if result), 0)

    @ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_int, ctypes.c_int)
    def allocate(kind: int, device: int, size: int, code: int, bits: int) -> int:
        workspaces.append(_aligned_bytes(size))
        return int(workspaces[-1].ctypes.data)

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_void_p)
    def free(kind: int, device: int, address: int) -> int:
        workspaces.pop()
        return 0

    return launch, allocate, free
