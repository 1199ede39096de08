"""A library that stands alone: C functions and kernels, called by ctypes.

A context is the memory of one call. There are as many contexts as there were calls at the same time, and one more with
threads of its own, for calls that no other caller disturbs. The library starts and ends these threads, Python owns the
memory.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from ctypes import CDLL, byref, c_void_p
from pathlib import Path

import numpy as np

from ..errors import LibraryError
from . import callers
from .c_interface import ERRORS, MOST_THREADS, Functions, Input, Output, options
from .library_file import Library
from .loaded_module import LoadedModule, aligned_array, aligned_bytes
from .metadata import Metadata
from .private_copy import load_private_copy


def load_standalone_module(library: Library, num_threads: int) -> StandaloneModule:
    """Load a library with ``metadata.runtime == "c"``, which was checked.

    Raises:
        LibraryError: If the dynamic loader refuses it, or it lacks a function.
        OSError: If too many files are open, for example.
    """

    def functions(path: str) -> Functions:
        try:
            return Functions.of(CDLL(path), library.metadata.symbol)
        except (OSError, AttributeError) as error:  # what the loader says names the private copy
            reason = str(error).removeprefix(f"{path}: ")
            raise LibraryError(f"{library.path} cannot be loaded: {reason}; compile the model again") from None

    loaded = load_private_copy(library, functions)
    return StandaloneModule(library.path, library.digest, library.metadata, loaded, num_threads)


class StandaloneModule(LoadedModule):
    """A compiled model that runs on its own C code."""

    def __init__(self, path: Path, digest: bytes, metadata: Metadata, functions: Functions, num_threads: int) -> None:
        super().__init__(path, digest, metadata, num_threads)
        self._functions = functions
        self._idle: list[_Context] = []
        self._idle_pool: list[_Context] = []  # the context with threads of its own, unless a call uses it
        self._pools: weakref.WeakSet[_Context] = weakref.WeakSet()  # that context, if it exists
        _modules.add(self)
        context = self._new_context()
        if metadata.parallel and num_threads > 1:
            self._pools.add(context)
            self._idle_pool.append(context)
            self._begin(context, num_threads)
        else:
            self._idle.append(context)
            self._begin(context, 1)

    def _call(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        num_threads = self._num_threads if self.metadata.parallel else None
        return callers.call(num_threads, self._alone, self._together, arrays)

    def _alone(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run on this thread."""
        held: list[_Context] = []
        try:
            try:
                held += _popped(self._idle)
            except IndexError:
                held.append(self._new_context())
            self._begin(held[0], 1)
            return self._run(held[0], arrays)
        finally:
            self._idle.extend(held)

    def _together(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run on several threads, or on this one if another call uses them."""
        held: list[_Context] = []
        try:
            try:
                held += _popped(self._idle_pool)
            except IndexError:
                if self._pools:
                    return self._alone(arrays)
                held.append(self._new_context())
                self._pools.add(held[0])
            self._begin(held[0], self._num_threads)
            return self._run(held[0], arrays)
        finally:
            self._idle_pool.extend(held)

    def _new_context(self) -> _Context:
        try:
            return _Context(self._functions, self.metadata)
        except MemoryError:
            raise self._no_memory() from None

    def _begin(self, context: _Context, threads: int) -> None:
        try:
            context.begin(min(threads, MOST_THREADS))
        except _CodeError as error:
            hint = "" if threads == 1 else ": raise the limit of threads, or load the model with num_threads=1"
            raise LibraryError(f"{self.path} cannot be run: {error}{hint}") from None
        except MemoryError:
            raise self._no_memory() from None

    def _no_memory(self) -> LibraryError:
        return LibraryError(f"{self.path} cannot be run: its context does not fit in memory")

    def _run(self, context: _Context, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        try:
            return context.run(arrays)
        except _CodeError as error:
            raise LibraryError(f"{self.path} cannot be run: {error}; compile the model again") from None

    def begin_in_child(self) -> None:
        """Do without the threads that a forked child does not have: the next call starts others."""
        for context in list(self._pools):
            context.threads = 0

    def __copy__(self) -> StandaloneModule:
        return StandaloneModule(self.path, self.digest, self.metadata, self._functions, self.num_threads)


class _CodeError(Exception):
    """A C function returned a code that is not 0; the text says what it means."""


class _Context:
    """The memory of one call, and the arrays that it reads and writes.

    An interrupt, which a signal handler raises between two Python operations, leaves it such that ``begin`` works.

    Attributes:
        threads: How many threads it uses, the caller's included; 0 before ``begin``, and in a forked child, where the
            call that forked goes on on one thread.
    """

    def __init__(self, functions: Functions, metadata: Metadata) -> None:
        self.threads = 0
        self._codes: list[int] = []  # what init has returned
        self._functions = functions
        self._memory = aligned_bytes(0)
        self._pointer = c_void_p()
        self._inputs = tuple(map(aligned_array, metadata.inputs))
        self._outputs = tuple(map(aligned_array, metadata.outputs))
        self._arguments = (
            (Input * len(self._inputs))(*(Input(array.ctypes.data, array.nbytes) for array in self._inputs)),
            (Output * len(self._outputs))(*(Output(array.ctypes.data, array.nbytes) for array in self._outputs)),
        )

    def begin(self, threads: int) -> None:
        """Make it ready for calls on so many threads, if it is not.

        Raises:
            _CodeError: If the library refuses.
            MemoryError: If the context does not fit in memory.
        """
        if self.threads == threads and self._codes == [0]:
            return
        self.threads = 0
        if self._codes:
            self._functions.close(self._pointer)
            self._codes.clear()
        wanted = byref(options(threads))
        self._memory = aligned_bytes(self._functions.context_bytes(wanted))
        self._pointer = c_void_p(self._memory.ctypes.data)
        self.threads = threads
        # "list += iterator" calls init and stores its result in one operation: no interrupt comes between.
        self._codes += map(self._functions.init, [self._pointer], [self._memory.nbytes], [wanted])
        _check(self._codes[0])

    def run(self, arrays: tuple[np.ndarray, ...]) -> np.ndarray | tuple[np.ndarray, ...]:
        """Run the model on arrays that match its inputs.

        Raises:
            _CodeError: If it refuses.
        """
        for staging, array in zip(self._inputs, arrays, strict=True):
            np.copyto(staging, array)
        _check(self._functions.run(self._pointer, *self._arguments))
        if len(self._outputs) == 1:
            return self._outputs[0].copy()
        return tuple(array.copy() for array in self._outputs)

    def __del__(self) -> None:
        if self._codes:
            self._functions.close(self._pointer)


def _popped(contexts: list[_Context]) -> Iterator[_Context]:
    """Takes the last context. "held += _popped(contexts)" takes and stores it in one operation: no interrupt loses it.

    Raises:
        IndexError: If the list is empty.
    """
    return map(list.pop, [contexts])


def _check(code: int) -> None:
    if code != 0:
        raise _CodeError(ERRORS.get(code, f"error {code}"))


_modules: weakref.WeakSet[StandaloneModule] = weakref.WeakSet()


def _begin_in_child() -> None:
    for module in list(_modules):
        module.begin_in_child()


os.register_at_fork(after_in_child=_begin_in_child)
