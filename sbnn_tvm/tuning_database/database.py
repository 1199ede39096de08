"""The tuning database: one JSON object per line, in a file to which several processes may append at once.

TVM's own database in MetaSchedule stores traces of schedule primitives for TIR modules. Our kernels have parameters
instead of schedules, are measured in pairs, and a measurement is valid for one CPU. So a line here states the cost of a
candidate for a task, the cost of its reference, and the machine.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..atomic_file import replacing
from ..errors import TuningError

FORMAT, VERSION = "sbnn-tuning", 1
"""The format and version at the beginning of every line."""

SECONDS, INSTRUCTIONS = "seconds", "instructions"


@dataclass(frozen=True)
class TunedMachine:
    """The machine that a measurement is valid for.

    Attributes:
        cpu: Model of the CPU; ``"estimated (instructions)"`` if instructions were counted in an emulator.
        caches: Bytes of its data caches, first level first; empty if unknown.
        isa: Name of the instruction set of the kernels.
        code: The CPU and features that LLVM generated code for, by LLVM's names.
        threads: Number of threads that shared the work of a layer.
    """

    cpu: str
    caches: tuple[int, ...]
    isa: str
    code: str
    threads: int

    @property
    def estimated(self) -> bool:
        """Whether instructions were counted, and nothing was timed."""
        return self.cpu.startswith("estimated")

    def __str__(self) -> str:
        caches = ", ".join(f"{size >> 10} KiB" for size in self.caches)
        threads = f"{self.threads} thread{'s' * (self.threads != 1)}"
        return f"{self.cpu}{f' with {caches}' if caches else ''}, {self.isa} ({self.code}), {threads}"


@dataclass(frozen=True)
class Record:
    """One candidate, measured in turns with a reference; or a failed attempt.

    Attributes:
        task: Key of the task.
        title: The task in words.
        machine: The machine that it was measured on.
        candidate: Name of the candidate.
        reference: Name of the candidate that it was compared with: the untuned one.
        cost: Cost of the candidate, in ``unit``; None if it failed.
        reference_cost: Cost of the reference; None if it failed.
        unit: ``"seconds"`` or ``"instructions"``.
        confirmed: Whether this is one of the longer measurements of a finalist, which decide.
        steady: Whether the smallest times were reproduced; other measurements are not used.
        failure: Why it failed; empty if it did not.
        when: Time of the measurement: ISO 8601, UTC.
    """

    task: str
    title: str
    machine: TunedMachine
    candidate: str
    reference: str
    cost: float | None
    reference_cost: float | None
    unit: str = SECONDS
    confirmed: bool = False
    steady: bool = True
    failure: str = ""
    when: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @property
    def gain(self) -> float | None:
        """Cost of the reference over cost of the candidate; None if it failed or was not steady."""
        if self.cost is None or self.reference_cost is None or not self.steady:
            return None
        return self.reference_cost / self.cost


@dataclass(frozen=True)
class NetworkRecord:
    """A whole network with tuned kernels, timed in turns with the untuned network.

    Attributes:
        network: Key of its tasks and of the candidates that were chosen for them.
        title: Name of the network.
        machine: The machine that it was measured on.
        gain: Time of the untuned network over time of the tuned one.
        noise: Largest relative difference of the times of two equal libraries, at least 0.01.
        when: Time of the measurement: ISO 8601, UTC.
    """

    network: str
    title: str
    machine: TunedMachine
    gain: float
    noise: float
    when: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))

    @property
    def slower(self) -> bool:
        """Whether the tuned network is slower by more than the noise."""
        return self.gain < 1 - self.noise


AnyRecord = Record | NetworkRecord
_KINDS: dict[str, type[Record] | type[NetworkRecord]] = {"task": Record, "network": NetworkRecord}


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
    that cannot be read are in ``corrupt``, and stay in the file.

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
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            if must_exist:
                raise TuningError(f"there is no tuning database {self.path}: `sbnn-tvm tune` makes one") from None
            return
        except OSError as error:
            raise TuningError(f"the tuning database {self.path} cannot be read: {error.strerror}") from None
        for number, line in enumerate(text.split(b"\n"), 1):
            if line.strip():
                try:
                    self._keep(parse(line))
                except ValueError as error:
                    self.corrupt.append(CorruptLine(self.path, number, str(error)))

    def _keep(self, record: AnyRecord) -> None:
        if isinstance(record, NetworkRecord):
            self.networks.append(record)
        else:
            self.records.append(record)

    def add(self, record: AnyRecord) -> None:
        """Append a record; it is on the disk when this returns.

        Raises:
            TuningError: If the file cannot be written.
        """
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

    def gains(self, task: str, machine: TunedMachine, deciding: bool = False) -> dict[str, float]:
        """The gains of a task's candidates over their common reference, by name.

        If a candidate was measured several times, its gain is the median (the lower one of two), of confirmed
        measurements if it has any. Gains over different references are not comparable. So only the reference with most
        measurements counts; it is among the names, with gain 1.

        Args:
            task: Key of the task.
            machine: The machine.
            deciding: Use only confirmed measurements, if the task has any.
        """
        found = [record for record in self.records if record.task == task and record.machine == machine]
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


def render(record: AnyRecord) -> str:
    """Write the line of a record."""
    kind = next(kind for kind, type_ in _KINDS.items() if isinstance(record, type_))
    return json.dumps({"format": FORMAT, "version": VERSION, "kind": kind, **asdict(record)}, allow_nan=False)


def parse(line: bytes) -> AnyRecord:
    """Read the record of a line.

    Raises:
        ValueError: If it is not a record, or has an unknown version.
    """
    try:
        content = json.loads(line)
    except ValueError:
        raise ValueError("it is not JSON (a line cut short, perhaps)") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f'it is not an object with "format": "{FORMAT}"')
    if (version := content.pop("version", None)) != VERSION:
        raise ValueError(f"it has version {version}, and this program knows version {VERSION}")
    kind = _KINDS.get(content.pop("kind", None))
    if kind is None:
        raise ValueError(f"its kind is not one of {', '.join(_KINDS)}")
    machine = _fields(TunedMachine, content.get("machine"), "machine")
    if not isinstance(machine["caches"], list) or not all(isinstance(size, int) for size in machine["caches"]):
        raise ValueError("the sizes of the caches are not numbers")
    values = _fields(kind, content, "record") | {
        "machine": TunedMachine(**{**machine, "caches": tuple(machine["caches"])})
    }
    record = kind(**values)
    for name in ("cost", "reference_cost", "gain"):
        value = values.get(name)
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ValueError(f"its {name} is {value}, not above 0")
    return record


_TYPES = {
    "str": str, "int": int, "bool": bool, "float": (int, float), "float | None": (int, float, type(None)),
    "tuple[int, ...]": list, "TunedMachine": dict,
}  # fmt: skip


def _fields(kind: type, content: Any, what: str) -> dict[str, Any]:
    """Check that ``content`` has all values of a dataclass, with the right types."""
    if not isinstance(content, dict):
        raise ValueError(f"its {what} is missing")
    expected: dict[str, Any] = {each.name: _TYPES[str(each.type)] for each in fields(kind)}
    if content.keys() != expected.keys():
        wrong = ", ".join(sorted(content.keys() ^ expected.keys()))
        raise ValueError(f"its {what} has other fields: {wrong}")
    for name, types in expected.items():
        value = content[name]
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            raise ValueError(f"its {name} is {value!r}")
    return content


def merge(output: str | os.PathLike[str], inputs: Sequence[str | os.PathLike[str]]) -> tuple[int, list[CorruptLine]]:
    """Write the records of several databases to one, without duplicates, in the order of their times.

    Args:
        output: The file to write. It is replaced atomically; its old records are kept only if it is one of the inputs.
        inputs: The databases to read.

    Returns:
        The number of records written, and the lines of the inputs that were skipped.

    Raises:
        TuningError: If a file cannot be read or written.
    """
    databases = [Database(path, must_exist=True) for path in inputs]
    records: list[AnyRecord] = []
    for each in databases:
        records += [*each.records, *each.networks]
    unique = sorted(dict.fromkeys(records), key=lambda record: record.when)
    write(output, unique)
    return len(unique), [line for database in databases for line in database.corrupt]


def write(path: str | os.PathLike[str], records: Iterable[AnyRecord]) -> None:
    """Write a database atomically.

    Raises:
        TuningError: If the file cannot be written.
    """
    with replacing(path, TuningError) as draft:
        draft.write_text("".join(render(record) + "\n" for record in records))
