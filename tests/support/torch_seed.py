"""Random numbers of torch with a fixed seed, for what several tests or several calls share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def fixed_seed(seed: int = 0) -> Iterator[None]:
    """Seed torch's generator inside; outside, it goes on as if nothing had been drawn."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
