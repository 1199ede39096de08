"""Time functions in turns, on a machine that other programs may use at the same time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

BURST = 0.02
"""Seconds of one function's turn: long enough to fill the caches with its own data."""


@dataclass(frozen=True)
class Timing:
    """The times of the calls of one function.

    Attributes:
        minimum: Seconds of the fastest call: the time on an otherwise idle machine.
        median: Median of the seconds of a call.
        runs: Number of timed calls.
    """

    minimum: float
    median: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """Summarise the seconds of single calls."""
        return cls(min(seconds), statistics.median(seconds), len(seconds))


class Burst(Protocol):
    """One turn of a function."""

    def __call__(self) -> Sequence[float]:
        """Seconds of each of its calls, about ``BURST`` together."""


def interleave(functions: Mapping[str, Callable[[], object]], seconds: float = 5.0) -> dict[str, Timing]:
    """Time functions in turns, so that noise and changes of the clock frequency affect all of them equally.

    In each round every function has one burst. Its first call is not counted: it reloads the data that other functions
    evicted from the caches. The following calls are timed one by one. There are at least three rounds.

    Args:
        functions: The functions, by name.
        seconds: Approximate time for all of them together.

    Returns:
        The timing of each function, by name.

    Example::

        times = interleave({"ours": lambda: model.run(x), "theirs": lambda: session.run(None, {"x": x})})
        print(times["theirs"].minimum / times["ours"].minimum)
    """
    rounds = interleave_bursts({name: partial(burst, function) for name, function in functions.items()}, seconds)
    return {name: Timing.of([call for turn in turns for call in turn]) for name, turns in rounds.items()}


def interleave_bursts(bursts: Mapping[str, Burst], seconds: float) -> dict[str, list[Sequence[float]]]:
    """Run functions in turns that time their own calls, for example on another machine.

    Args:
        bursts: The functions, by name.
        seconds: Approximate time for all of them together; each has at least three turns.

    Returns:
        For each function, by name, the result of each of its turns.
    """
    rounds: dict[str, list[Sequence[float]]] = {name: [] for name in bursts}
    end = time.perf_counter() + seconds
    while len(next(iter(rounds.values()))) < 3 or time.perf_counter() < end:
        for name, turn in bursts.items():
            rounds[name].append(turn())
    return rounds


def burst(function: Callable[[], object]) -> list[float]:
    """One turn of a function: the seconds of its calls without the first, about ``BURST`` together."""
    function()
    calls = []
    burst_end = time.perf_counter() + BURST
    while True:
        begin = time.perf_counter()
        function()
        done = time.perf_counter()
        calls.append(done - begin)
        if done >= burst_end:
            return calls
