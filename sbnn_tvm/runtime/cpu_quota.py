"""How many CPUs this process may use: those it is bound to, and the quota of its control groups (cgroups)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_PROCESS = Path("/proc/self")


def usable_cpus() -> int:
    """The number of CPUs that this process is bound to, or less if a cgroup allows less CPU time; at least 1.

    A fraction of a CPU does not count: threads that wait for each other would be stopped together.
    """
    return max(1, int(min(len(bound_cpus()), cpu_quota())))


def bound_cpus() -> set[int]:
    """The CPUs that this process is bound to; all of them where a system does not tell, as macOS."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def cpu_quota(process: Path = _PROCESS) -> float:
    """The CPU time per second that the process's cgroups (version 1 or 2) allow; infinity without a limit.

    Args:
        process: The process's folder in ``/proc``.
    """
    return min((quota for folder in _groups(process) for quota in _quotas(folder)), default=float("inf"))


def _groups(process: Path) -> Iterator[Path]:
    """The folders of the cgroups that the process belongs to, from the innermost to the outermost that is visible."""
    try:
        memberships = [line.split(":", 2) for line in (process / "cgroup").read_text().splitlines()]
        mounts = [line.split() for line in (process / "mountinfo").read_text().splitlines()]
    except OSError:  # another system than Linux
        return
    for mount in mounts:
        root, point, (kind, _, options) = mount[3], mount[4], mount[mount.index("-") + 1 :][:3]
        for number, controllers, group in memberships:
            version1 = kind == "cgroup" and "cpu" in controllers.split(",") and "cpu" in options.split(",")
            if version1 or (kind == "cgroup2" and number == "0"):
                yield from _up(Path(point), root, group)


def _up(point: Path, root: str, group: str) -> Iterator[Path]:
    # A container sees its own cgroup as the root of the mount, but may read its path on the host.
    inside = PurePosixPath(group).is_relative_to(root)
    relative = PurePosixPath(group).relative_to(root) if inside else PurePosixPath()
    for each in (relative, *relative.parents):
        yield point / each


def _quotas(folder: Path) -> Iterator[float]:
    for texts in (["cpu.max"], ["cpu.cfs_quota_us", "cpu.cfs_period_us"]):
        try:
            limit, period = " ".join((folder / name).read_text() for name in texts).split()
        except (OSError, ValueError):
            continue
        if limit.isdigit() and int(period) > 0:  # otherwise "max" or -1: no limit
            yield int(limit) / int(period)
