"""A compiled model that is loaded: run it, from any thread. What both runtimes have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..printable import printable
from .inputs import match_inputs
from .metadata import Metadata, TensorSpec
from .thread_counts import check_num_threads

_ALIGNMENT = 64  # kernels require this alignment of their buffers; numpy guarantees 16


class LoadedModule(ABC):
    """A compiled model, loaded by ``load``.

    It can be used from any number of threads, in forked processes and in signal handlers. Pickled, it is the path of
    its library, the digest and the number of threads: unpickling loads that file again, if its content is the same.

    Attributes:
        path: The file that it was loaded from.
        digest: The digest of that file, 32 bytes.
        metadata: The library's record.
    """

    def __init__(self, path: Path, digest: bytes, metadata: Metadata, num_threads: int) -> None:
        self.path = path
        self.digest = digest
        self.metadata = metadata
        self._num_threads = num_threads

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

    @property
    def num_threads(self) -> int:
        """How many threads share the work of a call.

        It may be set at any time, to a positive integer; it is never more than the CPUs that the process may use.
        """
        return self._num_threads

    @num_threads.setter
    def num_threads(self, num_threads: int) -> None:
        self._num_threads = check_num_threads(num_threads)

    def run(self, *inputs: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run the model.

        Calls from several threads run at the same time, at most four for each CPU. ``num_threads`` threads share the
        work of a call; with as many callers or more, each call runs on one thread.

        Args:
            inputs: One array per element of ``self.inputs``, in that order, or a single dict from names to arrays.

        Returns:
            The output; if there are several, a tuple of them in the order of ``self.outputs``. The arrays are new.

        Raises:
            InputError: If an array is missing, or has a different shape or dtype than the model declares.
            LibraryError: If the process is about to end, or the system refuses to start a thread.
        """
        return self._call(match_inputs(self.metadata.inputs, inputs))

    @abstractmethod
    def _call(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run the model on arrays that match its inputs."""

    @abstractmethod
    def __copy__(self) -> LoadedModule: ...

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedModule:
        return self.__copy__()  # nothing that two copies share can change

    def __reduce__(self) -> tuple[Callable[..., LoadedModule], tuple[str, bytes, int]]:
        from .loading import load_again

        return load_again, (str(self.path.resolve()), self.digest, self.num_threads)

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return printable(f"<{self.metadata.name} for {self.target}: {inputs} -> {outputs}>")


def aligned_bytes(size: int) -> np.ndarray:
    """Zeroed memory, uint8 of shape (size,), at an address that kernels accept."""
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size]


def aligned_array(spec: TensorSpec) -> np.ndarray:
    """An array for an input or output, at an address that kernels accept."""
    dtype = np.dtype(spec.dtype)
    return aligned_bytes(spec.bytes).view(dtype).reshape(spec.shape)
