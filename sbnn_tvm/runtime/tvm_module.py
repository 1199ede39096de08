"""A library that needs TVM's runtime: a program of TVM's virtual machine."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import LibraryError, SbnnError
from ..extras import needed_by
from . import threads
from .library_file import Library
from .loaded_module import LoadedModule, aligned_array
from .metadata import Metadata
from .private_copy import load_private_copy
from .tvm_runtime import tvm_runtime

_CPU = 1  # kDLCPU
_POOLED = 2  # TVM's pooled allocator
_PARALLEL = b"\0__TVMBackendParallelLaunch\0"
"""What the names of a library contain if some loop of it is parallel."""


def load_tvm_module(library: Library, num_threads: int) -> TvmModule:
    """Load a library with ``metadata.runtime == "tvm"``, which was checked.

    Raises:
        LibraryError: If it cannot be loaded, or was made by another version of TVM.
        MissingPackageError: If TVM is not installed.
        OSError: If too many files are open, for example.
    """
    with needed_by(f"{library.path}, which was exported for TVM's runtime,"):
        tvm_ffi = tvm_runtime()
    _check_version(library)
    try:
        module = load_private_copy(library, partial(_load_file, tvm_ffi))
        parallel = _PARALLEL in library.data
        return TvmModule(library.path, library.digest, library.metadata, module, parallel, num_threads)
    except (SbnnError, OSError, MemoryError):
        raise
    except Exception as error:  # TVM raises errors of many classes
        raise LibraryError(f"{library.path} cannot be loaded: {_first_line(error)}; compile the model again") from None


class TvmModule(LoadedModule):
    """A compiled model that runs on TVM's runtime."""

    def __init__(
        self, path: Path, digest: bytes, metadata: Metadata, library: Any, parallel: bool, num_threads: int
    ) -> None:
        super().__init__(path, digest, metadata, num_threads)
        self._library = library
        self._parallel = parallel
        first = self._new_machine()
        prepare = first["prepare"] if metadata.prepares else tuple
        self._constants = tuple(threads.call(num_threads, prepare))
        self._idle = [self._new_instance(first)]

    def _call(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        if not self._parallel:
            return threads.call(None, self._run, arrays)
        num_threads = self._num_threads if self.metadata.parallel else 1
        return threads.call(num_threads, self._run, arrays)

    def _run(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        try:
            instance = self._idle.pop()
        except IndexError:
            instance = self._new_instance(self._new_machine())
        for staging, array in zip(instance.staging, arrays, strict=True):
            np.copyto(staging, array)
        result = instance.main()
        # Copy: a view would keep the virtual machine's memory alive, and may be one of the staging buffers.
        if len(self.metadata.outputs) == 1:
            copy: np.ndarray | tuple[np.ndarray, ...] = np.from_dlpack(_only(result)).copy()
        else:
            copy = tuple(np.from_dlpack(tensor).copy() for tensor in result)
        self._idle.append(instance)  # not if the call failed
        return copy

    def kernel(self, name: str) -> Callable[..., None]:
        """A kernel by its symbol. It takes aligned TVM tensors; the outputs are last."""
        function = self._library.get_function(name, query_imports=True)
        if self.num_threads == 1:
            threads.use_threads(1)
            return function
        return partial(threads.call, self.num_threads, function)

    def _new_machine(self) -> Any:
        machine = self._library["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        return machine

    def _new_instance(self, machine: Any) -> _Instance:
        staging = tuple(aligned_array(spec) for spec in self.inputs)
        arguments = (tvm_runtime().from_dlpack(array) for array in staging)
        return _Instance(staging, partial(machine["main"], *arguments, *self._constants))

    def __copy__(self) -> TvmModule:
        return TvmModule(self.path, self.digest, self.metadata, self._library, self._parallel, self.num_threads)


@dataclass(frozen=True, eq=False)
class _Instance:
    """A virtual machine with the memory of one call. It takes microseconds to make: its constants are shared.

    Attributes:
        staging: The inputs.
        main: Runs the model on them.
    """

    staging: tuple[np.ndarray, ...]
    main: Callable[[], Any]


def _load_file(tvm_ffi: ModuleType, path: str) -> Any:
    module = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(path, "so")
    tvm_ffi.get_global_func("ffi.ModuleGlobalsAdd")(module)  # as tvm_ffi.load_module does
    return module


def _only(result: Any) -> Any:
    """The output of a model with one output, which may be in a tuple."""
    return result if hasattr(result, "__dlpack__") else result[0]


def _check_version(library: Library) -> None:
    try:
        installed = importlib.metadata.version("apache-tvm")
    except importlib.metadata.PackageNotFoundError:  # built from source
        return
    needed = library.metadata.tvm_version
    if _minor(installed) != _minor(needed):
        raise LibraryError(
            f"{library.path} needs TVM {_minor(needed)}, but {installed} is installed: install "
            f'"apache-tvm=={needed}", or compile the model again'
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
