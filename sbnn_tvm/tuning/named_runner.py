"""Find a runner by its name, as the command line and ``tune(runner=...)`` give it."""

from __future__ import annotations

import re

from ..errors import TuningError
from .estimated_runner import EstimatedRunner
from .local_runner import LocalRunner
from .rpc_runner import RpcRunner
from .runner import Runner


def runner_named(name: str, threads: int = 1) -> Runner:
    """Make a runner: ``"local"``, ``"estimated"`` or ``"rpc://host:port/key"``.

    Raises:
        TuningError: If the name is none of these, or the RPC tracker does not answer.
    """
    if name == "local":
        return LocalRunner(threads)
    if name == "estimated":
        return EstimatedRunner()
    found = re.fullmatch(r"rpc://([^/:]+):(\d+)/(.+)", name)
    if found is None:
        raise TuningError(f"a runner is 'local', 'estimated' or 'rpc://host:port/key', but got {name!r}")
    return RpcRunner(found[1], int(found[2]), found[3], threads)
