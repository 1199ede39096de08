"""Load and run a compiled library. This needs TVM's runtime and numpy, but not torch, onnx or the compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import lru_cache
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from ..errors import LibraryError
from ..printable import printable
from .cpu import normalize_machine, this_cpu
from .elf import ElfError, read_header, read_note
from .hide_torch import hide_torch
from .inputs import match_inputs
from .metadata import OWNER, Metadata, TensorSpec
from .threads import check_num_threads, default_num_threads, use_threads

_CPU = 1  # kDLCPU
_POOLED = 2  # TVM's pooled allocator
_ALIGNMENT = 64  # kernels require this alignment of their buffers; numpy guarantees 16


def load(path: str | PathLike[str], num_threads: int | None = None) -> LoadedModule:
    """Load a compiled model.

    The library is checked before any of its code runs. Constants that are stored coded are decoded here, once.

    Args:
        path: A library written by ``CompiledModule.export``.
        num_threads: Threads that share the work of a layer. The default is the environment's ``TVM_NUM_THREADS``, or
            otherwise the number of physical cores.

    Returns:
        The model, ready to run.

    Raises:
        LibraryError: If the file is missing or not a compiled model; if it was made for another architecture, for CPU
            features that this machine lacks, or by another version.
        InputError: If ``num_threads`` is not a positive integer.

    Example::

        model = sbnn_tvm.load("model.so")
        scores = model.run(image)
    """
    threads = default_num_threads() if num_threads is None else check_num_threads(num_threads)
    path = Path(path)
    metadata = read_metadata(path)
    _check_machine(path, metadata)
    _check_versions(path, metadata)
    tvm_ffi = _tvm_runtime()
    try:
        library = _load_library(tvm_ffi, path)
        machine = library["vm_load_executable"]()
        machine["vm_initialization"](_CPU, 0, _POOLED)
        main = machine["main"]
        constants = tuple(machine["prepare"]()) if metadata.prepares else ()
    except (RuntimeError, AttributeError, ValueError, KeyError) as error:
        raise LibraryError(f"{path} cannot be loaded: {_first_line(error)}; compile the model again") from None
    return LoadedModule(metadata, library, main, constants, threads)


def read_metadata(path: str | PathLike[str]) -> Metadata:
    """Read the metadata of a compiled library for any architecture, without loading or running it.

    Raises:
        LibraryError: If the file is missing, not a compiled model, or made by an incompatible version.
    """
    path = Path(path)
    try:
        if not read_header(path).shared:
            raise ElfError("not a shared library")
        note = read_note(path, OWNER)
    except FileNotFoundError:
        raise LibraryError(f"there is no file {path}: export a compiled model to it first") from None
    except OSError as error:
        raise LibraryError(f"{path} cannot be read: {error.strerror}") from None
    except ElfError as error:
        raise LibraryError(f"{path} is not a compiled model: {error}") from None
    if note is None:
        raise LibraryError(f"{path} is a shared library, but not a model compiled by sbnn_tvm")
    try:
        return Metadata.from_json(note.decode())
    except ValueError as error:
        raise LibraryError(f"{path} cannot be read: {error}; compile the model again with this version") from None


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


def _check_machine(path: Path, metadata: Metadata) -> None:
    header = read_header(path)
    cpu = this_cpu()
    bits = 64 if sys.maxsize > 2**32 else 32
    if header.machine != cpu.machine or header.bits != bits:
        built = normalize_machine(metadata.triple.split("-")[0])
        raise LibraryError(
            f"{path} is for {built} (target {metadata.target!r}), but this machine is {cpu.machine}: "
            f'compile the model with target="native" to run it here'
        )
    missing = cpu.missing(metadata.features)
    if missing:
        raise LibraryError(
            f"{path} is for target {metadata.target!r}, but this CPU lacks {', '.join(missing)}: "
            f'compile the model for a target without them, or with target="native" on this machine'
        )


def _check_versions(path: Path, metadata: Metadata) -> None:
    try:
        installed = importlib.metadata.version("apache-tvm")
    except importlib.metadata.PackageNotFoundError:  # built from source
        return
    if _minor(installed) != _minor(metadata.tvm_version):
        raise LibraryError(
            f"{path} needs TVM {_minor(metadata.tvm_version)}, but {installed} is installed: install "
            f'"apache-tvm=={metadata.tvm_version}", or compile the model again'
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


_loaded: dict[str, tuple[int, int, int]] = {}


def _load_library(tvm_ffi: ModuleType, path: Path) -> Any:
    """Load a library, also if this process loaded an older file with the same name.

    The dynamic loader identifies libraries by name and would return the old one, so a new file is copied to a new name.
    """
    name = str(path.resolve())  # absolute: the loader searches the system's folders for a bare name
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_mtime_ns)
    if _loaded.setdefault(name, identity) == identity:
        return tvm_ffi.load_module(name)
    with tempfile.TemporaryDirectory(prefix="sbnn_tvm-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        return tvm_ffi.load_module(str(copy))


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
