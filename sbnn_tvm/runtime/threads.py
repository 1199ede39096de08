"""The threads of TVM's runtime: set their number without binding the calling thread to one core."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from types import ModuleType

from ..errors import InputError

_configured = threading.local()

# TVM's mode in which threads share all given cores. The other modes bind the calling thread to one core permanently.
_SHARE_CORES = -3


def default_num_threads() -> int:
    """The environment's ``TVM_NUM_THREADS``, otherwise the number of physical cores that this process may use."""
    wanted = os.environ.get("TVM_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return min(int(wanted), len(_cpus()))
    return len({_core(cpu) for cpu in _cpus()})


def check_num_threads(num_threads: int) -> int:
    """``num_threads``, limited to the number of CPUs that this process may use.

    Raises:
        InputError: If it is not a positive integer.
    """
    if not isinstance(num_threads, int) or isinstance(num_threads, bool) or num_threads < 1:
        raise InputError(f"num_threads must be a positive integer, but got {num_threads!r}")
    return min(num_threads, len(_cpus()))


def use_threads(tvm_ffi: ModuleType, num_threads: int) -> None:
    """Make parallel loops started by this thread use ``num_threads`` threads.

    TVM keeps one thread pool per thread that runs models. The first use sets its size; later uses can only use fewer
    threads. So the pool is created with all CPUs, and only ``num_threads`` of its threads work.
    """
    if getattr(_configured, "num_threads", None) != num_threads:
        cpus = [str(cpu) for cpu in _cpus()]
        tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_CORES, num_threads, cpus)
        _configured.num_threads = num_threads


def _cpus() -> list[int]:
    return sorted(os.sched_getaffinity(0))


def _core(cpu: int) -> tuple[str, str] | int:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return cpu
