"""The protocol of runners, which measure candidates on some machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from ..deploy.targets import CpuTarget
from ..errors import SbnnError
from ..tuning_database.records import TunedMachine
from .build_candidate import CandidateBuild
from .measure_candidate import Measurement

Turns = dict[str, list[Sequence[float]]]
"""For each library, by name: the seconds of its runs in each turn."""


class MeasurementError(SbnnError):
    """A candidate crashed, hung, or could not be run."""


class Runner(Protocol):
    """Measures candidates.

    Attributes:
        unit: Unit of the costs: ``"seconds"`` or ``"instructions"``.
        parallel: Largest number of measurements at once.
    """

    unit: str
    parallel: int

    def machine(self, target: CpuTarget) -> TunedMachine:
        """The machine that the measurements for a target are valid for.

        Raises:
            TuningError: If code for the target does not run there.
        """

    def measure(self, reference: CandidateBuild, candidate: CandidateBuild, seconds: float) -> Measurement:
        """Measure a candidate in turns with a reference.

        Raises:
            MeasurementError: If one of them cannot be measured.
        """

    def time_networks(self, libraries: Mapping[str, Path], inputs: Sequence[np.ndarray], seconds: float) -> Turns:
        """Run compiled models in turns.

        Args:
            libraries: The models, by name.
            inputs: Inputs that all of them take.
            seconds: Approximate time for all of them together.

        Raises:
            MeasurementError: If they cannot be run.
        """

    def close(self) -> None:
        """Release processes and connections."""
