"""Networks of Larq's own converter, against Larq's interpreter."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tflite", reason='TFLite files need pip install "sbnn-tvm[tflite]"')


import sbnn_tvm
from sbnn_tvm.compiler import explain
from tests.support.command_line import run
from tests.support.tflite_cases import load

CASES = load("larq")


@pytest.mark.parametrize("name", CASES)
def test_equals_the_interpreter(name: str) -> None:
    case = CASES[name]
    y = case.computed()
    np.testing.assert_allclose(y, case.y, rtol=1e-5, atol=1e-5 * np.abs(case.y).max())


@pytest.mark.parametrize(("name", "binary"), [("chain", 3), ("quicknet", 2), ("zero_padding", 1), ("dense", 1)])
def test_every_binary_layer_is_on_bits(name: str, binary: int) -> None:
    report = explain(CASES[name].file)
    assert sum(layer.kind.startswith("binary") for layer in report.layers) == binary


def test_a_compiled_network_equals_the_interpreter() -> None:
    case = CASES["chain"]
    module = sbnn_tvm.compile(case.file)
    assert module.inputs[0].shape == (1, 9, 10, 40)
    y = module.run(case.x((1, 9, 10, 40)))
    np.testing.assert_allclose(y, case.y, rtol=1e-5, atol=1e-5 * np.abs(case.y).max())
    module.verify()


def test_the_command_line_goes_by_the_suffix(tmp_path: Path) -> None:
    path = tmp_path / "net.tflite"
    path.write_bytes(CASES["zero_padding"].file)
    shown, _ = run("inspect", path)
    assert "binary conv 3x3" in shown and "net for native: 1 of 1 layers with weights are binary" in shown
