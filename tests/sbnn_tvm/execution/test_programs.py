"""Programs outside this process: the library itself, and its kernels one by one, for every kind of target."""

from __future__ import annotations

import numpy as np
import pytest
from tvm.ir import IRModule
from tvm.script import tirx as T

import sbnn_tvm
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.errors import EmulationError, TargetError
from sbnn_tvm.execution import programs
from sbnn_tvm.execution.kernel_program import KernelProgram
from sbnn_tvm.execution.run_kernels import outputs_of, run_kernels
from sbnn_tvm.passes.lowering.raw_kernels import raw_kernels
from tests.support.small_models import small_model

TARGETS = [
    *("arm", "wasm", "cortex-m4"),
    *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in ("native", "armv7", "riscv64", "riscv64-v", "cortex-m7", "cortex-m55")
    ),
]


@pytest.fixture(scope="module")
def model():
    """A float stem, a binary layer with padding, a pooling, a float head."""
    rng = np.random.default_rng(0)
    text = (
        "s = Conv<pads=[1,1,1,1]>(x, v)\nc = Greater(s, t)\nb = Where(c, hi, lo)\nd = Conv<pads=[1,1,1,1]>(b, w)\n"
        "m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(d)\nf = Flatten(m)\ny = MatMul(f, h)"
    )
    constants = {"v": rng.standard_normal((40, 2, 3, 3)), "t": 0.1, "hi": 1.0, "lo": -1.0}
    constants |= {"w": rng.choice([-1.0, 1.0], (24, 40, 3, 3)), "h": rng.standard_normal((24 * 9, 3))}
    return small_model(text, {"x": (1, 2, 6, 6)}, constants)


@pytest.mark.parametrize("name", TARGETS)
def test_a_library_is_verified_where_it_runs(name, model):
    target = resolve(name)
    if reason := programs.why_not(target):
        pytest.skip(reason)
    module = sbnn_tvm.compile(model, target=name)
    verification = module.verify(samples=2)
    assert verification.passed and len(verification.layers) > 1
    assert programs.how(target) in verification.method
    assert verification.outputs[0].max_rel < 1e-6
    x = np.random.default_rng(1).standard_normal((1, 2, 6, 6)).astype(np.float32)
    kernels = KernelProgram(module._kernels, target)
    one_by_one = outputs_of(run_kernels(module.lowered, kernels, (x, *module.constants)))
    np.testing.assert_array_equal(module.program.run(x)[0], one_by_one[0])


def test_a_kernel_that_fails_and_arguments_that_do_not_fit(model):
    target = resolve("native")
    if reason := programs.why_not(target):
        pytest.skip(reason)
    module = sbnn_tvm.compile(model)
    kernels = KernelProgram(module._kernels, target)
    name, signature = next(iter(module._kernels.signatures.items()))
    with pytest.raises(EmulationError, match="argument 0 must be"):
        kernels.run(name, [np.zeros(1, np.uint8)] * len(signature.shapes))
    kernels._process._process.kill()
    arrays = [np.zeros([n if isinstance(n, int) else 1 for n in s], d) for s, d in zip(*_parts(signature), strict=True)]
    with pytest.raises(EmulationError, match=r"the kernels for native in program failed: ended by SIGKILL"):
        kernels.run(name, arrays)


def _parts(signature):
    return signature.shapes, signature.dtypes


@T.prim_func(s_tir=True)
def beyond(a: T.Buffer((100,), "float32"), c: T.Buffer((100,), "float32")):
    """Writes beyond its second argument."""
    for i in range(100):
        with T.sblock("beyond"):
            v = T.axis.spatial(100, i)
            c[v + 8] = a[v]


def test_a_kernel_that_writes_beyond_its_arguments():
    target = resolve("native")
    if reason := programs.why_not(target):
        pytest.skip(reason)
    mod = IRModule({"beyond": beyond.with_attr("global_symbol", "beyond")})
    kernels = KernelProgram(raw_kernels(mod, target.target, "net_"), target)
    with pytest.raises(EmulationError, match="kernel 'beyond' writes beyond the end of argument 1"):
        kernels.run("beyond", [np.ones(100, np.float32), np.zeros(100, np.float32)])


def test_what_cannot_run_says_why(model, monkeypatch):
    with pytest.raises(TargetError, match="can be neither run nor emulated here: there is no emulator for macOS"):
        sbnn_tvm.compile(model, target="aarch64-apple-macos").verify()
    monkeypatch.setattr(programs.shutil, "which", lambda name: None)
    assert programs.why_not(resolve("arm")) == "the emulator qemu-aarch64 is not installed (Debian: qemu-user)"
    verification = sbnn_tvm.compile(model, target="arm").verify(samples=1)
    assert "kernels run in an emulator (unicorn), the library not run since the emulator qemu" in verification.method
