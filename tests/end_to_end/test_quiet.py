"""Compilation writes nothing to stderr, whether it succeeds or fails."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnx

from tests.support import foreign_models
from tests.support.small_models import small_model

PROGRAM = """
import sys, sbnn_tvm
for path in sys.argv[1:]:
    try:
        sbnn_tvm.compile(path)
        print("compiled")
    except sbnn_tvm.SbnnError:
        print("refused")
"""

MODELS = {
    # TVM warns about powers with constant exponents from 3 on, and about marks in its scatters.
    "powers": small_model("a = Pow (x, three)\ny = Pow (a, four)", {"x": [2, 3]}, {"three": 3.0, "four": [4.0]}),
    "scatter": small_model(
        "y = ScatterElements <axis = 0> (x, places, updates)",
        {"x": [4, 3]},
        {"places": [[0, 1, 2]], "updates": [[1.0, 2.0, 3.0]]},
    ),
    # A model that is refused in the middle leaves an unfinished builder.
    "refused": small_model("a = Relu (x)\ny, i = TopK (a, k)", {"x": [2, 3], "k": ([1], "int64")}),
    "binary": foreign_models.mlp(),
}


def test_nothing_is_written_to_stderr(tmp_path: Path) -> None:
    paths = []
    for name, model in MODELS.items():
        paths.append(tmp_path / f"{name}.onnx")
        onnx.save(model, paths[-1])
    done = subprocess.run([sys.executable, "-c", PROGRAM, *paths], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["compiled", "compiled", "refused", "compiled"]
    assert done.stderr == ""
