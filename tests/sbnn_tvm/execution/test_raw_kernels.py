"""Kernels as plain C functions: called one by one, here and in the emulator."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.ir import IRModule
from tvm.script import tirx as T

from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.errors import EmulationError
from sbnn_tvm.execution.emulator import Emulator
from sbnn_tvm.execution.native_kernels import NativeKernels
from sbnn_tvm.passes.lowering.raw_kernels import Workspace, raw_kernels
from tests.sbnn_tvm.execution.test_emulator import COLUMNS, ROWS, N, popcount, reverse

A, B = 7, 5


@T.prim_func(s_tir=True)
def outer(
    a: T.Buffer((A,), "float32"),
    b: T.Buffer((B,), "float32"),
    c: T.Buffer((3,), "int32"),
    d: T.Buffer((1,), "int64"),
    out: T.Buffer((A, B), "float32"),
):
    """More pointers than an ARM has registers for arguments."""
    for i, j in T.grid(A, B):
        with T.sblock("outer"):
            u, v = T.axis.remap("SS", [i, j])
            out[u, v] = a[u] * b[v] + T.Cast("float32", c[u % 3]) + T.Cast("float32", T.Cast("int32", d[0]))


@pytest.fixture(scope="module", params=["native", "arm", "armv7"])
def runner(request):
    functions = {"popcount": popcount, "reverse": reverse, "outer": outer}
    mod = IRModule({name: func.with_attr("global_symbol", name) for name, func in functions.items()})
    target = resolve(request.param)
    kernels = raw_kernels(mod, target.target, "net_")
    assert {name for name, grains in kernels.grains.items() if grains} == {"popcount"}
    assert kernels.workspaces["reverse"] == Workspace(8064, 0)  # two buffers of 4000 bytes, each aligned
    return NativeKernels(kernels, target, 3) if target.native else Emulator.from_raw_kernels(kernels, target)


def test_tasks_of_a_parallel_loop(runner, rng):
    a, b = (rng.integers(0, 2**16, (ROWS, COLUMNS), np.uint16) for _ in range(2))
    c = np.full(ROWS, -1, np.int32)
    runner.run("popcount", [a, b, c])
    np.testing.assert_array_equal(c, np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int32))


def test_workspaces(runner, rng):
    a, c = rng.standard_normal(N).astype(np.float32), np.zeros(N, np.float32)
    runner.run("reverse", [a, c])
    doubled = a * np.float32(2)
    np.testing.assert_array_equal(c, (doubled[::-1] - np.float32(0.1)) + doubled)


def test_many_arguments(runner, rng):
    a, b = (rng.standard_normal(n).astype(np.float32) for n in (A, B))
    c, d, out = np.arange(3, dtype=np.int32), np.array([40], np.int64), np.zeros((A, B), np.float32)
    runner.run("outer", [a, b, c, d, out])
    expected = a[:, None] * b + np.arange(A)[:, None] % 3 + 40
    np.testing.assert_allclose(out, expected, rtol=1e-6)


def test_refused_arguments(runner):
    a, c = np.zeros(N, np.float32), np.zeros(N, np.float32)
    for arrays, message in [
        ([a[:999], c], r"argument 0 must be float32\[1000\], but is float32\[999\]"),
        ([a.view(np.int32), c], r"argument 0 must be float32\[1000\], but is int32\[1000\]"),
        ([a], "it takes 2 arguments, but got 1"),
        ([a, c[::-1]], "argument 1 .*not C-contiguous"),
    ]:
        with pytest.raises(EmulationError, match=message):
            runner.run("reverse", arrays)
