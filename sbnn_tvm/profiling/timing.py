"""Time functions against each other on a machine that others may be using too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

BURST = 0.02
"""Seconds that one function runs before the next has its turn: long enough to fill the caches with its own data."""


@dataclass(frozen=True)
class Timing:
    """How long the calls of one function took.

    Attributes:
        minimum: Seconds of the fastest call: what the machine can do when nobody disturbs it.
        median: Seconds of the call in the middle.
        runs: How many calls were timed.
    """

    minimum: float
    median: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Timing:
        """The timing of single calls."""
        return cls(min(seconds), statistics.median(seconds), len(seconds))


class Burst(Protocol):
    """One turn of a function."""

    def __call__(self) -> Sequence[float]:
        """Seconds of each of its calls, about ``BURST`` together."""


def interleave(functions: Mapping[str, Callable[[], object]], seconds: float = 5.0) -> dict[str, Timing]:
    """Time functions in turn, so that noise and changes of the clock frequency meet all of them alike.

    In each round every function has one burst: a call that is not counted, which brings back what the others drove out
    of the caches, then calls that are timed one by one. Every function has three rounds at least, however slow it is.

    Args:
        functions: What to time, by name.
        seconds: For all of them together, about.

    Returns:
        The timing of each, under its name.

    Example::

        times = interleave({"ours": lambda: model.run(x), "theirs": lambda: session.run(None, {"x": x})})
        print(times["theirs"].minimum / times["ours"].minimum)
    """
    rounds = interleave_bursts({name: partial(burst, function) for name, function in functions.items()}, seconds)
    return {name: Timing.of([call for turn in turns for call in turn]) for name, turns in rounds.items()}


def interleave_bursts(bursts: Mapping[str, Burst], seconds: float) -> dict[str, list[Sequence[float]]]:
    """Let functions take turns, where each times its own calls (on another machine, say).

    Args:
        bursts: The functions, by name.
        seconds: For all of them together, about; each has three turns at least.

    Returns:
        What each turn of each function returned.
    """
    rounds: dict[str, list[Sequence[float]]] = {name: [] for name in bursts}
    end = time.perf_counter() + seconds
    while len(next(iter(rounds.values()))) < 3 or time.perf_counter() < end:
        for name, turn in bursts.items():
            rounds[name].append(turn())
    return rounds


def burst(function: Callable[[], object]) -> list[float]:
    """One turn of a function: the seconds of its calls but the first, about ``BURST`` together."""
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
