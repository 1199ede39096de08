"""The tuning database: one record per line, in a file to which several processes may append at once."""

from __future__ import annotations

import codecs
import fcntl
import os
import stat
import statistics
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..atomic_file import replacing
from ..errors import TuningError
from .records import AnyRecord, NetworkRecord, Record, TunedMachine, check, parse, render

_LONGEST_LINE, _LARGEST_FILE = 1 << 20, 1 << 32
"""Bounds in bytes; a record has some hundred. They keep a file that is no database from filling the memory."""

SHOWN_LINES = 20
"""Number of corrupt lines that are described one by one; the others are only counted."""


@dataclass(frozen=True)
class CorruptLine:
    """A line of a database that cannot be read."""

    path: Path
    number: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.number} is skipped: {self.reason}"


class Database:
    """The records of one file.

    Every method sees the records that were in the file when it was opened, and those added through this object. Lines
    that cannot be read are skipped, and stay in the file.

    Attributes:
        path: The file.
        records: The measurements of single candidates, in the order of the file.
        networks: The measurements of whole networks.
        skipped: Number of lines that cannot be read.
        corrupt: The first of these lines.

    Example::

        database = Database("tuning.jsonl")
        for record in database.records:
            print(record.title, record.candidate, record.gain)
    """

    def __init__(self, path: str | os.PathLike[str], must_exist: bool = False) -> None:
        """Read a file; a missing file is an empty database.

        Raises:
            TuningError: If the file cannot be read, or is missing although it must exist.
        """
        self.path = Path(path)
        self.records: list[Record] = []
        self.networks: list[NetworkRecord] = []
        self.corrupt: list[CorruptLine] = []
        self.skipped = 0
        try:
            with _open(self.path) as file:
                for number, line in enumerate(_lines(file), 1):
                    self._read(number, line)
        except FileNotFoundError:
            if must_exist:
                raise TuningError(f"there is no tuning database {self.path}: `sbnn-tvm tune` makes one") from None
        except (OSError, ValueError) as error:  # a ValueError of a path that has a NUL byte
            reason = getattr(error, "strerror", None) or error
            raise TuningError(f"the tuning database {self.path} cannot be read: {reason}") from None

    def _read(self, number: int, line: bytes) -> None:
        if not line.strip():
            return
        try:
            if len(line) > _LONGEST_LINE:
                raise ValueError(f"it is longer than {_LONGEST_LINE} bytes")
            self._keep(parse(line))
        except ValueError as error:
            self.skipped += 1
            if len(self.corrupt) < SHOWN_LINES:
                self.corrupt.append(CorruptLine(self.path, number, str(error)))

    def complaints(self) -> list[str]:
        """One sentence per line that cannot be read; above ``SHOWN_LINES``, their number."""
        more = self.skipped - len(self.corrupt)
        return [*map(str, self.corrupt), *([f"{self.path}: {more} more lines are skipped"] if more else [])]

    def _keep(self, record: AnyRecord) -> None:
        if isinstance(record, NetworkRecord):
            self.networks.append(record)
        else:
            self.records.append(record)

    def create(self) -> None:
        """Create the file if it is missing, so that an unwritable place is known before the first measurement.

        Raises:
            TuningError: If the file cannot be written.
        """
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666))
        except OSError as error:
            raise TuningError(f"the tuning database {self.path} cannot be written: {error.strerror}") from None

    def add(self, record: AnyRecord) -> None:
        """Append a record; it is on the disk when this returns.

        Raises:
            TuningError: If the file cannot be written, or the record has a value that would not be read again.
        """
        try:
            check(record)
        except ValueError as error:
            raise TuningError(f"a measurement of {record.title!r} cannot be stored: {error}") from None
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # If a process was killed while it wrote, the last line has no end: begin a new one.
                size = os.fstat(descriptor).st_size
                torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
                line = b"\n" * torn + render(record).encode() + b"\n"
                while line:
                    line = line[os.write(descriptor, line) :]
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise TuningError(f"the tuning database {self.path} cannot be written: {error.strerror}") from None
        self._keep(record)

    def machines(self) -> list[TunedMachine]:
        """The machines that have measurements."""
        return list(dict.fromkeys(record.machine for record in self.records))

    def verdict(self, network: str, machine: TunedMachine) -> NetworkRecord | None:
        """The last comparison of a whole network, if there is one."""
        found = [each for each in self.networks if (each.network, each.machine) == (network, machine)]
        return max(found, key=lambda each: each.when, default=None)

    def names(self, task: str, machine: TunedMachine) -> set[str]:
        """The names of all candidates of a task in the database, failed ones included."""
        found = (record for record in self.records if record.task == task and record.machine == machine)
        return {name for record in found for name in (record.candidate, record.reference)}

    def gains(
        self, task: str, machine: TunedMachine, deciding: bool = False, without: Collection[str] = ()
    ) -> dict[str, float]:
        """The gains of a task's candidates over their common reference, by name.

        If a candidate was measured several times, its gain is the median (the lower one of two), of confirmed
        measurements if it has any. Gains over different references are not comparable. So only the reference with most
        measurements counts; it is among the names, with gain 1.

        Args:
            task: Key of the task.
            machine: The machine.
            deciding: Use only confirmed measurements, if the task has any.
            without: Ignore measurements of candidates with these names.
        """
        found = [record for record in self.records if record.task == task and record.machine == machine]
        found = [record for record in found if not {record.candidate, record.reference}.intersection(without)]
        references = [record.reference for record in found if record.gain is not None]
        if not references:
            return {}
        reference = statistics.mode(references)
        found = [record for record in found if record.reference == reference and record.gain is not None]
        if deciding:
            found = [record for record in found if record.confirmed] or found
        gains: dict[str, float] = {reference: 1.0}
        for name in dict.fromkeys(record.candidate for record in found if record.candidate != reference):
            some = [record for record in found if record.candidate == name]
            some = [record for record in some if record.confirmed] or some
            if some:
                gains[name] = statistics.median_low(record.gain for record in some if record.gain is not None)
        return gains

    def decisive(self) -> list[AnyRecord]:
        """The records that decide what ``compile`` uses: those of the fastest candidates and of whole networks."""
        kept: list[AnyRecord] = []
        for task, machine in dict.fromkeys((record.task, record.machine) for record in self.records):
            gains = self.gains(task, machine, deciding=True)
            if gains:
                best = max(gains, key=lambda name: gains[name])
                some = [r for r in self.records if (r.task, r.machine) == (task, machine) and r.gain is not None]
                # If the untuned candidate won, the records are those in which it is the reference.
                some = [r for r in some if best in (r.candidate, r.reference)]
                kept += [record for record in some if record.confirmed] or some
        return [*kept, *self.networks]

    def failed(self, task: str, machine: TunedMachine) -> set[str]:
        """The candidates of a task that could not be measured."""
        return {r.candidate for r in self.records if r.task == task and r.machine == machine and r.failure}


def _open(path: Path) -> BinaryIO:
    """Open a regular file; a FIFO or a device could block or never end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"it is {'a folder' if stat.S_ISDIR(status.st_mode) else 'no regular file'}")
        if status.st_size > _LARGEST_FILE:
            raise OSError(f"it has {status.st_size} bytes, and a database has at most {_LARGEST_FILE}")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file. Of a line that is too long, only its beginning is kept."""
    first = True
    while line := file.readline(_LONGEST_LINE + 1):
        rest = line
        while len(rest) > _LONGEST_LINE and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST_LINE + 1)
        yield line.removeprefix(codecs.BOM_UTF8) if first else line
        first = False


def merge(output: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]]) -> tuple[int, list[str]]:
    """Write the records of several databases to one, without duplicates, in the order of their times.

    Args:
        output: The file to write. It is replaced atomically; its old records are kept only if it is one of the inputs.
        inputs: The databases to read.

    Returns:
        The number of records written, and sentences about the lines of the inputs that were skipped.

    Raises:
        TuningError: If a file cannot be read or written.
    """
    databases = [Database(path, must_exist=True) for path in inputs]
    records: list[AnyRecord] = []
    for each in databases:
        records += [*each.records, *each.networks]
    unique = sorted(dict.fromkeys(records), key=lambda record: record.when)
    write(output, unique)
    return len(unique), [each for database in databases for each in database.complaints()]


def write(path: str | os.PathLike[str], records: Iterable[AnyRecord]) -> None:
    """Write a database atomically.

    Raises:
        TuningError: If the file cannot be written.
    """
    with replacing(path, TuningError) as draft:
        draft.write_text("".join(render(record) + "\n" for record in records))
