"""Where the calls of models run: how many at once, on which threads, in a forked process, and when a process ends.

TVM would create a thread pool in every thread that runs a parallel loop. Such a pool outlives its thread for seconds,
hangs in a forked child, and aborts the process at its end. So there is one pool here for all callers:

- A call that uses one thread runs in the thread of its caller. TVM then needs no pool.
- A call that uses several threads is handed to one thread of ours, the only one that has a pool of TVM. This costs
  about 20 us. If at least as many callers as the call would use threads are busy, each runs alone instead: then all
  CPUs have work anyway.
- Each call holds one of a limited number of permits. Before a fork, and at the end of the process, all permits are
  taken, so that no thread is inside TVM.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from functools import lru_cache
from itertools import islice
from math import inf
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Generic, TypeVar

from ..errors import InputError, LibraryError
from .cpu_quota import usable_cpus
from .tvm_runtime import tvm_runtime

_T = TypeVar("_T")

# TVM's mode in which threads share all given cores. The other modes bind the calling thread to one core permanently.
_SHARE_CORES = -3

_configured = threading.local()

# Permits for each CPU. They bound the memory of calls. With one for each CPU, 8 threads on 2 CPUs would waste 12 to
# 18 % of their time: waking a thread that waits costs more than letting the system share the CPUs.
_PERMITS = 4

# Seconds that a caller counts as busy between two calls.
_BUSY = 0.01

# Seconds that a call waits for a process that is about to end. Then it fails, in case somebody waits for its thread.
_END = 10.0


def default_num_threads() -> int:
    """The environment's ``TVM_NUM_THREADS``, otherwise the number of physical cores that this process may use."""
    wanted = os.environ.get("TVM_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return min(int(wanted), usable_cpus())
    return min(len({_core(cpu) for cpu in os.sched_getaffinity(0)}), usable_cpus())


def check_num_threads(num_threads: int) -> int:
    """``num_threads``, limited to the number of CPUs that this process may use.

    Raises:
        InputError: If it is not a positive integer.
    """
    if not isinstance(num_threads, int) or isinstance(num_threads, bool) or num_threads < 1:
        raise InputError(f"num_threads must be a positive integer, but got {num_threads!r}")
    return min(num_threads, usable_cpus())


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
    return _calls.call(num_threads, function, arguments)


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


class _Calls:
    """The calls of one process. Whatever a signal handler interrupts or raises, no permit is lost."""

    def __init__(self, cpus: int) -> None:
        self._limit = limit = _PERMITS * cpus
        self._inside: dict[int, list[None]] = {}  # the permit of each thread with a call; empty while it waits for one
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(limit):
            self._permits.put(None)
        # An interrupt between two Python operations could lose a permit. "list += iterator" takes and stores it in one.
        self._source = iter(self._permits.get, 0)
        self._pool = _Pool()
        self._pausing = threading.RLock()  # a signal handler may fork while this thread forks
        self._pauses = 0
        self._pause: list[None] = []
        self._crowded = -inf  # when a call last saw as many callers as it would use threads
        self._ending = False

    def call(self, num_threads: int | None, function: Callable[..., _T], arguments: tuple[Any, ...]) -> _T:
        """Same as ``call``."""
        inside, thread = self._inside, get_ident()
        if thread in inside:  # in a signal handler: what it interrupted cannot go on, so do not wait for it
            return function(*arguments) if num_threads is None else _alone(function, arguments)
        permit: list[None] = []
        try:
            if self._pauses:  # else this thread could take its permit again and again before the one that waits for it
                with self._pausing:
                    pass
            inside[thread] = permit
            permit += islice(self._source, 1)
            if self._ending:
                time.sleep(_END)
                raise LibraryError("the model cannot run any more: this process is about to end")
            if num_threads is None:
                return function(*arguments)
            now = time.monotonic()
            if num_threads <= len(inside):
                self._crowded = now
            elif now > self._crowded + _BUSY:
                return self._pool.call(num_threads, function, arguments)
            return _alone(function, arguments)
        finally:
            try:
                if permit:
                    self._permits.put(None)
            finally:
                inside.pop(thread, None)

    def pause(self) -> None:
        """Wait until no other thread is inside of a call, and let none begin."""
        if self._ending:
            return
        self._pausing.acquire()
        self._pauses += 1
        own = self._inside.setdefault(get_ident(), self._pause)
        interrupted = 0 if own is self._pause else len(own)  # 1 in a signal handler that interrupted a call
        self._pause += islice(self._source, self._limit - interrupted - len(self._pause))
        self._pool.wait()

    def go_on(self) -> None:
        """End the pause that this thread began."""
        if self._ending or not self._pauses:
            return
        self._pauses -= 1
        if not self._pauses:
            thread = get_ident()
            if self._inside.get(thread) is self._pause:
                del self._inside[thread]
            for _ in self._pause:
                self._permits.put(None)
            self._pause.clear()
        self._pausing.release()

    def end(self) -> None:
        """Let no other thread begin a call any more; this one may."""
        if self._ending:
            return
        self.pause()
        self._ending = True
        self._permits.put(None)  # each thread that waits gets it, sees that this is the end, and returns it
        self._pauses = 0
        self._pausing.release()


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


def _core(cpu: int) -> tuple[str, str] | int:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return cpu


_calls = _Calls(usable_cpus())


def _begin_in_child() -> None:
    """A forked child has no other threads, and so neither their calls nor a pool."""
    global _calls
    _calls = _Calls(usable_cpus())


os.register_at_fork(
    before=lambda: _calls.pause(), after_in_parent=lambda: _calls.go_on(), after_in_child=_begin_in_child
)
atexit.register(lambda: _calls.end())  # after threading has waited for all threads but daemons
