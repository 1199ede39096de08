"""The emulator: exact results, exact counts, and clear words for a kernel that does what it must not."""

import numpy as np
import pytest
from tvm.ir import IRModule
from tvm.script import tirx as T

from sbnn_tvm.deploy import linking, targets
from sbnn_tvm.errors import TargetError
from sbnn_tvm.execution.emulator import EmulationError, Emulator
from tests.support import tiny_model

ROWS, COLUMNS, N = 17, 64, 1000


@T.prim_func(s_tir=True)
def popcount(
    a: T.Buffer((ROWS, COLUMNS), "uint16"), b: T.Buffer((ROWS, COLUMNS), "uint16"), c: T.Buffer((ROWS,), "int32")
):
    """A parallel loop."""
    for i in T.parallel(ROWS):
        with T.sblock("row"):
            row = T.axis.spatial(ROWS, i)
            c[row] = 0
            for k in range(COLUMNS):
                c[row] = c[row] + T.Cast("int32", T.popcount(a[row, k] ^ b[row, k]))


@T.prim_func(s_tir=True)
def reverse(a: T.Buffer((N,), "float32"), c: T.Buffer((N,), "float32")):
    """Two workspaces, both of them local buffers."""
    doubled = T.sblock_alloc_buffer((N,), "float32", scope="local")
    shifted = T.sblock_alloc_buffer((N,), "float32", scope="local")
    for i in range(N):
        with T.sblock("double"):
            v = T.axis.spatial(N, i)
            doubled[v] = a[v] * T.float32(2)
    for i in range(N):
        with T.sblock("shift"):
            v = T.axis.spatial(N, i)
            shifted[v] = doubled[N - 1 - v] - T.float32(0.1)
    for i in range(N):
        with T.sblock("store"):
            v = T.axis.spatial(N, i)
            c[v] = shifted[v] + doubled[v]


@T.prim_func(s_tir=True)
def exponential(a: T.Buffer((N,), "float32"), c: T.Buffer((N,), "float32")):
    """A function of the mathematical library."""
    for i in range(N):
        with T.sblock("exp"):
            v = T.axis.spatial(N, i)
            c[v] = T.exp(a[v])


@T.prim_func(s_tir=True)
def clear(c: T.Buffer((N,), "float32")):
    """LLVM makes it a call of memset."""
    for i in range(N):
        with T.sblock("clear"):
            v = T.axis.spatial(N, i)
            c[v] = T.float32(0)


@T.prim_func(s_tir=True)
def overrun(a: T.Buffer((N,), "float32"), c: T.Buffer((N,), "float32")):
    """Reads beyond its first argument."""
    for i in range(N):
        with T.sblock("overrun"):
            v = T.axis.spatial(N, i)
            c[v] = a[v + 100]


@T.prim_func(s_tir=True)
def underrun(a: T.Buffer((N,), "float32"), c: T.Buffer((N,), "float32")):
    """Writes before its second argument."""
    for i in range(N):
        with T.sblock("underrun"):
            v = T.axis.spatial(N, i)
            c[v - 5000] = a[v]


@T.prim_func(s_tir=True)
def foreign(a: T.Buffer((N,), "float32"), c: T.Buffer((N,), "float32")):
    """Calls what is not emulated."""
    for i in range(N):
        with T.sblock("foreign"):
            v = T.axis.spatial(N, i)
            c[v] = T.call_pure_extern("float32", "__aeabi_nonsense", a[v])


def module(**functions):
    return IRModule(functions)


@pytest.fixture(scope="module", params=["arm", "armv7"])
def emulator(request):
    kernels = module(
        popcount=popcount,
        reverse=reverse,
        exponential=exponential,
        clear=clear,
        overrun=overrun,
        underrun=underrun,
        foreign=foreign,
    )
    return Emulator(kernels, targets.resolve(request.param), num_tasks=3)


def floats(seed=0):
    return np.random.default_rng(seed).standard_normal(N).astype(np.float32)


def test_parallel(emulator, rng):
    a, b = (rng.integers(0, 2**16, (ROWS, COLUMNS), np.uint16) for _ in range(2))
    c = np.full(ROWS, -1, np.int32)
    emulator.run("popcount", [a, b, c])
    np.testing.assert_array_equal(c, np.bitwise_count(a ^ b).sum(axis=1, dtype=np.int32))


def test_workspaces(emulator):
    for seed in range(3):
        a, c = floats(seed), np.zeros(N, np.float32)
        emulator.run("reverse", [a, c])
        doubled = a * np.float32(2)
        np.testing.assert_array_equal(c, (doubled[::-1] - np.float32(0.1)) + doubled)


def test_mathematics(emulator):
    a, c = floats(), np.zeros(N, np.float32)
    emulator.run("exponential", [a, c])
    np.testing.assert_allclose(c, np.exp(a), rtol=2e-7)


def test_memset(emulator):
    c = floats()
    emulator.run("clear", [c])
    assert not c.any()


def test_read_only_arguments_are_left_alone(emulator):
    a, c = floats(), np.zeros(N, np.float32)
    a.setflags(write=False)
    emulator.run("exponential", [a, c])
    np.testing.assert_array_equal(a, floats())
    assert c.all()


def test_kernels_and_counts(emulator):
    assert set(emulator.kernels) >= {"popcount", "reverse", "exponential", "overrun"}
    a, c = floats(), np.zeros(N, np.float32)
    count = emulator.instructions("reverse", [a, c])
    assert c.any()
    assert count == emulator.instructions("reverse", [a, c])
    assert N < count < 100 * N
    # What the imported function does is not counted, but calling it is.
    assert N < emulator.instructions("exponential", [a, c]) < 50 * N


def test_outside_of_its_memory(emulator):
    a, c = floats(), np.zeros(N, np.float32)
    after = r"kernel 'overrun' reads \d+ bytes \d+ bytes after the end of argument 0 \(float32\[1000\]\), at \+0x"
    with pytest.raises(EmulationError, match=after):
        emulator.run("overrun", [a, c])
    with pytest.raises(EmulationError, match=r"'underrun' writes \d+ bytes \d+ bytes before argument 1 \(float32"):
        emulator.run("underrun", [a, c])
    emulator.run("exponential", [a, c])  # it still works
    np.testing.assert_allclose(c, np.exp(a), rtol=2e-7)


def test_refused_arguments(emulator):
    a, c = floats(), np.zeros(N, np.float32)
    for arrays, message in [
        ([a[:999].copy(), c], r"kernel 'exponential' failed: ValueError: Invalid a.shape\[0\] on argument #0"),
        ([a.view(np.int32), c], r"kernel 'exponential' failed: TypeError: Mismatched a.dtype"),
        ([a], r"kernel 'exponential' failed: TypeError: Expected 2 arguments"),
        ([a, c[::-1]], "argument 1 of kernel 'exponential' is not C-contiguous"),
    ]:
        with pytest.raises(EmulationError, match=message):
            emulator.run("exponential", arrays)
    with pytest.raises(EmulationError, match=r"there is no kernel 'log': the library has .*exponential"):
        emulator.run("log", [a, c])


def test_unknown_import(emulator):
    with pytest.raises(EmulationError, match="kernel 'foreign' cannot be emulated: it calls __aeabi_nonsense"):
        emulator.run("foreign", [floats(), np.zeros(N, np.float32)])


def test_no_room():
    emulator = Emulator(module(clear=clear), targets.resolve("armv7"))
    with pytest.raises(EmulationError, match=r"'clear' cannot be emulated: argument 0 .* only has room for 33554432"):
        emulator.run("clear", [np.zeros(1 << 26, np.uint8)])


@T.prim_func(s_tir=True)
def dot(a: T.Buffer((16,), "uint8"), b: T.Buffer((16,), "uint8"), c: T.Buffer((4,), "uint32")):
    """One instruction of the dot product extension."""
    with T.sblock("dot"):
        T.reads()
        T.writes()
        c[T.Ramp(0, 1, 4)] = T.call_llvm_pure_intrin(
            "uint32x4",
            "llvm.aarch64.neon.udot",
            T.Broadcast(T.uint32(0), 4),
            a[T.Ramp(0, 1, 16)],
            b[T.Ramp(0, 1, 16)],
        )


def test_an_instruction_that_the_cpu_does_not_have():
    a, b = np.arange(16, dtype=np.uint8), np.arange(1, 17, dtype=np.uint8)
    c = np.zeros(4, np.uint32)
    target = targets.resolve("neoverse-n1")
    emulator = Emulator(module(dot=dot), target)
    assert emulator.cpu == "max"
    emulator.run("dot", [a, b, c])
    np.testing.assert_array_equal(c, (a.astype(np.uint32) * b).reshape(4, 4).sum(axis=1))
    old = Emulator(module(dot=dot), target, cpu="a72")
    with pytest.raises(EmulationError, match="kernel 'dot' uses an instruction that the a72 does not have"):
        old.run("dot", [a, b, c])


def test_the_library_of_a_whole_model(tmp_path, rng):
    target = targets.resolve("arm")
    path = tmp_path / "model.so"
    linking.write_library(tiny_model.build(target), path, target, tiny_model.metadata(target))
    x, y = (rng.standard_normal((tiny_model.ROWS, tiny_model.COLUMNS)).astype(np.float32) for _ in range(2))
    total = np.zeros_like(x)
    Emulator.from_library(path).run("add", [x, y, total])
    np.testing.assert_allclose(total, np.exp(x) + y, rtol=1e-6, atol=1e-6)


def test_what_cannot_be_emulated(tmp_path):
    path = tmp_path / "model.so"
    target = targets.resolve("x86-64-v3")
    linking.write_library(tiny_model.build(target), path, target, tiny_model.metadata(target))
    with pytest.raises(TargetError, match=r"model.so is for x86_64, but only aarch64 and arm can be emulated"):
        Emulator.from_library(path)
    with pytest.raises(TargetError, match="x86-64-v3 is for x86_64, but only aarch64 and arm can be emulated"):
        Emulator(module(clear=clear), target)
    with pytest.raises(TargetError, match="unknown CPU 'm1' to emulate: for aarch64 there are a53, a57, a72, max"):
        Emulator(module(clear=clear), targets.resolve("arm"), cpu="m1")
