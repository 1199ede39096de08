"""The records of a tuning database, and the lines of JSON that store them.

TVM's own database in MetaSchedule stores traces of schedule primitives for TIR modules. Our kernels have parameters
instead of schedules, are measured in pairs, and a measurement is valid for one CPU. So a line here states the cost of a
candidate for a task, the cost of its reference, and the machine.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime, timezone
from typing import Any

from sbnn_tvm.schedules.isa import ISAS

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


def render(record: AnyRecord) -> str:
    """Write the line of a record; its digest shows later damage."""
    kind = next(kind for kind, type_ in _KINDS.items() if isinstance(record, type_))
    line = {"format": FORMAT, "version": VERSION, "kind": kind, **asdict(record), "digest": _digest(record)}
    return json.dumps(line, allow_nan=False)


def parse(line: bytes) -> AnyRecord:
    """Read the record of a line, in UTF-8.

    Raises:
        ValueError: If it is not a record, has an unknown version, a value out of its range, or a digest that does not
            fit.
    """
    content = _object(line)
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise ValueError(f'it is not an object with "format": "{FORMAT}"')
    if (version := content.pop("version", None)) != VERSION or isinstance(version, bool):
        raise ValueError(f"it has version {_short(version)}, and this program knows version {VERSION}")
    name, digest = content.pop("kind", None), content.pop("digest", None)
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"its kind is not one of {', '.join(_KINDS)}")
    record = kind(**_fields(kind, content, "record") | {"machine": _machine(content["machine"])})
    check(record)
    if record.machine.isa not in ISAS:
        raise ValueError(f"its instruction set (isa) is {_short(record.machine.isa)}, not one of {', '.join(ISAS)}")
    if digest is None:
        raise ValueError("it has no digest: an older version wrote it, or it was damaged")
    if digest != _digest(record):
        raise ValueError("it was changed or damaged: its digest does not fit")
    return record


def check(record: AnyRecord) -> None:
    """Check that the numbers of a record are some that a measurement can have.

    Raises:
        ValueError: If one is not.
    """
    if isinstance(record, NetworkRecord):
        _check_range("gain", record.gain, *_GAINS)
        _check_range("noise", record.noise, 0, _GAINS[1])
    else:
        _check_costs(record)
    for size in record.machine.caches:
        _check_range("cache", size, 1, _CACHE_BYTES)
    _check_range("threads", record.machine.threads, 1, _THREADS)
    _check_time(record.when)


_TYPES = {
    "str": str, "int": int, "bool": bool, "float": (int, float), "float | None": (int, float, type(None)),
    "tuple[int, ...]": list, "TunedMachine": dict,
}  # fmt: skip
_COSTS = {SECONDS: (1e-12, 1e6), INSTRUCTIONS: (1, 1e18)}
"""The costs that a kernel can have, by unit."""
_GAINS = (1e-6, 1e6)
_THREADS, _CACHES, _CACHE_BYTES = 1 << 16, 16, 1 << 40


def _object(line: bytes) -> Any:
    def refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) != len(pairs):
            raise _DuplicateError
        return found

    try:
        return json.loads(line.decode(), object_pairs_hook=refuse_duplicates)
    except _DuplicateError:
        raise ValueError("it has a field twice") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except ValueError:
        raise ValueError("it is not JSON (a line cut short, perhaps)") from None


class _DuplicateError(Exception):
    """An object has a field twice."""


def _fields(kind: type, content: Any, what: str) -> dict[str, Any]:
    """Check that ``content`` has all values of a dataclass, with the right types."""
    if not isinstance(content, dict):
        raise ValueError(f"its {what} is missing")
    expected: dict[str, Any] = {each.name: _TYPES[str(each.type)] for each in fields(kind)}
    if content.keys() != expected.keys():
        wrong = ", ".join(sorted(content.keys() ^ expected.keys()))
        raise ValueError(f"its {what} has other fields: {_short(wrong)}")
    for name, types in expected.items():
        value = content[name]
        if not isinstance(value, types) or (isinstance(value, bool) and types is not bool):
            raise ValueError(f"its {name} is {_short(value)}")
    return content


def _machine(content: Any) -> TunedMachine:
    values = _fields(TunedMachine, content, "machine")
    caches = values["caches"]
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in caches) or len(caches) > _CACHES:
        raise ValueError("the sizes of the caches are not numbers")
    return TunedMachine(**{**values, "caches": tuple(caches)})


def _check_costs(record: Record) -> None:
    limits = _COSTS.get(record.unit)
    if limits is None:
        raise ValueError(f"its unit is {_short(record.unit)}, not {' or '.join(_COSTS)}")
    if record.cost is None or record.reference_cost is None:
        if record.cost is not record.reference_cost or not record.failure:
            raise ValueError("it has no cost, but did not fail")
        return
    if record.failure:
        raise ValueError("it failed, but has a cost")
    _check_range("cost", record.cost, *limits)
    _check_range("reference_cost", record.reference_cost, *limits)
    _check_range("gain", record.reference_cost / record.cost, *_GAINS)


def _check_range(name: str, value: float, least: float, most: float) -> None:
    # A comparison works for integers of any size, unlike math.isfinite; NaN compares as False.
    if not least <= value <= most:
        raise ValueError(f"its {name} is {_short(value)}, not a number from {least:g} to {most:g}")


def _check_time(when: str) -> None:
    try:
        known = datetime.fromisoformat(when).tzinfo is not None
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"its time is {_short(when)}, and not in ISO 8601 with a time zone")


def _short(value: object) -> str:
    """A value for a message; it may be of any size."""
    if isinstance(value, int) and value.bit_length() > 256:
        return "a number of more than 256 bits"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _digest(record: AnyRecord) -> str:
    """A checksum of all values of a record."""
    return f"{zlib.crc32(json.dumps(asdict(record), sort_keys=True).encode()):08x}"
