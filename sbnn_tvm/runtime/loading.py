"""Load a compiled library, whichever runtime it is for. This needs numpy; TVM's runtime only if the library does."""

from __future__ import annotations

import sys
from os import PathLike

from ..errors import LibraryError, SbnnError
from .cpu import this_cpu
from .library_file import Library, read_library
from .loaded_module import LoadedModule
from .metadata import Metadata
from .thread_counts import check_num_threads, default_num_threads


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
        MissingPackageError: If it was exported for TVM's runtime, which is not installed.
        InputError: If ``num_threads`` is not a positive integer.

    Example::

        model = sbnn_tvm.load("model.so")
        scores = model.run(image)
    """
    threads = default_num_threads() if num_threads is None else check_num_threads(num_threads)
    library = read_library(path)
    _check_machine(library)
    try:
        if library.metadata.runtime == "c":
            from .standalone_module import load_standalone_module

            return load_standalone_module(library, threads)
        from .tvm_module import load_tvm_module

        return load_tvm_module(library, threads)
    except SbnnError:
        raise
    except OSError as error:  # too many open files, for example
        raise LibraryError(f"{library.path} cannot be loaded: {error.strerror or error}") from None
    except MemoryError:
        raise LibraryError(f"{library.path} cannot be loaded: it does not fit in memory") from None


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
