"""The program of examples/microcontroller runs on emulated boards, with the outputs of onnxruntime."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.zoo import ZooModel
from tests.support.binarised_models import BINARIZE, BITS, binarized
from tests.support.paths import ROOT
from tests.support.small_models import small_model

from .test_examples import example

EXAMPLE = ROOT / "examples" / "microcontroller"

BOARDS = {"cortex-m4": "mps2-an386", "cortex-m7": "mps2-an500", "cortex-m55": "mps3-an547"}
FLASH, RAM = 100_000, 8192  # bytes


def build_and_run(model: Path | ZooModel, target: str, folder: Path) -> dict[str, str]:
    """What the program prints about a model, by label."""
    for program in ("cmake", "qemu-system-arm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    ziglang = pytest.importorskip("ziglang")
    zig, board = Path(ziglang.__file__).with_name("zig"), BOARDS[target]
    example("microcontroller/prepare").prepare(model, target, folder / "model")
    toolchain = (f"-DCMAKE_TOOLCHAIN_FILE={EXAMPLE / 'zig.cmake'}", f"-DZIG={zig}")
    called("cmake", "-S", str(EXAMPLE), "-B", str(folder), f"-DBOARD={board}", *toolchain)
    called("cmake", "--build", str(folder))
    semihosting = ("-nographic", "-semihosting-config", "enable=on,target=native")
    said = called("qemu-system-arm", "-M", board, *semihosting, "-kernel", str(folder / "program"))
    print(f"{target}: {said}")
    return dict(line.split(": ") for line in said.splitlines() if ": " in line)


def called(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]} {done.stderr[-2000:]}"
    return done.stdout


def output(said: dict[str, str]) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(said["output"]), np.float32)


def expected(model: Path) -> np.ndarray:
    """What the model computes on this machine for the sample of prepare.py."""
    module = sbnn_tvm.compile(model, name="model")
    (tensor,) = module.inputs
    return module.run(np.random.default_rng(0).standard_normal(tensor.shape).astype(np.float32)).ravel()


def test_small_model(tmp_path: Path, rng: np.random.Generator) -> None:
    text = BITS + "d = Conv<pads=[1, 1, 1, 1]>(b, w)\n" + binarized("e", "d") + "y = Conv(e, v)"
    signs = [np.where(rng.random(shape) < 0.5, 1.0, -1.0) for shape in ((24, 8, 3, 3), (7, 24, 3, 3))]
    model = small_model(text, {"x": (1, 8, 5, 5)}, {**BINARIZE, "w": signs[0], "v": signs[1]})
    onnx.save(model, tmp_path / "model.onnx")
    said = build_and_run(tmp_path / "model.onnx", "cortex-m4", tmp_path / "build")
    np.testing.assert_array_equal(output(said), expected(tmp_path / "model.onnx"))


@pytest.mark.slow
@pytest.mark.parametrize("target", BOARDS)
def test_digits_fit_a_microcontroller(tmp_path: Path, target: str) -> None:
    model = sbnn_tvm.zoo.load("digits")
    said = build_and_run(model, target, tmp_path / "build")
    scores = sbnn_tvm.compile(model).run(model.images[:1]).ravel()
    np.testing.assert_array_max_ulp(output(said), scores, 2)
    assert scores.argmax() == model.labels[0]
    flash, ram, stack = (int(said[f"{label} bytes"]) for label in ("flash", "static RAM", "stack"))
    assert flash <= FLASH
    assert ram + stack <= RAM


def test_every_board_has_a_linker_script_and_a_processor() -> None:
    for toolchain in ("zig.cmake", "arm-none-eabi.cmake"):
        named = set(re.findall(r"set\(CPU_(\S+) ", (EXAMPLE / toolchain).read_text()))
        assert named == set(BOARDS.values())
    assert {script.stem for script in EXAMPLE.glob("mps*.ld")} == set(BOARDS.values())
