"""Claims of the method examples: means over seeds with their standard errors, and a check that ends the example."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

SEEDS = 5


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error; prints as ``91.7 +- 0.4``."""

    value: float
    error: float

    @staticmethod
    def of(values: Iterable[float]) -> Mean:
        """From one value per seed."""
        array = np.array(list(values))
        error = float(array.std(ddof=1) / math.sqrt(len(array))) if len(array) > 1 else math.nan
        return Mean(float(array.mean()), error)

    def __str__(self) -> str:
        return f"{self.value:.1f} +- {self.error:.1f}"


def over_seeds(run: Callable[[int], float], seeds: int = SEEDS) -> Mean:
    """The mean of ``run`` over the seeds 0, 1, ...; ``run`` seeds its model itself."""
    return Mean.of(run(seed) for seed in range(seeds))


def check(holds: bool, claim: str) -> None:
    """Print that a claim holds, or end the example.

    Raises:
        SystemExit: If it does not hold.
    """
    if not holds:
        raise SystemExit(f"FAILED {claim}")
    print(f"ok {claim}")
