"""A running program that answers requests: it reads them from its standard input, and writes to its standard output."""

from __future__ import annotations

import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from ..errors import EmulationError

_LIMIT = 600.0
"""Seconds that the answer to a request may take."""


class ProgramProcess:
    """A program that runs until this object is forgotten."""

    def __init__(self, command: Sequence[str], what: str) -> None:
        """Start the program.

        Args:
            command: The program and its arguments.
            what: What it runs, for messages: ``"the kernels"``.
        """
        self._what = f"{what} in {Path(command[0]).name}"
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the program runs
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors)
        weakref.finalize(self, _end, self._process, self._errors)

    def ask(self, request: bytes, sizes: Sequence[int]) -> list[bytes]:
        """Write a request, and read parts of the answer of these sizes in bytes.

        Raises:
            EmulationError: If the program ends, or the answer takes too long.
        """
        assert self._process.stdin is not None and self._process.stdout is not None
        late = threading.Timer(_LIMIT, self._process.kill)
        late.start()
        try:
            with suppress(BrokenPipeError):  # reading tells why
                self._process.stdin.write(request)
                self._process.stdin.flush()
            parts = []
            for size in sizes:
                parts.append(self._process.stdout.read(size))
                if len(parts[-1]) < size:
                    raise EmulationError(self._ended(late.finished.is_set()))
            return parts
        finally:
            late.cancel()

    def _ended(self, late: bool) -> str:
        code = self._process.wait()
        if late:
            return f"{self._what} gave no answer within {_LIMIT:g} s"
        self._errors.seek(0)
        said = self._errors.read().decode("utf-8", "backslashreplace").strip().splitlines()
        errors = [line for line in said if "Error" in line] or said
        ended = f"ended by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"{self._what} failed: {(*errors, ended)[0]}"


def _end(process: subprocess.Popen[bytes], errors: IO[bytes]) -> None:
    process.kill()
    for stream in (process.stdin, process.stdout, errors):
        if stream is not None:
            with suppress(OSError):
                stream.close()
    process.wait()
