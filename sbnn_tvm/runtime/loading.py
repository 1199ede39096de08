"""Load and run a compiled library. This needs TVM's runtime and numpy, but not torch, onnx or the compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import itertools
import os
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import LibraryError, SbnnError
from ..printable import printable
from .cpu import this_cpu
from .hide_torch import hide_torch
from .inputs import match_inputs
from .library_file import Library, read_library
from .memory_file import forbid_changes, memory_file, numbered_path_of
from .metadata import Metadata, TensorSpec
from .threads import check_num_threads, default_num_threads, use_threads

_CPU = 1  # kDLCPU
_POOLED = 2  # TVM's pooled allocator
_ALIGNMENT = 64  # kernels require this alignment of their buffers; numpy guarantees 16


def load(path: str | PathLike[str], num_threads: int | None = None) -> LoadedModule:
    """Load a compiled model.

    Every byte of the library is checked before any of its code runs. What is loaded is a copy in memory, so the file
    may be replaced, overwritten or deleted afterwards. Constants that are stored coded are decoded here, once.

    Args:
        path: A library written by ``CompiledModule.export``.
        num_threads: Threads that share the work of a layer. The default is the environment's ``TVM_NUM_THREADS``, or
            otherwise the number of physical cores.

    Returns:
        The model, ready to run.

    Raises:
        LibraryError: If the file is missing, damaged or not a compiled model; if it was made for another architecture,
            for CPU features that this machine lacks, or by another version.
        InputError: If ``num_threads`` is not a positive integer.

    Example::

        model = sbnn_tvm.load("model.so")
        scores = model.run(image)
    """
    threads = default_num_threads() if num_threads is None else check_num_threads(num_threads)
    library = read_library(path)
    _check_machine(library)
    _check_versions(library)
    tvm_ffi = _tvm_runtime()
    try:
        module = _load_library(tvm_ffi, library)
        machine = module["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        main = machine["main"]
        constants = tuple(machine["prepare"]()) if library.metadata.prepares else ()
        return LoadedModule(library.metadata, module, main, constants, threads)
    except SbnnError:
        raise
    except OSError as error:  # too many open files, for example
        raise LibraryError(f"{library.path} cannot be loaded: {error.strerror or error}") from None
    except MemoryError:
        raise LibraryError(f"{library.path} cannot be loaded: it does not fit in memory") from None
    except Exception as error:  # TVM raises errors of many classes
        raise LibraryError(f"{library.path} cannot be loaded: {_first_line(error)}; compile the model again") from None


def read_metadata(path: str | PathLike[str]) -> Metadata:
    """Read the metadata of a compiled library for any architecture, without loading or running it.

    Raises:
        LibraryError: If the file is missing, damaged, not a compiled model, or made by an incompatible version.
    """
    return read_library(path).metadata


class LoadedModule:
    """A compiled model, loaded by ``load``."""

    def __init__(
        self, metadata: Metadata, library: Any, main: Any, constants: tuple[Any, ...], num_threads: int
    ) -> None:
        self.metadata = metadata
        self._library = library
        self.num_threads = num_threads
        self._main = main
        self._lock = threading.Lock()  # the virtual machine and its buffers can run one call at a time
        self._staging = tuple(_aligned(spec) for spec in metadata.inputs)
        self._arguments = (*(_tvm_runtime().from_dlpack(array) for array in self._staging), *constants)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each input."""
        return self.metadata.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of each output."""
        return self.metadata.outputs

    @property
    def target(self) -> str:
        """The name of the target that the model was compiled for."""
        return self.metadata.target

    @property
    def report(self) -> str:
        """The compiler's report, as JSON text."""
        return self.metadata.report

    def run(self, *inputs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run the model; calls from several threads run one after the other.

        Args:
            inputs: One array per element of ``self.inputs``, in that order, or a single dict from names to arrays.

        Returns:
            The output; if there are several, a tuple of them in the order of ``self.outputs``.

        Raises:
            InputError: If an array is missing, or has a different shape or dtype than the model declares.
        """
        arrays = match_inputs(self.inputs, inputs)
        with self._lock:
            use_threads(_tvm_runtime(), self.num_threads)
            for staging, array in zip(self._staging, arrays, strict=True):
                np.copyto(staging, array)
            result = self._main(*self._arguments)
            # Copy: a view would keep the virtual machine's memory alive, and may be one of the staging buffers.
            if len(self.outputs) == 1:
                return np.array(np.from_dlpack(_only(result)))
            return tuple(np.array(np.from_dlpack(tensor)) for tensor in result)

    def kernel(self, name: str) -> Callable[..., None]:
        """A kernel by its symbol. It takes aligned TVM tensors; the outputs are last."""
        use_threads(_tvm_runtime(), self.num_threads)
        return self._library.get_function(name, query_imports=True)

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return printable(f"<{self.metadata.name} for {self.target}: {inputs} -> {outputs}>")


def _check_machine(library: Library) -> None:
    cpu, metadata = this_cpu(), library.metadata
    bits = 64 if sys.maxsize > 2**32 else 32
    if library.header.machine != cpu.machine or library.header.bits != bits:
        raise LibraryError(
            f"{library.path} is for {metadata.machine} (target {metadata.target!r}), but this machine is "
            f'{cpu.machine}: compile the model with target="native" to run it here'
        )
    missing = cpu.missing(metadata.features)
    if missing:
        raise LibraryError(
            f"{library.path} is for target {metadata.target!r}, but this CPU lacks {', '.join(missing)}: "
            f'compile the model for a target without them, or with target="native" on this machine'
        )


def _check_versions(library: Library) -> None:
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


_numbers = itertools.count()
_loaded: dict[tuple[tuple[int, int], bytes], Any] = {}
"""The libraries in this process, by file and digest. None is ever unloaded: results of its code may live on."""


def _load_library(tvm_ffi: ModuleType, library: Library) -> Any:
    """Load the bytes that were checked: from a private copy in memory, which nobody can change or cut."""
    key = (library.file, library.digest)
    if key not in _loaded:
        with os.fdopen(memory_file("sbnn_tvm"), "wb") as copy:
            copy.write(library.data)
            copy.flush()
            forbid_changes(copy.fileno())
            # The loader takes libraries of one name for the same, and descriptors are used again.
            name = numbered_path_of(copy.fileno(), next(_numbers))
            module = tvm_ffi.get_global_func("ffi.Module.load_from_file.so")(name, "so")
        tvm_ffi.get_global_func("ffi.ModuleGlobalsAdd")(module)  # as tvm_ffi.load_module does
        _loaded[key] = module
    return _loaded[key]


@lru_cache(maxsize=1)
def _tvm_runtime() -> ModuleType:
    """tvm_ffi with TVM's runtime library loaded. In a process that has imported tvm, it is loaded already."""
    if "tvm" not in sys.modules and importlib.util.find_spec("tvm") is None:
        raise LibraryError("TVM's runtime is not installed: pip install apache-tvm")
    with hide_torch():
        import tvm_ffi
    if "tvm" not in sys.modules:
        spec = importlib.util.find_spec("tvm")
        assert spec is not None and spec.submodule_search_locations is not None
        folders = [Path(folder) / "lib" for folder in spec.submodule_search_locations]
        from tvm_ffi.libinfo import load_lib_ctypes

        # Same as in tvm/base.py. The second library has functions of a few operators, for example sorting.
        load_lib_ctypes("apache-tvm", "tvm_runtime", "RTLD_GLOBAL", extra_lib_paths=folders)
        load_lib_ctypes("apache-tvm", "tvm_runtime_extra", "RTLD_LOCAL", extra_lib_paths=folders)
    return tvm_ffi


def _aligned(spec: TensorSpec) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape)) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(dtype).reshape(spec.shape)


def _only(result: Any) -> Any:
    """The output of a model with one output, which may be in a tuple."""
    return result if hasattr(result, "__dlpack__") else result[0]


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
