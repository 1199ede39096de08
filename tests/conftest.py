"""Random numbers that depend on the test alone: a failure repeats in any order and with any number of workers."""

from __future__ import annotations

import sys
import zlib

import numpy as np
import pytest

pytest.register_assert_rewrite("tests.support")


def seed_of(request: pytest.FixtureRequest) -> int:
    """A seed from the name of the test, parameters included."""
    return zlib.crc32(request.node.nodeid.encode())


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """A generator with a seed of the test's own."""
    return np.random.default_rng(seed_of(request))


@pytest.fixture(autouse=True)
def _seed_torch(request: pytest.FixtureRequest) -> None:
    """Seed torch's global generator likewise, where torch is imported."""
    if (torch := sys.modules.get("torch")) is not None:
        torch.manual_seed(seed_of(request))
