"""The files and commands of docs/deployment.md work, in their order."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "deployment.md"
FILE = re.compile(r"^(?:/\*|//|#) (\S+\.(?:c|cpp|txt))\b")

NEEDED = ("cc", "c++", "cmake", "qemu-aarch64", "qemu-arm")


@pytest.mark.slow
def test_all_commands(tmp_path: Path) -> None:
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, arguments in (("sbnn-tvm", "-m sbnn_tvm"), ("python", "")):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} {arguments} "$@"\n')
        (tools / name).chmod(0o755)
    paths = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": paths}
    work = tmp_path / "work"
    work.mkdir()
    ran = 0
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        if language != "sh":
            found = FILE.match(text)
            assert found, f"a block of {PAGE.name} does not begin with the name of its file: {text[:60]}"
            (work / found[1]).write_text(text)
            continue
        done = subprocess.run(
            ["bash", "-euc", text], cwd=work, env=environment, capture_output=True, text=True, timeout=500
        )
        assert done.returncode == 0, f"{text}: {done.stdout[-1000:]} {done.stderr[-2000:]}"
        ran += 1
    assert ran >= 8
