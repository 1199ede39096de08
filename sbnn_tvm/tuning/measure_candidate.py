"""Time a candidate in turns with a reference, on this machine or through an RPC session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from ..profiling.timing import BURST, Burst, interleave_bursts
from .build_candidate import CandidateBuild

_SAMPLE = 2e-4
"""Approximate seconds of a sample: one call, or the mean of several short ones."""

_STEADY = 0.03
"""Largest relative difference of the two fastest turns for which the fastest one counts as reproduced."""

_ATTEMPTS = 4


@dataclass(frozen=True)
class Measurement:
    """The costs of a candidate and of its reference.

    Attributes:
        cost: Cost of the candidate: the sum over its kernels of their fastest samples.
        reference_cost: Cost of the reference.
        steady: Whether the fastest turns of both were reproduced.
    """

    cost: float
    reference_cost: float
    steady: bool = True


def load_candidate(build: CandidateBuild, library: Any, device: tvm.runtime.Device) -> dict[str, Burst]:
    """Load the kernels of a candidate, ready to be timed.

    Args:
        build: The candidate.
        library: Its library as a runtime module, here or on another machine.
        device: The device of that module.
    """
    bursts: dict[str, Burst] = {}
    for kernel in build.kernels:
        tensors = [tvm.runtime.tensor(array, device) for array in build.arrays(kernel)]
        bursts[kernel.name] = burst_of(library, kernel.name, tensors, device)
    return bursts


def burst_of(library: Any, name: str, tensors: Sequence[Any], device: tvm.runtime.Device) -> Burst:
    """A function of a library, ready to be timed on its arguments."""
    first = library.time_evaluator(name, device, number=1, repeat=2)(*tensors)
    call = max(min(first.results), 1e-8)
    number = max(1, round(_SAMPLE / call))
    repeat = max(2, round(BURST / 2 / (number * call)))
    # Each turn begins with a call that is not counted: it reloads the caches, which the other functions evicted.
    evaluate = library.time_evaluator(name, device, number=number, repeat=repeat)
    return lambda: evaluate(*tensors).results


def compare(reference: Mapping[str, Burst], candidate: Mapping[str, Burst], seconds: float) -> Measurement:
    """Run two candidates in turns until the fastest times of both were reproduced, or time is up.

    Args:
        reference: Kernels of one, from ``load_candidate``.
        candidate: Kernels of the other.
        seconds: Approximate time to measure; up to four times as long if the times are not steady.
    """
    both = {f"reference {name}": burst for name, burst in reference.items()}
    both |= {f"candidate {name}": burst for name, burst in candidate.items()}
    rounds: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(_ATTEMPTS):
        for name, bursts in interleave_bursts(both, seconds).items():
            rounds[name] += [min(burst) for burst in bursts]
        if all(map(_reproduced, rounds.values())):
            break
    cost = sum(min(rounds[f"candidate {name}"]) for name in candidate)
    reference_cost = sum(min(rounds[f"reference {name}"]) for name in reference)
    return Measurement(cost, reference_cost, all(map(_reproduced, rounds.values())))


def _reproduced(turns: Sequence[float]) -> bool:
    fastest, second = sorted(turns)[:2]
    return second <= fastest * (1 + _STEADY)


def measure_locally(reference: CandidateBuild, candidate: CandidateBuild, seconds: float, threads: int) -> Measurement:
    """Compare two candidates in this process; LocalRunner calls it in its worker process."""
    from ..runtime.threads import use_threads

    use_threads(threads)
    loaded = [load_candidate(each, tvm.runtime.load_module(each.library), tvm.cpu()) for each in (reference, candidate)]
    return compare(loaded[0], loaded[1], seconds)


def measure_remotely(
    session: Any,
    configure: Callable[[], None],
    reference: CandidateBuild,
    candidate: CandidateBuild,
    seconds: float,
) -> Measurement:
    """Compare two candidates on the machine of an RPC session."""
    configure()
    device, loaded = session.cpu(), []
    for i, build in enumerate((reference, candidate)):
        name = f"candidate{i}.so"
        session.upload(build.library, name)
        loaded.append(load_candidate(build, session.load_module(name), device))
    return compare(loaded[0], loaded[1], seconds)
