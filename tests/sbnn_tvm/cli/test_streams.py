"""The command line as a process whose streams are closed or full or of any encoding, and whose packages are missing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from sbnn_tvm.tuning_database.database import Database
from sbnn_tvm.tuning_database.records import Record, TunedMachine
from tests.support import foreign_models
from tests.support.command_line import run

PROGRAM = f"{sys.executable} -m sbnn_tvm"


def shell(command: str, folder: Path, **environment: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command of the shell ``bash``."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={**os.environ, **environment}, capture_output=True, timeout=120
    )
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and a database whose path and content have characters that few encodings have."""
    path = tmp_path_factory.mktemp("models")
    onnx.save(foreign_models.bireal_net(channels=32, size=16), path / "net.onnx")
    machine = TunedMachine("\xe9\u540d", (), "avx2", "generic", 1)
    database = Database(path / "net \xe9\u540d \udcff.jsonl")
    database.add(Record("0", "a task", machine, "popcount 1x1", "popcount 2x2", 1e-5, 2e-5))
    return path


def test_a_closed_pipe_changes_no_exit_code(folder: Path) -> None:
    for command, code in (("tuning show net*.jsonl", 0), ("tuning show missing", 2), ("--help", 0)):
        assert shell(f"{PROGRAM} {command} 2>/dev/null | head -0; echo ${{PIPESTATUS[0]}}", folder)[1] == f"{code}\n"


@pytest.mark.slow
def test_the_verdict_reaches_those_who_do_not_read_the_table(folder: Path) -> None:
    for tolerance, code in (("0", 1), ("1e-4", 0)):
        command = f"{PROGRAM} verify net.onnx --samples 1 --tolerance {tolerance}"
        assert shell(f"{command} | head -0; echo ${{PIPESTATUS[0]}}", folder)[1:] == (f"{code}\n", "")
        assert shell(f"{command} <&- >&- 2>&-", folder)[0] == code


def test_closed_and_full_streams(folder: Path) -> None:
    assert shell(f"{PROGRAM} tuning export net*.jsonl -o closed.jsonl <&- >&- 2>&-", folder) == (0, "", "")
    assert Database(folder / "closed.jsonl").records
    assert shell(f"{PROGRAM} tuning show missing 2>&-", folder) == (2, "", "")
    assert shell(f"{PROGRAM} tuning show missing 2>/dev/full", folder) == (2, "", "")
    code, _, error = shell(f"{PROGRAM} --version >/dev/full", folder)
    assert (code, error) == (2, "error: the results cannot be written to stdout: No space left on device\n")


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"\\xe9\\u540d"), ("latin-1", b"\xe9\\u540d"), ("utf-8", b"\xc3\xa9\xe5\x90\x8d")]
)
def test_any_name_in_any_encoding(folder: Path, encoding: str, shown: bytes) -> None:
    name = folder / "net \xe9\u540d \udcff.jsonl"
    environment = {"LC_ALL": "C", "PYTHONIOENCODING": encoding, "PYTHONCOERCECLOCALE": "0", "COLUMNS": "0"}
    command = [sys.executable, "-m", "sbnn_tvm", "tuning", "merge", "merged.jsonl", name, name]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, check=True)
    assert done.stdout.split() == [b"merged.jsonl:", b"1", b"records"] and not done.stderr
    done = subprocess.run(
        [*command[:4], "show", name], cwd=folder, env={**os.environ, **environment}, capture_output=True, check=True
    )
    assert shown in b"".join(done.stdout.split())
    command[-1] = "missing-" + name.name
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, check=False)
    assert done.returncode == 2 and shown + b" \\udcff.jsonl" in done.stderr and done.stderr.count(b"\n") == 1


_WITHOUT = """
import importlib.abc, runpy, sys
missing = sys.argv[1]
class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Missing())
"""


@pytest.mark.parametrize(
    ("package", "command", "extra"),
    [
        ("rich", "targets", "compile"),
        ("onnx", "compile net.onnx", "compile"),
        ("torch", "export-demo", "torch"),
        ("tvm", "inspect net.onnx", "compile"),
        pytest.param("onnxruntime", "verify net.onnx --samples 1", "verify", marks=pytest.mark.slow),
    ],
)
def test_a_missing_package_is_one_sentence(folder: Path, package: str, command: str, extra: str) -> None:
    code = _WITHOUT + "sys.argv = ['sbnn-tvm', *sys.argv[2:]]; runpy.run_module('sbnn_tvm', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, package, *command.split()], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert package in done.stderr and f'pip install "sbnn-tvm[{extra}]"' in done.stderr


def test_a_missing_package_is_an_error_of_ours_in_python_too(folder: Path) -> None:
    program = "import sbnn_tvm\ntry: sbnn_tvm.compile('net.onnx')\nexcept sbnn_tvm.SbnnError as error: print(error)"
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT + program, "onnx"], cwd=folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("sbnn_tvm.compile needs onnx, which is not installed: pip install")


def test_fifos_are_refused_at_once(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    for command in ("inspect fifo", "compile fifo", "verify net.onnx --input fifo", "bench fifo"):
        _, error = run(*command.split(" ")[:1], *_paths(folder, command), code=2)
        assert "fifo is no regular file" in error and error.count("\n") == 1


def _paths(folder: Path, command: str) -> list[str]:
    """The arguments of a command, with files in the folder."""
    return [word if word.startswith("--") else str(folder / word) for word in command.split(" ")[1:]]
