"""Random kernels for CPUs that TVM's runtime does not run on: as C functions, in an emulator, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.deploy.targets import resolve
from tests.support.bare_execution import run_all

from . import kernels


@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m55", "riscv64", "wasm"])
def test_random_kernels(target: str) -> None:
    check(target, range(14))


@pytest.mark.slow
@pytest.mark.parametrize("target", ["cortex-m4", "cortex-m7", "cortex-m55", "riscv64", "riscv64-v", "wasm"])
@pytest.mark.parametrize("first", range(100, 160, 12))
def test_more_random_kernels(target: str, first: int) -> None:
    check(target, range(first, first + 12))


def check(name: str, seeds: range) -> None:
    """Build kernels from seeds, run them in one program, and compare."""
    target, made = resolve(name), []
    for seed in seeds:
        draw = kernels.Draw(seed)
        with kernels.threads(1):
            made.append((seed, draw, draw.choose(*kernels.FAMILIES)(draw, target)))
    results = run_all([(random.kernel, random.arrays) for _, _, random in made], target)
    for (seed, draw, random), outputs in zip(made, results, strict=True):
        decisions = ", ".join(getattr(each, "__name__", str(each)) for each in draw.made)
        for output, expected in zip(outputs, random.expected, strict=True):
            tolerance, message = random.tolerance, f"kernel {seed} for {name} ({decisions})"
            np.testing.assert_allclose(output, expected, rtol=tolerance, atol=tolerance, err_msg=message)
