"""Load and run a compiled library. This needs TVM's runtime and numpy, but not torch, onnx or the compiler."""

from __future__ import annotations

import importlib.metadata
import itertools
import os
import sys
from os import PathLike
from types import ModuleType
from typing import Any

from ..errors import LibraryError, SbnnError
from .cpu import this_cpu
from .library_file import Library, read_library
from .loaded_module import LoadedModule
from .memory_file import forbid_changes, memory_file, numbered_path_of
from .metadata import Metadata
from .threads import check_num_threads, default_num_threads
from .tvm_runtime import tvm_runtime

_PARALLEL = b"\0__TVMBackendParallelLaunch\0"
"""What the names of a library contain if some loop of it is parallel."""


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
    tvm_ffi = tvm_runtime()
    try:
        module, parallel = _load_library(tvm_ffi, library), _PARALLEL in library.data
        return LoadedModule(library.path, library.digest, library.metadata, module, parallel, threads)
    except SbnnError:
        raise
    except OSError as error:  # too many open files, for example
        raise LibraryError(f"{library.path} cannot be loaded: {error.strerror or error}") from None
    except MemoryError:
        raise LibraryError(f"{library.path} cannot be loaded: it does not fit in memory") from None
    except Exception as error:  # TVM raises errors of many classes
        raise LibraryError(f"{library.path} cannot be loaded: {_first_line(error)}; compile the model again") from None


def load_again(path: str, digest: bytes, num_threads: int) -> LoadedModule:
    """Load a model that was pickled, from the file that it was loaded from.

    Raises:
        LibraryError: As ``load``, and if the file is another model by now.
    """
    model = load(path, num_threads)
    if model.digest != digest:
        raise LibraryError(
            f"{path} has changed since the model was pickled, which stores the file's name but not its content: "
            "load() the new model and pickle it again"
        )
    return model


def read_metadata(path: str | PathLike[str]) -> Metadata:
    """Read the metadata of a compiled library for any architecture, without loading or running it.

    Raises:
        LibraryError: If the file is missing, damaged, not a compiled model, or made by an incompatible version.
    """
    return read_library(path).metadata


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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
