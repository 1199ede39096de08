"""Who may run a model now: how many calls at once, on one thread or several, in a forked process, when a process ends.

This is the same for both runtimes; they differ in what a call on several threads is.

- Each call holds one of a limited number of permits, which bound the memory of calls. Before a fork, and at the end of
  the process, all permits are taken, so that no thread is inside a runtime.
- If at least as many callers as a call would use threads are busy, each runs on one thread: then all CPUs have work
  anyway.
- A call from a signal handler that interrupted a call waits for nothing, since what it interrupted cannot go on.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from _thread import get_ident
from collections.abc import Callable
from itertools import islice
from math import inf
from queue import SimpleQueue
from typing import Any, TypeVar

from ..errors import LibraryError
from .cpu_quota import usable_cpus

_T = TypeVar("_T")

# Permits for each CPU. With one for each CPU, 8 threads on 2 CPUs would waste 12 to 18 % of their time: waking a thread
# that waits costs more than letting the system share the CPUs.
_PERMITS = 4

# Seconds that a caller counts as busy between two calls.
_BUSY = 0.01

# Seconds that a call waits for a process that is about to end. Then it fails, in case somebody waits for its thread.
_END = 10.0

when_paused: list[Callable[[], None]] = []
"""Called before a fork and at the end of the process, when no caller is inside: wait for what still runs elsewhere."""


def call(num_threads: int | None, alone: Callable[..., _T], together: Callable[..., _T], *arguments: Any) -> _T:
    """Call one of two functions that compute the same, in this thread.

    Args:
        num_threads: The number of threads that ``together`` uses; with 1 or None it is not called.
        alone: The function on one thread. A call from a signal handler that interrupted a call is always this one.
        together: The function on several threads, for times when there are CPUs without work.
        arguments: Their arguments.

    Raises:
        LibraryError: If the process is about to end.
    """
    return _callers.call(num_threads, alone, together, arguments)


class _Callers:
    """The calls of one process. Whatever a signal handler interrupts or raises, no permit is lost."""

    def __init__(self, cpus: int) -> None:
        self._limit = limit = _PERMITS * cpus
        self._inside: dict[int, list[None]] = {}  # the permit of each thread with a call; empty while it waits for one
        self._permits: SimpleQueue[None] = SimpleQueue()
        for _ in range(limit):
            self._permits.put(None)
        # An interrupt between two Python operations could lose a permit. "list += iterator" takes and stores it in one.
        self._source = iter(self._permits.get, 0)
        self._pausing = threading.RLock()  # a signal handler may fork while this thread forks
        self._pauses = 0
        self._pause: list[None] = []
        self._crowded = -inf  # when a call last saw as many callers as it would use threads
        self._ending = False

    def call(
        self,
        num_threads: int | None,
        alone: Callable[..., _T],
        together: Callable[..., _T],
        arguments: tuple[Any, ...],
    ) -> _T:
        """Same as ``call``."""
        inside, thread = self._inside, get_ident()
        if thread in inside:  # in a signal handler: what it interrupted cannot go on, so do not wait for it
            return alone(*arguments)
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
            if num_threads is not None and num_threads > 1:
                now = time.monotonic()
                if num_threads <= len(inside):
                    self._crowded = now
                elif now > self._crowded + _BUSY:
                    return together(*arguments)
            return alone(*arguments)
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
        for wait in when_paused:
            wait()

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


_callers = _Callers(usable_cpus())


def _begin_in_child() -> None:
    """A forked child has no other threads, and so none of their calls."""
    global _callers
    _callers = _Callers(usable_cpus())


os.register_at_fork(
    before=lambda: _callers.pause(), after_in_parent=lambda: _callers.go_on(), after_in_child=_begin_in_child
)
atexit.register(lambda: _callers.end())  # after threading has waited for all threads but daemons
