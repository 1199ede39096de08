"""The threads of TVM's runtime.

TVM would create a thread pool in every thread that runs a parallel loop. Such a pool outlives its thread for seconds,
hangs in a forked child, and aborts the process at its end. So there is one pool here for all callers:

- A call that uses one thread runs in the thread of its caller. TVM then needs no pool.
- A call that uses several threads is handed to one thread of ours, the only one that has a pool of TVM. This costs
  about 20 us.

sbnn_tvm.runtime.callers decides which of the two a call is.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from functools import lru_cache
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from ..errors import LibraryError
from . import callers
from .cpu_quota import usable_cpus
from .tvm_runtime import tvm_runtime

_T = TypeVar("_T")

# TVM's mode in which threads share all given cores. The other modes bind the calling thread to one core permanently.
_SHARE_CORES = -3

_configured = threading.local()


def call(num_threads: int | None, function: Callable[..., _T], *arguments: Any) -> _T:
    """Call a function whose parallel loops use ``num_threads`` threads, or one if other callers keep the CPUs busy.

    It may run in another thread. Calls from different threads run at the same time. A call from a signal handler that
    interrupted a call runs at once, on one thread.

    Args:
        num_threads: The number of threads; None for a function without parallel loops.
        function: The function.
        arguments: Its arguments.

    Raises:
        LibraryError: If the process is about to end, or the system refuses to start a thread.
    """
    if num_threads is None:
        return callers.call(None, function, function, *arguments)

    def alone() -> _T:
        return _alone(function, arguments)

    def together() -> _T:
        return _pool.call(num_threads, function, arguments)

    return callers.call(num_threads, alone, together)


def use_threads(num_threads: int) -> None:
    """Make parallel loops that this thread starts itself, not by ``call``, use ``num_threads`` threads.

    For programs that time kernels. With more than one thread, TVM creates a pool for this thread. The first use sets
    its size; later uses can only use fewer threads. So the pool is created with all usable CPUs, and only
    ``num_threads`` of its threads work.
    """
    if getattr(_configured, "num_threads", None) == num_threads:
        return
    _configured.num_threads = num_threads
    _, set_concurrency = _concurrency()
    if num_threads == 1:
        set_concurrency(1)
        return
    cpus = sorted(os.sched_getaffinity(0))
    set_concurrency(usable_cpus())
    tvm_ffi = tvm_runtime()
    tvm_ffi.get_global_func("runtime.NumThreads")()  # creates the pool, with the number of threads just set
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_CORES, num_threads, [str(cpu) for cpu in cpus])


class _Pool:
    """One thread, started by the first call, that has the pool of TVM."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job[Any]] = SimpleQueue()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def call(self, num_threads: int, function: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
        """Call a function in the thread of the pool, after the calls that came before."""
        if self._thread is None:
            self._start()

        def run() -> _T:
            use_threads(num_threads)
            return function(*arguments)

        return self._result(run)

    def wait(self) -> None:
        """Wait until the calls that came before are done."""
        if self._thread is not None:
            self._result(int)  # any function will do

    def _result(self, function: Callable[[], _T]) -> _T:
        job = _Job(function)
        self._jobs.put(job)
        return job.wait()

    def _start(self) -> None:
        with self._starting:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="sbnn_tvm pool", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    raise LibraryError(
                        f"no thread can be started ({error}): raise the limit of threads, or load the model with "
                        "num_threads=1"
                    ) from None
                self._thread = thread

    def _work(self) -> None:
        # The thread never ends by itself: TVM's pool is not needed before the process ends, and is slow to stop.
        while True:
            job = self._jobs.get()
            job.run()
            del job  # frees the arrays before the next job comes


class _Job(Generic[_T]):
    """A call that another thread waits for."""

    def __init__(self, function: Callable[[], _T]) -> None:
        self._function = function
        self._value: _T
        self._error: BaseException | None = None
        self._done = False
        self._lock = threading.Lock()
        self._lock.acquire()

    def run(self) -> None:
        try:
            self._value = self._function()
        except BaseException as error:
            self._error = error
        self._done = True
        self._lock.release()

    def wait(self) -> _T:
        """The function's value. An interrupt is raised when the call is done, as if it ran in this thread."""
        interrupt = None
        while not self._done:
            try:
                self._lock.acquire()
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
        if self._error is not None:
            try:
                raise self._error
            finally:
                self._error = None  # its traceback refers to this frame
        return self._value


def _alone(function: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
    """Call a function on this thread alone. TVM reads its number of threads per thread; for one it needs no pool."""
    get, set_ = _concurrency()
    before = get()
    if before == 1:
        return function(*arguments)
    set_(1)
    try:
        return function(*arguments)
    finally:
        set_(before)


@lru_cache(maxsize=1)
def _concurrency() -> tuple[Callable[[], int], Callable[[int], None]]:
    """TVM's functions that return and set the number of threads of the calling thread, 0 for its default.

    They are functions of its C++ interface (runtime/threading_backend.h). ``runtime.config_threadpool`` would create a
    pool, and bind this thread to the CPUs of that pool.
    """
    tvm_runtime()
    library = ctypes.PyDLL(None)  # PyDLL keeps the interpreter's lock, which takes less time than to release it
    try:
        get = library._ZN3tvm7runtime9threading14MaxConcurrencyEv
        set_ = library._ZN3tvm7runtime9threading17SetMaxConcurrencyEi
    except AttributeError:
        raise LibraryError(
            "TVM's runtime does not export tvm::runtime::threading::SetMaxConcurrency: install apache-tvm from PyPI"
        ) from None
    set_.restype = None
    return get, set_


_pool = _Pool()


def _begin_in_child() -> None:
    """A forked child has no other threads, and so no pool."""
    global _pool
    _pool = _Pool()


os.register_at_fork(after_in_child=_begin_in_child)
callers.when_paused.append(lambda: _pool.wait())
