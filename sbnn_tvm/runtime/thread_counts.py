"""How many threads share the work of a call: the default, and what a user asks for."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import InputError
from .cpu_quota import bound_cpus, usable_cpus


def default_num_threads() -> int:
    """The environment's ``TVM_NUM_THREADS``, otherwise the number of physical cores that this process may use."""
    wanted = os.environ.get("TVM_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > 0:
        return min(int(wanted), usable_cpus())
    return min(len({_core(cpu) for cpu in bound_cpus()}), usable_cpus())


def check_num_threads(num_threads: int) -> int:
    """``num_threads``, limited to the number of CPUs that this process may use.

    Raises:
        InputError: If it is not a positive integer.
    """
    if not isinstance(num_threads, int) or isinstance(num_threads, bool) or num_threads < 1:
        raise InputError(f"num_threads must be a positive integer, but got {num_threads!r}")
    return min(num_threads, usable_cpus())


def _core(cpu: int) -> tuple[str, str] | int:
    topology = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    try:
        return (topology / "physical_package_id").read_text(), (topology / "core_id").read_text()
    except OSError:
        return cpu
