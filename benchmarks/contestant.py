"""Ways to compute a chain of layers, and their time per layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sbnn_tvm.profiling.timing import interleave


@dataclass(frozen=True, eq=False)
class Contestant:
    """One way to compute a chain.

    Attributes:
        run: Computes the chain once.
        links: Number of layers in the chain.
        first: Computes a chain of the first layer alone, or None. Its time is subtracted from the time of the whole
            chain. The rest is the time of the layers after the first, without the cost of a call and without the
            conversions at both ends of the chain.
    """

    run: Callable[[], object]
    links: int = 1
    first: Callable[[], object] | None = None


def seconds_a_layer(contestants: Mapping[str, Contestant], seconds: float) -> dict[str, float]:
    """Time contestants in turns; the fastest run of each counts.

    Args:
        contestants: By name.
        seconds: Time to measure all of them together, about.

    Returns:
        Seconds per layer of each contestant: with ``first``, (chain - first) / (links - 1), else chain / links.
    """
    chains = {name: contestant.run for name, contestant in contestants.items()}
    firsts = {f"{name}, first": each.first for name, each in contestants.items() if each.first is not None}
    times = interleave(chains | firsts, seconds)
    result = {}
    for name, contestant in contestants.items():
        if contestant.first is None:
            result[name] = times[name].minimum / contestant.links
        else:
            result[name] = (times[name].minimum - times[f"{name}, first"].minimum) / (contestant.links - 1)
    return result
