"""The programs of examples/deploy_c, built in each way, classify frames as Python does."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest

import sbnn_tvm
from tests.support import foreign_models
from tests.support.paths import ROOT

EXAMPLE = ROOT / "examples" / "deploy_c"
NAMES = ("first", "second")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed"),
]


def called(*command: str | Path, code: int = 0) -> str:
    done = subprocess.run([str(each) for each in command], capture_output=True, text=True, timeout=500)
    assert done.returncode == code, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def onnx_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(NAMES):
        onnx.save(foreign_models.vgg(channels=32, size=8, hidden=32, seed=seed), folder / f"{name}.onnx")
    return {name: folder / f"{name}.onnx" for name in NAMES}


def write_frames(path: Path, rng: np.random.Generator) -> np.ndarray:
    pixels = rng.integers(0, 256, (20, 1, 3, 8, 8), dtype=np.uint8)
    pixels.tofile(path)
    return pixels.astype(np.float32) / np.float32(128) - np.float32(1)


@pytest.mark.parametrize("link", ["folder", "static", "shared"])
def test_here(link: str, onnx_models: dict[str, Path], tmp_path: Path, rng: np.random.Generator) -> None:
    models, raw = tmp_path / "models", tmp_path / "frames.raw"
    models.mkdir()
    frames = write_frames(raw, rng)
    classes = {}
    for name, path in onnx_models.items():
        module = sbnn_tvm.compile(path)
        module.export(models / {"folder": name, "static": f"lib{name}.a", "shared": f"lib{name}.so"}[link])
        classes[name] = [int(module.run(frame).argmax()) for frame in frames]
    cpp = link == "folder" and shutil.which("c++") is not None
    options = (f"-DMODELS={models}", "-DNAMES=first;second", f"-DLINK={link}", f"-DCPP={'ON' if cpp else 'OFF'}")
    called("cmake", "-S", EXAMPLE, "-B", tmp_path, *options, "-DCMAKE_C_FLAGS=-Wall -Wextra -Werror")
    called("cmake", "--build", tmp_path)

    said = called(tmp_path / "frames", raw, "uint8,0.0078125,-1", "2")
    for name in NAMES:
        assert [int(found) for found in re.findall(rf"{name} (\d+) \(", said)] == classes[name]
    said = called(tmp_path / "workers", raw, "uint8,0.0078125,-1", "3")
    assert Counter(classes["first"]) == {int(a): int(b) for a, b in re.findall(r"class (\d+): (\d+)", said)}
    assert "20 frames, 3 workers" in said
    if cpp:
        frames.tofile(tmp_path / "floats.raw")
        scores = re.findall(r"class \d+: (\S+)", called(tmp_path / "first_frame", tmp_path / "floats.raw"))
        assert int(np.argmax(list(map(float, scores)))) == classes["first"][0]

    (tmp_path / "cut").write_bytes(raw.read_bytes()[:-1])
    assert "the last frame has 191 bytes instead of 192" in called(
        tmp_path / "frames", tmp_path / "cut", "uint8,1,0", code=1
    )
    assert "No such file" in called(tmp_path / "frames", tmp_path / "none", code=1)
    assert "uint8,SCALE,OFFSET, but got uint9" in called(tmp_path / "frames", raw, "uint9", code=1)


@pytest.mark.skipif(shutil.which("qemu-aarch64") is None, reason="qemu-aarch64 is not installed")
def test_for_arm(onnx_models: dict[str, Path], tmp_path: Path, rng: np.random.Generator) -> None:
    ziglang = pytest.importorskip("ziglang")
    frames = write_frames(tmp_path / "frames.raw", rng)
    models = tmp_path / "models"
    models.mkdir()
    for name, path in onnx_models.items():
        sbnn_tvm.compile(path, "arm").export(models / name)
    zig = Path(ziglang.__file__).with_name("zig")
    toolchain = (f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE / 'zig.cmake'}", f"-DZIG={zig}", "-DZIG_TARGET=aarch64-linux-musl")
    called("cmake", "-S", EXAMPLE, "-B", tmp_path, f"-DMODELS={models}", "-DNAMES=first;second", *toolchain)
    called("cmake", "--build", tmp_path)
    said = called("qemu-aarch64", tmp_path / "frames", tmp_path / "frames.raw", "uint8,0.0078125,-1", "2")
    module = sbnn_tvm.compile(onnx_models["first"])
    found = [int(each) for each in re.findall(r"first (\d+) \(", said)]
    assert found == [int(module.run(frame).argmax()) for frame in frames]
