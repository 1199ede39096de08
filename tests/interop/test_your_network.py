"""The examples of docs/your-network.md run: with Brevitas, QONNX, Larq and TensorFlow in environments of their own.

``make test-interop`` makes these environments. Elsewhere an example is skipped, with a line that says what it needs.
"""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "your-network.md"
KERAS = Path(os.environ.get("SBNN_KERAS_PYTHON", ROOT / ".venv-keras" / "bin" / "python"))
PACKAGES = ("brevitas", "qonnx", "tflite")  # what an example needs here, beside sbnn_tvm

pytestmark = pytest.mark.interop


def examples() -> dict[str, list[str]]:
    """The Python blocks of the page, by the heading that they stand under."""
    sections = re.split(r"^## ", PAGE.read_text("utf-8"), flags=re.MULTILINE)[1:]
    found = {
        each.splitlines()[0]: re.findall(r"^```python\n(.*?)^```", each, re.MULTILINE | re.DOTALL) for each in sections
    }
    return {heading: blocks for heading, blocks in found.items() if blocks}


@pytest.mark.parametrize("heading", examples())
def test_example(heading, tmp_path, monkeypatch):
    blocks = examples()[heading]
    for package in PACKAGES:
        if any(re.search(rf"\b{package}\b", block) for block in blocks) and find_spec(package) is None:
            pytest.skip(f"{package} is not installed: make test-interop")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        if "import larq" not in block:
            exec(compile(block, f"{PAGE.name}: {heading}", "exec"), names)
            continue
        if not KERAS.exists():
            pytest.skip(f"{KERAS} does not exist: make test-interop")
        Path("larq_network.py").write_text(block, "utf-8")
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "PYTHONPATH": ""}
        done = subprocess.run([KERAS, "larq_network.py"], env=environment, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-2000:]
