"""A library for several kinds of CPU takes the build that fits, and refuses a CPU that fits none."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.deploy.c_library.cpu_needs import Need, needs_of
from sbnn_tvm.deploy.linking import find_zig
from sbnn_tvm.deploy.targets import CpuTarget, of_builds, resolve
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.runtime.cpu import FLAGS, HWCAP, MANDATORY, this_cpu
from sbnn_tvm.runtime.loading import read_metadata
from tests.support import command_line
from tests.support.binarised_models import BINARIZE, BITS
from tests.support.small_models import run_reference, small_model

SHAPE = (1, 64, 6, 6)
BUILDS = ("icelake-server", "x86-64-v3", "x86-64")
on_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="runs code for x86")


def network() -> onnx.ModelProto:
    signs = np.where(np.random.default_rng(0).random((64, 64, 3, 3)) < 0.5, 1.0, -1.0)
    text = BITS + "d = Conv<pads = [1, 1, 1, 1]>(b, w)\ny = Mul(d, half)"
    return small_model(text, {"x": SHAPE}, {**BINARIZE, "w": signs, "half": 0.37})


@pytest.fixture(scope="module")
def module() -> CompiledModule:
    return sbnn_tvm.compile(network(), target="x86", name="model")


def program(module: CompiledModule, folder: Path, compiler: Sequence[str]) -> Path:
    """A program that runs the model on its input, and says which build it took."""
    module.export(folder / "model.a", "c")
    size = int(np.prod(SHAPE))
    (folder / "main.c").write_text(
        f"""
#include <stdio.h>
#include "model.h"
static unsigned char context[MODEL_CONTEXT_BYTES];
int main(void)
{{
    static float x[{size}], y[{size}];
    const sbnn_input inputs[] = {{{{x, sizeof x}}}};
    const sbnn_output outputs[] = {{{{y, sizeof y}}}};
    const char *build = model_build();
    int code = fread(x, 1, sizeof x, stdin) != sizeof x;
    fprintf(stderr, "%s", build == NULL ? "none" : build);
    if (!code)
        code = model_init(context, sizeof context, NULL);
    if (!code)
        code = model_run(context, inputs, outputs);
    if (code)
        fprintf(stderr, ": %s", model_last_error(context));
    else
        fwrite(y, 1, sizeof y, stdout);
    return code;
}}
"""
    )
    command = [*compiler, "main.c", "model.a", "-o", "program", "-lm", "-pthread"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def run(path: Path, *emulator: str, model: onnx.ModelProto | None = None) -> tuple[int, str]:
    """The exit code and what the program of a model (``network()``) says; its outputs are checked."""
    if emulator and shutil.which(emulator[0]) is None:
        pytest.skip(f"{emulator[0]} is not installed")
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    done = subprocess.run([*emulator, str(path)], input=x.tobytes(), capture_output=True, env=os.environ)
    said = done.stderr.decode().splitlines()[-1]
    if done.returncode == 0:
        (expected,) = run_reference(model or network(), {"x": x}).values()
        got = np.frombuffer(done.stdout, np.float32).reshape(expected.shape)
        np.testing.assert_allclose(got, expected, rtol=1e-6)
    return done.returncode, said


@pytest.fixture(scope="module")
def x86_program(module: CompiledModule, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    return program(module, tmp_path_factory.mktemp("x86"), ["cc", "-O1"])


@on_x86
@pytest.mark.parametrize(
    ("cpu", "build"),
    [("qemu64", "x86_64"), ("Nehalem", "x86_64"), ("SandyBridge", "x86_64"), ("Haswell", "x86_64_v3"),
     ("Haswell,-bmi2", "x86_64"), ("Haswell,-xsave", "x86_64"), ("EPYC", "x86_64_v3")],
)  # fmt: skip
def test_the_build_for_an_x86_cpu(cpu: str, build: str, x86_program: Path) -> None:
    assert run(x86_program, "qemu-x86_64", "-cpu", cpu) == (0, build)


@on_x86
def test_the_build_for_this_cpu(module: CompiledModule, x86_program: Path) -> None:
    best = next(each for each in module.builds if each.target.native)
    assert run(x86_program) == (0, best.target.name.replace("-", "_"))
    assert module.target.single == best.target == resolve(module.target).single
    assert module.report.builds.endswith(f"builds for {', '.join(BUILDS)}; the table shows {best.target.name}")


@on_x86
def test_a_cpu_that_lacks_an_instruction(module: CompiledModule, tmp_path: Path) -> None:
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    one = program(module.builds[1], tmp_path, ["cc"])
    code, said = run(one, "qemu-x86_64", "-cpu", "Nehalem")
    assert (code, said) == (6, "none: this CPU lacks an instruction that the library needs")


@on_x86
def test_python(module: CompiledModule, tmp_path: Path) -> None:
    path = module.export(tmp_path / "model.so")
    metadata = read_metadata(path)
    assert (metadata.target, metadata.features) == ("x86", ())
    records = metadata.builds
    assert tuple(each.name for each in records) == BUILDS
    assert "avx512vpopcntdq" in records[0].features and "avx2" in records[1].features and not records[2].features
    assert all(each.code > 0 for each in records) and records[0].constants == records[0].own_constants
    assert any(each.own_constants < each.constants for each in records[1:]), "equal constants are stored once"
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    (expected,) = run_reference(network(), {"x": x}).values()
    np.testing.assert_allclose(sbnn_tvm.load(path).run(x), expected, rtol=1e-6)
    found = module.verify(samples=1)
    runnable = [name for name in BUILDS if resolve(name).native]
    assert [module.target.single.name, *(each.target for each in found.builds)] == runnable
    assert found.passed and "the other builds agree too" in str(found)
    wrong = replace(found, builds=(replace(found.builds[0], unexplained=1, reason="x"), *found.builds[1:]))
    assert not wrong.passed and "the build ResNet" not in str(wrong) and "differs from onnxruntime" in str(wrong)
    assert "icelake-server: " in command_line.run("inspect", path)[0]


@on_x86
def test_a_build_that_cannot_run_here(module: CompiledModule) -> None:
    """The first build needs what this CPU lacks; the last one is described instead."""
    missing = min(FLAGS["x86_64"].keys() - this_cpu().features)
    best, last = copy(module.builds[0]), module.builds[-1]
    best.target = replace(best.target, features=best.target.features | {missing})
    target = of_builds("x86", [best.target, last.target])
    mixed = CompiledModule(last.imported, last.composites, last.lowered, target, last.report, [best, last])
    assert target.single == last.target and not best.target.native
    found = mixed.verify(samples=1)
    assert found.not_run == ("icelake-server",) and "cannot run are not compared: icelake-server" in str(found)


def test_tvm_holds_one_build(module: CompiledModule, tmp_path: Path) -> None:
    assert read_metadata(module.export(tmp_path / "model.so", "tvm")).target == "x86-64-v3"


def network_of_bytes() -> onnx.ModelProto:
    text = (
        "q = QuantizeLinear(x, scale, zero)\nd = DequantizeLinear(q, scale, zero)\n"
        "v = DequantizeLinear(w, scale)\ny = Conv<pads = [1, 1, 1, 1]>(d, v)"
    )
    weights = np.random.default_rng(0).integers(-127, 128, (64, 64, 3, 3)).astype(np.int8)
    return small_model(text, {"x": SHAPE}, {"scale": 0.25, "zero": np.uint8(128), "w": weights})


def several_for_arm() -> CpuTarget:
    """The products of bytes of the first one are ``sdot``."""
    return of_builds("arm-of-two", [replace(resolve("arm-dotprod"), name="dotprod"), resolve("arm")])


@pytest.mark.slow
def test_the_build_for_an_arm_cpu(tmp_path: Path) -> None:
    """zig builds musl the first time, which takes a minute."""
    model = network_of_bytes()
    module = sbnn_tvm.compile(model, target=several_for_arm(), name="model")
    path = program(module, tmp_path, [str(find_zig()), "cc", "-target", "aarch64-linux-musl", "-static"])
    assert run(path, "qemu-aarch64", "-cpu", "cortex-a53", model=model) == (0, "arm")
    assert run(path, "qemu-aarch64", "-cpu", "max", model=model) == (0, "dotprod")


def test_arm_builds_are_emulated() -> None:
    found = sbnn_tvm.compile(network(), target=resolve("arm")).verify(samples=1)
    assert found.passed and not found.builds


def test_needs() -> None:
    assert needs_of("x86_64", ()) == ()
    assert needs_of("x86_64", {"popcnt", "bmi2"}) == (Need(1, 0, "SBNN_ECX", 1 << 23), Need(7, 0, "SBNN_EBX", 1 << 8))
    assert needs_of("x86_64", {"avx2"})[-1] == Need(0, 0, "SBNN_XCR0", 6), "the system saves the registers"
    assert needs_of("x86_64", {"avx512vl"})[-1] == Need(0, 0, "SBNN_XCR0", 0xE6)
    assert needs_of("aarch64", {"neon", "dotprod", "i8mm"}) == (Need(16, 0, "0", 1 << 20), Need(26, 0, "0", 1 << 13))
    assert needs_of("riscv64", {"v"}) == needs_of("cortex-m", {"mve"}) == ()
    for feature in FLAGS["x86_64"]:
        assert needs_of("x86_64", {feature}), feature
    for machine in HWCAP:
        for feature in FLAGS[machine].keys() - MANDATORY.get(machine, set()) - {"v8", "fp-armv8"}:
            assert needs_of(machine, {feature}), feature
