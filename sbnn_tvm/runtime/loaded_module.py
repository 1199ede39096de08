"""A compiled model that is loaded: run it, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..printable import printable
from . import threads
from .inputs import match_inputs
from .metadata import Metadata, TensorSpec
from .tvm_runtime import tvm_runtime

_CPU = 1  # kDLCPU
_POOLED = 2  # TVM's pooled allocator
_ALIGNMENT = 64  # kernels require this alignment of their buffers; numpy guarantees 16


class LoadedModule:
    """A compiled model, loaded by ``load``.

    It can be used from any number of threads, in forked processes and in signal handlers. Pickled, it is the path of
    its library, the digest and the number of threads: unpickling loads that file again, if its content is the same.
    """

    def __init__(
        self, path: Path, digest: bytes, metadata: Metadata, library: Any, parallel: bool, num_threads: int
    ) -> None:
        self.path = path
        self.metadata = metadata
        self.num_threads = num_threads
        self.digest = digest
        self._library = library
        self._parallel = parallel
        first = self._new_machine()
        prepare = first["prepare"] if metadata.prepares else tuple
        self._constants = tuple(threads.call(num_threads, prepare))
        self._idle = [self._new_instance(first)]

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
        arrays = match_inputs(self.metadata.inputs, inputs)
        return threads.call(self.num_threads if self._parallel else None, self._run, arrays)

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
        staging = tuple(_aligned(spec) for spec in self.inputs)
        arguments = (tvm_runtime().from_dlpack(array) for array in staging)
        return _Instance(staging, partial(machine["main"], *arguments, *self._constants))

    def __copy__(self) -> LoadedModule:
        return LoadedModule(self.path, self.digest, self.metadata, self._library, self._parallel, self.num_threads)

    def __deepcopy__(self, memo: dict[int, Any]) -> LoadedModule:
        return self.__copy__()  # nothing that two copies share can change

    def __reduce__(self) -> tuple[Callable[..., LoadedModule], tuple[str, bytes, int]]:
        from .loading import load_again

        return load_again, (str(self.path.resolve()), self.digest, self.num_threads)

    def __repr__(self) -> str:
        inputs, outputs = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return printable(f"<{self.metadata.name} for {self.target}: {inputs} -> {outputs}>")


@dataclass(frozen=True, eq=False)
class _Instance:
    """A virtual machine with the memory of one call. It takes microseconds to make: its constants are shared.

    Attributes:
        staging: The inputs.
        main: Runs the model on them.
    """

    staging: tuple[np.ndarray, ...]
    main: Callable[[], Any]


def _aligned(spec: TensorSpec) -> np.ndarray:
    dtype = np.dtype(spec.dtype)
    size = int(np.prod(spec.shape)) * dtype.itemsize
    raw = np.zeros(size + _ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % _ALIGNMENT
    return raw[begin : begin + size].view(dtype).reshape(spec.shape)


def _only(result: Any) -> Any:
    """The output of a model with one output, which may be in a tuple."""
    return result if hasattr(result, "__dlpack__") else result[0]
