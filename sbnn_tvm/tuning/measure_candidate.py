"""Time two programs against each other, on this machine or through an RPC session."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tvm

from ..profiling.timing import BURST, Burst, interleave_bursts
from .build_candidate import Program

_SAMPLE = 2e-4
"""Seconds of a sample, about: a call, or the mean of several short ones."""

_STEADY = 0.03
"""How far the two fastest turns may be apart, relatively, for the fastest one to count as no accident."""

_ATTEMPTS = 4


@dataclass(frozen=True)
class Measurement:
    """What two programs cost.

    Attributes:
        cost: Of the candidate: the sum over its kernels of their fastest samples.
        reference_cost: Of the reference.
        steady: Whether the fastest turns of both were reproduced.
    """

    cost: float
    reference_cost: float
    steady: bool = True


def load_program(program: Program, library: Any, device: tvm.runtime.Device) -> dict[str, Burst]:
    """The kernels of a program, each ready to be timed.

    Args:
        program: What the kernels take.
        library: The program's library as a runtime module, here or on another machine.
        device: Where it is.
    """
    bursts: dict[str, Burst] = {}
    for function in program.functions:
        tensors = [tvm.runtime.tensor(array, device) for array in program.arrays(function)]
        bursts[function.name] = burst_of(library, function.name, tensors, device)
    return bursts


def burst_of(library: Any, name: str, tensors: Sequence[Any], device: tvm.runtime.Device) -> Burst:
    """A function of a library, ready to be timed on its arguments."""
    first = library.time_evaluator(name, device, number=1, repeat=2)(*tensors)
    call = max(min(first.results), 1e-8)
    number = max(1, round(_SAMPLE / call))
    repeat = max(2, round(BURST / 2 / (number * call)))
    # Each turn begins with a call that is not counted: it brings back what the others drove out of the caches.
    evaluate = library.time_evaluator(name, device, number=number, repeat=repeat)
    return lambda: evaluate(*tensors).results


def compare(reference: Mapping[str, Burst], candidate: Mapping[str, Burst], seconds: float) -> Measurement:
    """Let two programs take turns until the fastest times of both were seen more than once, or time is up.

    Args:
        reference: Kernels of one, from ``load_program``.
        candidate: Kernels of the other.
        seconds: To measure, about; up to four times as long where the times are not steady.
    """
    both = {f"reference {name}": burst for name, burst in reference.items()}
    both |= {f"candidate {name}": burst for name, burst in candidate.items()}
    rounds: dict[str, list[float]] = {name: [] for name in both}
    for _ in range(_ATTEMPTS):
        for name, bursts in interleave_bursts(both, seconds).items():
            rounds[name] += [min(burst) for burst in bursts]
        if all(map(_reproduced, rounds.values())):
            break
    cost, reference_cost = (
        sum(min(rounds[name]) for name in rounds if name.startswith(side)) for side in ("candidate", "reference")
    )
    return Measurement(cost, reference_cost, all(map(_reproduced, rounds.values())))


def _reproduced(turns: Sequence[float]) -> bool:
    fastest, second = sorted(turns)[:2]
    return second <= fastest * (1 + _STEADY)


def measure_locally(reference: Program, candidate: Program, seconds: float, threads: int) -> Measurement:
    """Compare two programs in this process: it is what the process of a LocalRunner runs."""
    import tvm_ffi

    from ..runtime.threads import use_threads

    use_threads(tvm_ffi, threads)
    loaded = [load_program(each, tvm.runtime.load_module(each.library), tvm.cpu()) for each in (reference, candidate)]
    return compare(loaded[0], loaded[1], seconds)


def measure_remotely(
    session: Any, configure: Callable[[], None], reference: Program, candidate: Program, seconds: float
) -> Measurement:
    """Compare two programs on the machine of an RPC session."""
    configure()
    device, loaded = session.cpu(), []
    for i, program in enumerate((reference, candidate)):
        name = f"program{i}.so"
        session.upload(program.library, name)
        loaded.append(load_program(program, session.load_module(name), device))
    return compare(loaded[0], loaded[1], seconds)
