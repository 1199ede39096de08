"""The C part of examples/android: built for Android's ABIs, and run on this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from elftools.elf.elffile import ELFFile

import sbnn_tvm
from sbnn_tvm.deploy.c_library.zig_targets import zig_target
from sbnn_tvm.deploy.targets import resolve
from tests.support.binarised_models import BINARIZE, BITS
from tests.support.paths import ROOT
from tests.support.small_models import run_reference, small_model

from .test_examples import example

EXAMPLE = ROOT / "examples" / "android"
MODEL = small_model(
    BITS + "d = Conv(b, w)\ny = Relu(d)",
    {"x": (1, 8, 5, 5)},
    {**BINARIZE, "w": np.where(np.random.default_rng(0).random((16, 8, 3, 3)) < 0.5, 1.0, -1.0)},
)


def called(*command: str, **options) -> bytes:
    done = subprocess.run(command, capture_output=True, timeout=300, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]!r} {done.stderr[-2000:]!r}"
    return done.stdout


@pytest.mark.parametrize("abi", ["arm64-v8a", pytest.param("x86_64", marks=pytest.mark.slow)])
def test_it_compiles_for_android(tmp_path, abi):
    ziglang = pytest.importorskip("ziglang")
    zig, prepare = str(Path(ziglang.__file__).with_name("zig")), example("android/prepare")
    onnx.save(MODEL, tmp_path / "model.onnx")
    target = prepare.ABIS[abi]
    (path,) = prepare.prepare(tmp_path / "model.onnx", tmp_path, [abi])
    assert path == tmp_path / abi / "libmodel.so"
    for source in ("runner", "main"):
        made = str(tmp_path / f"{source}.o")
        flags = ("-Wall", "-Wextra", "-Werror", "-I", str(path.parent), "-c", "-o", made)
        called(zig, "cc", "-target", zig_target(resolve(target)).name, *flags, str(EXAMPLE / f"{source}.c"))
        with open(made, "rb") as file:
            assert ELFFile(file).get_machine_arch() == {"arm64-v8a": "AArch64", "x86_64": "x64"}[abi]


def test_it_runs_here(tmp_path):
    """The same sources and build files, with this machine's compiler and library."""
    pytest.importorskip("ziglang")
    for program in ("cmake", "cc"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    (tmp_path / "model").mkdir()
    sbnn_tvm.compile(MODEL, name="model").export(tmp_path / "model" / "libmodel.so", "c")
    called("cmake", "-S", str(EXAMPLE), "-B", str(tmp_path), f"-DMODEL={tmp_path / 'model'}")
    called("cmake", "--build", str(tmp_path))
    x = np.random.default_rng(1).standard_normal((1, 8, 5, 5)).astype(np.float32)
    (expected,) = run_reference(MODEL, {"x": x}).values()
    said = called(str(tmp_path / "sbnn_example"), "3", input=x.tobytes())
    np.testing.assert_array_equal(np.frombuffer(said, np.float32).reshape(expected.shape), expected)
