"""Measure a model on a board with Linux through OpenSSH: copy one static program there, run it, remove it."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from ..deploy.targets import CpuTarget
from ..errors import BoardError
from ..execution.runnable_model import RunnableModel
from ..runtime.cpu import normalize_machine
from ..temporary_folder import temporary_folder
from .bench_program import check_has_bench_program, write_bench_program
from .timing import Timing


@dataclass(frozen=True)
class Board:
    """A machine that ssh reaches.

    Attributes:
        host: ``"user@host"``, or a host of ssh's configuration.
        port: The port; None for that of ssh's configuration.
        config: The configuration file for ssh, instead of the user's: identity, jump hosts and so on.
    """

    host: str
    port: int | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        if not self.host or self.host.startswith("-") or re.search(r"\s", self.host):
            raise BoardError(f"a board is written as in user@host, but got {self.host!r}")

    def __str__(self) -> str:
        return self.host if self.port is None else f"{self.host} port {self.port}"


@dataclass(frozen=True)
class BoardTiming:
    """What the program found.

    Attributes:
        timing: The times of ``run``.
        threads: The threads that it used.
        init_seconds: The time of ``init``, which decodes constants.
        first_run_seconds: The time of the first ``run``, with cold caches.
        context_bytes: The memory that the model works in.
        peak_bytes: The most memory that the process had after its first run, its code included; None if unknown.
        cpu: The board and its CPU, by the names that Linux gives; empty if it gives none.
    """

    timing: Timing
    threads: int
    init_seconds: float
    first_run_seconds: float
    context_bytes: int
    peak_bytes: int | None
    cpu: str

    @classmethod
    def of(cls, results: Mapping[str, str], threads: int) -> BoardTiming:
        """Read the lines of the program, by name.

        Raises:
            KeyError, ValueError: If they are something else.
        """
        peak = re.fullmatch(r"(\d+) kB", results["peak"])
        return cls(
            timing=Timing(float(results["minimum_seconds"]), float(results["median_seconds"]), int(results["runs"])),
            threads=threads,
            init_seconds=float(results["init_seconds"]),
            first_run_seconds=float(results["first_run_seconds"]),
            context_bytes=int(results["context_bytes"]),
            peak_bytes=int(peak[1]) * 1024 if peak else None,
            cpu=", ".join(filter(None, (results["board"].strip("\0 "), results["cpu"]))),
        )


def measure_on_board(
    module: RunnableModel,
    board: Board,
    seconds: float = 5.0,
    threads: int = 1,
    progress: Callable[[str], None] | None = None,
) -> BoardTiming:
    """Measure a model on a board.

    Args:
        module: The model, compiled for the board.
        board: The board. ssh must log in without a password.
        seconds: Approximate time to measure.
        threads: Threads that share the work of a layer.
        progress: Called with the name of each step.

    Raises:
        BoardError: If ssh is missing or cannot log in, the board has another architecture, or the program fails there.
        TargetError: If the target has no programs.
        LibraryError: If the model needs TVM's runtime, or the compiler fails.
    """
    step = progress or (lambda name: None)
    check_has_bench_program(module.target)
    step(f"asking {board}")
    _check_machine(board, module.target)
    with temporary_folder(BoardError) as folder:
        step("building a program; the first one for an architecture takes a minute")
        program = write_bench_program(module, folder)
        step(f"measuring on {board} for {seconds:g} s")
        done = _run(board, _script(seconds, threads), program)
    if done.code != 0:
        raise BoardError(_reason(board, done))
    try:
        return BoardTiming.of(results_of(done.said), threads)
    except (KeyError, ValueError):
        raise BoardError(f"{board} printed something else than times: {_last_line(done.said) or 'nothing'}") from None


def results_of(text: str) -> dict[str, str]:
    """The results that the program prints, by name."""
    return {name: value.strip() for name, _, value in (line.partition(" ") for line in text.splitlines())}


@dataclass(frozen=True)
class _Done:
    """What a command on the board did: its exit code, and what it said on its two streams."""

    code: int
    said: str
    complained: str


def _run(board: Board, command: str, program: Path | None = None) -> _Done:
    """Run a command of the shell on a board; the program is its input.

    Raises:
        BoardError: If ssh is missing or cannot log in.
    """
    with ExitStack() as files:
        source = subprocess.DEVNULL if program is None else files.enter_context(program.open("rb"))
        done = subprocess.run([*_ssh(board), command], stdin=source, capture_output=True, check=False)
    said, complained = (stream.decode(errors="replace") for stream in (done.stdout, done.stderr))
    if done.returncode == 255:
        raise BoardError(f"ssh cannot log in to {board}: {_login_problem(complained)}")
    return _Done(done.returncode, said, complained)


def _ssh(board: Board) -> list[str]:
    """The command that logs in. It never asks, and gives up on a board that does not answer."""
    ssh = which("ssh")
    if ssh is None:
        raise BoardError("ssh is not installed: install OpenSSH's client (Debian: apt install openssh-client)")
    options = ["BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=10", "ServerAliveCountMax=3"]
    command = [ssh, "-T", *(f"-o{option}" for option in options)]
    if board.config is not None:
        command += ["-F", str(board.config)]
    if board.port is not None:
        command += ["-p", str(board.port)]
    return [*command, "--", board.host]


def _check_machine(board: Board, target: CpuTarget) -> None:
    """Refuse a board of another architecture, whose Linux may run foreign programs in an emulator."""
    done = _run(board, "uname -m")
    machine = _last_line(done.said)
    runs = {normalize_machine(machine)} | ({"arm"} if normalize_machine(machine) == "aarch64" else set())
    if target.machine not in runs:
        raise BoardError(
            f"{board} is {machine or 'of an unknown architecture'}, but the model was compiled for {target} "
            f"({target.machine}): name the board's target by --target"
        )


def _script(seconds: float, threads: int) -> str:
    """What the board's shell does with the program."""
    body = f"""
        folder=$(mktemp -d) || exit 1
        trap 'rm -rf "$folder"' EXIT
        trap 'exit 1' HUP INT TERM
        cat > "$folder/bench_program" && chmod 700 "$folder/bench_program" || exit 1
        "$folder/bench_program" {seconds:g} {threads}
        exit $?
    """
    return f"exec sh -c {shlex.quote(body)}"  # the user's shell may be another one


def _reason(board: Board, done: _Done) -> str:
    number = done.code - 128
    if number in signal.valid_signals():
        hint = _SIGNALS.get(number, "")
        return f"the program was ended by {signal.Signals(number).name} on {board}{hint}"
    complaint = _last_line(done.complained) or "it said nothing"
    return f"the program failed on {board} (exit code {done.code}): {complaint}"


_SIGNALS: dict[int, str] = {
    signal.SIGILL: ": its CPU lacks an instruction of the target; name another one by --target",
    signal.SIGKILL: ": its memory may not suffice",
}


def _login_problem(complaints: str) -> str:
    """What ssh said, and what to do about it."""
    said = _last_line(complaints).rstrip(".") or "it said nothing"
    hints = {
        "Permission denied": "; let it log in without a password (ssh-copy-id)",
        "Host key verification failed": "; log in once by hand to accept the key of the host",
        "Connection refused": "; is its ssh server running, and on this port?",
    }
    return said + next((hint for key, hint in hints.items() if key in complaints), "")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
