"""Ways to compute a chain of layers, and how long a layer takes each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sbnn_tvm.profiling.timing import interleave


@dataclass(frozen=True, eq=False)
class Contestant:
    """One way to compute a chain.

    Attributes:
        run: Computes the chain once.
        links: Layers of the chain.
        first: Computes a chain of the first layer alone. Its time is taken off: what is left is that of the layers
            behind it, without what every call costs and without conversions at the ends of the chain.
    """

    run: Callable[[], object]
    links: int = 1
    first: Callable[[], object] | None = None


def seconds_a_layer(contestants: Mapping[str, Contestant], seconds: float) -> dict[str, float]:
    """Time contestants in turn, ``seconds`` for all of them; of each the fastest run counts, scaled to one layer."""
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
