"""A model is measured on a board through ssh, by one program; the boards are this machine and emulators."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import sbnn_tvm
from sbnn_tvm.errors import BoardError, TargetError
from sbnn_tvm.module import CompiledModule
from sbnn_tvm.profiling import bench_program, board
from sbnn_tvm.profiling.bench_program import write_bench_program
from sbnn_tvm.profiling.board import Board, BoardTiming, measure_on_board, results_of
from tests.support import foreign_models
from tests.support.command_line import run
from tests.support.ssh_server import MISSING, SshServer, free_port, ssh_server

needs_ssh = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "net.onnx"
    onnx.save(foreign_models.vgg(channels=32, size=8, hidden=32), path)
    return path


@pytest.fixture(scope="module")
def module(model: Path) -> CompiledModule:
    return sbnn_tvm.compile(model)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("ssh")) as started:
        yield started


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler (cc)")
def test_the_program_measures_a_model(module: CompiledModule, tmp_path: Path) -> None:
    module.export(tmp_path / "net.a", "c")
    source, program = Path(bench_program.__file__).with_suffix(".c"), tmp_path / "program"
    options = ["-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-DMODEL_NAME=net", "-include", "net.h"]
    command = ["cc", *options, str(source), "net.a", "-lm", "-pthread", "-o", str(program)]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run([str(program), "0.05", "2"], capture_output=True, text=True, check=True)
    found = BoardTiming.of(results_of(done.stdout), 2)
    assert 0 < found.timing.minimum <= found.timing.median < 0.05 and found.timing.runs >= 3
    assert found.init_seconds > 0 and found.first_run_seconds > 0 and found.context_bytes > 1024
    assert found.peak_bytes is not None and 100_000 < found.peak_bytes < 10_000_000
    failed = subprocess.run([str(program), "0.05", "1000"], capture_output=True, text=True, check=False)
    assert failed.returncode == 1 and "thread" in failed.stderr


def fake_program(script: str) -> Callable[[CompiledModule, Path], Path]:
    def write(module: CompiledModule, folder: Path) -> Path:
        (folder / "program").write_text(f"#!/bin/sh\n{script}\n")
        return folder / "program"

    return write


RESULTS = """echo init_seconds 0.5; echo first_run_seconds 0.25; echo context_bytes 100; echo peak 12 kB
echo minimum_seconds 0.001; echo median_seconds 0.002; echo runs 7; printf 'board Some board\\0\\n'; echo cpu 0xd08"""


@needs_ssh
def test_what_a_board_says_is_read_and_nothing_is_left(
    module: CompiledModule, server: SshServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = f'echo "$0 $@" > {tmp_path}/trace'
    monkeypatch.setattr(board, "write_bench_program", fake_program(f"{trace}\n{RESULTS}"))
    steps: list[str] = []
    target = Board(server.host, server.port, server.config)
    found = measure_on_board(module, target, seconds=1.5, threads=3, progress=steps.append)
    assert found.timing.minimum == 0.001 and found.timing.median == 0.002 and found.timing.runs == 7
    assert found.peak_bytes == 12 * 1024 and found.cpu == "Some board, 0xd08" and found.threads == 3
    program, *arguments = (tmp_path / "trace").read_text().split()
    assert arguments == ["1.5", "3"] and not Path(program).parent.exists()
    assert len(steps) == 3


@needs_ssh
@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        ("kill -ILL $$", "was ended by SIGILL on .*: its CPU lacks an instruction of the target"),
        ("kill -KILL $$", "was ended by SIGKILL on .*: its memory may not suffice"),
        ("echo more threads than there are >&2; exit 1", r"failed on .* \(exit code 1\): more threads than there are"),
        ("exit 3", r"failed on .* \(exit code 3\): it said nothing"),
        ("echo hello", "printed something else than times: hello"),
    ],
)
def test_a_program_that_fails(
    script: str, sentence: str, module: CompiledModule, server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "write_bench_program", fake_program(script))
    with pytest.raises(BoardError, match=sentence):
        measure_on_board(module, Board(server.host, server.port, server.config))


@needs_ssh
def test_a_board_that_does_not_let_us_in(module: CompiledModule, server: SshServer, tmp_path: Path) -> None:
    unknown = tmp_path / "config"
    unknown.write_text(f"UserKnownHostsFile {tmp_path}/none\nGlobalKnownHostsFile {tmp_path}/none\n")
    for refused, sentence in (
        (Board(server.host, server.port, server.other_config), "Permission denied.*without a password"),
        (Board(server.host, free_port(), server.config), "Connection refused; is its ssh server running"),
        (Board(server.host, server.port, unknown), "Host key verification failed; log in once by hand"),
        (Board("nowhere.invalid"), "Could not resolve hostname"),
    ):
        with pytest.raises(BoardError, match=f"ssh cannot log in to {re.escape(str(refused))}: .*{sentence}"):
            measure_on_board(module, refused)


@needs_ssh
def test_a_board_of_another_architecture(model: Path, server: SshServer) -> None:
    foreign = sbnn_tvm.compile(model, "arm" if sbnn_tvm.runtime.cpu.this_cpu().machine == "x86_64" else "x86")
    with pytest.raises(BoardError, match=r"but the model was compiled for \w+ .*: name the board's target by --target"):
        measure_on_board(foreign, Board(server.host, server.port, server.config))


def test_without_ssh(module: CompiledModule, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BoardError, match="ssh is not installed"):
        measure_on_board(module, Board("pi@board"))


def test_a_host_is_no_option() -> None:
    for host in ("", "-oProxyCommand=true", "pi@board rm"):
        with pytest.raises(BoardError, match="a board is written as in user@host"):
            Board(host)


def test_a_microcontroller_has_no_programs(model: Path) -> None:
    with pytest.raises(TargetError, match="measured by a program for Linux, but cortex-m4 is cortex-m"):
        measure_on_board(sbnn_tvm.compile(model, "cortex-m4"), Board("pi@board"))


@pytest.mark.slow  # the compiler builds musl once for each architecture
@needs_ssh
def test_bench_by_ssh(model: Path, server: SshServer) -> None:
    arguments = ("--ssh", server.host, "--ssh-port", server.port, "--ssh-config", server.config, "--seconds", 0.1)
    shown, _ = run("bench", model, *arguments)
    assert re.search(r"net\.onnx +[\d.]+ us +[\d.]+ us +[\d,]+\n", shown)
    assert re.search(r"peak memory +[\d.]+ KiB", shown) and re.search(
        rf"board +{server.host} port {server.port}", shown
    )


@pytest.mark.slow
@pytest.mark.parametrize(("target", "emulator"), [("arm", "qemu-aarch64"), ("armv7", "qemu-arm")])
def test_the_program_under_an_emulator(target: str, emulator: str, tmp_path: Path) -> None:
    if shutil.which(emulator) is None:
        pytest.skip(f"{emulator} is not installed")
    path = tmp_path / "parallel.onnx"
    onnx.save(foreign_models.vgg(channels=128, size=32, hidden=32), path)  # large enough for threads
    program = write_bench_program(sbnn_tvm.compile(path, target), tmp_path)
    for threads in (1, 2):
        command = [emulator, str(program), "0.1", str(threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        assert np.isfinite(BoardTiming.of(results_of(done.stdout), threads).timing.minimum)
