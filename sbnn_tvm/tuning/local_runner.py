"""Measure candidates in another process of this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tvm.support.popen_pool import PopenWorker

from ..deploy.targets import CpuTarget
from ..errors import TuningError
from ..runtime.cpu import this_cpu_model
from ..runtime.thread_counts import check_num_threads
from ..tuning_database.lookup import code_of
from ..tuning_database.records import SECONDS, TunedMachine
from .build_candidate import CandidateBuild
from .compare_networks import time_locally
from .measure_candidate import Measurement, measure_locally
from .runner import Turns
from .worker_process import in_process


class LocalRunner:
    """Measures on this machine, in another process: a candidate that crashes or hangs ends only that process."""

    unit, parallel = SECONDS, 1

    def __init__(self, threads: int = 1) -> None:
        """Use ``threads`` threads for each kernel."""
        self.threads = check_num_threads(threads)
        self._worker = PopenWorker()

    def machine(self, target: CpuTarget) -> TunedMachine:
        """This machine."""
        if not target.native:
            estimate = (
                ', or estimate it by counting instructions (runner="estimated")'
                if target.machine in ("aarch64", "arm")
                else ""
            )
            raise TuningError(
                f"code for {target} ({target.triple}) does not run on this machine: "
                f'tune it on such a machine (runner="rpc://HOST:PORT/KEY"){estimate}'
            )
        model = this_cpu_model()
        return TunedMachine(model.name, model.caches, target.isa.name, code_of(target), self.threads)

    def measure(self, reference: CandidateBuild, candidate: CandidateBuild, seconds: float) -> Measurement:
        """Same as in Runner."""
        return in_process(self._worker, measure_locally, (reference, candidate, seconds, self.threads), seconds)

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """Same as in Runner."""
        return in_process(self._worker, time_locally, (libraries, inputs, seconds, self.threads), 4 * seconds)

    def close(self) -> None:
        """End the process."""
        self._worker.kill()
