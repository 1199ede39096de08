"""Count the instructions of candidates in an emulator, for ARM targets without hardware."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tvm.support.popen_pool import PopenWorker

from ..deploy.targets import CpuTarget
from ..errors import TuningError
from ..tuning_database.lookup import code_of
from ..tuning_database.records import INSTRUCTIONS, TunedMachine
from .build_candidate import CandidateBuild
from .measure_candidate import Measurement
from .runner import MeasurementError, Turns
from .worker_process import in_process

_EMULATION_SECONDS = 300.0
"""Time for one candidate in the emulator, before ``TIMEOUT`` is added."""


class EstimatedRunner:
    """Counts instructions in an emulator.

    An instruction count does not include latencies and cache misses. Records and reports call it an estimate.
    """

    unit, parallel = INSTRUCTIONS, 1

    def __init__(self) -> None:
        self._worker = PopenWorker()
        self._features: frozenset[str] = frozenset()

    def machine(self, target: CpuTarget) -> TunedMachine:
        """A machine that stands for the emulator."""
        if target.machine not in ("aarch64", "arm"):
            raise TuningError(f"instructions are counted for ARM targets, and {target} is for {target.machine}")
        self._features = target.features
        return TunedMachine("estimated (instructions)", (), target.isa.name, code_of(target), 1)

    def measure(self, reference: CandidateBuild, candidate: CandidateBuild, seconds: float) -> Measurement:
        """Same as in Runner. Counts are exact, so ``seconds`` is ignored."""
        cost, reference_cost = (
            in_process(self._worker, count_instructions, (build, self._features), _EMULATION_SECONDS)
            for build in (candidate, reference)
        )
        return Measurement(cost, reference_cost)

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """Networks are not run: the count of a network is the sum over its kernels."""
        raise MeasurementError("instructions are counted, and add up")

    def close(self) -> None:
        """End the process."""
        self._worker.kill()


_counted: dict[CandidateBuild, int] = {}


def count_instructions(build: CandidateBuild, features: frozenset[str]) -> int:
    """Instructions of all kernels of a candidate, on one thread."""
    from ..execution.emulator import Emulator

    if build not in _counted:
        emulator = Emulator.from_kernels(build.library, features)
        counts = (emulator.instructions(each.name, build.arrays(each)) for each in build.kernels)
        _counted[build] = sum(counts)
    return _counted[build]
