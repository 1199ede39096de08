"""Load the bytes of a library that were checked: from a private copy, which nobody can change or cut."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from ..errors import LibraryError
from .library_file import Library
from .memory_file import forbid_changes, has_memory_files, memory_file, numbered_path_of

_T = TypeVar("_T")

_numbers = itertools.count()
_loaded: dict[tuple[tuple[int, int], bytes], object] = {}
"""The libraries in this process, by file and digest. None is ever unloaded: results of its code may live on."""


def load_private_copy(library: Library, load: Callable[[str], _T]) -> _T:
    """Load a library, or return what it was loaded as before.

    The copy is in memory, on no disk. Where a system has no such files, as macOS, it is a temporary file that is
    deleted as soon as it is loaded.

    Args:
        library: What was read.
        load: Loads the library that is at a path, and never anything that it has loaded from another one.

    Raises:
        LibraryError: If a temporary file is needed, and cannot be written.
        OSError: If too many files are open, for example.
    """
    key = (library.file, library.digest)
    if key not in _loaded:
        with _copy(library.data) as path:
            _loaded[key] = load(path)
    return _loaded[key]  # type: ignore[return-value]  # a record names one runtime, so one kind of result


@contextmanager
def _copy(data: bytes) -> Iterator[str]:
    """A path to a file with these bytes, which needs to exist only while it is loaded."""
    if has_memory_files():
        with os.fdopen(memory_file("sbnn_tvm"), "wb") as file:
            file.write(data)
            file.flush()
            forbid_changes(file.fileno())
            # The loader takes libraries of one name for the same, and descriptors are used again.
            yield numbered_path_of(file.fileno(), next(_numbers))
    else:
        from ..temporary_folder import temporary_folder  # imports much, and Linux does not need it

        with temporary_folder(LibraryError) as folder:
            path = folder / "model.so"
            path.write_bytes(data)
            yield str(path)
