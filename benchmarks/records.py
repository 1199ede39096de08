"""What the benchmarks write: one JSON file a benchmark, one record a measurement, and the machine it was made on."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from sbnn_tvm.schedules.shapes import Conv2dShape


@dataclass(frozen=True)
class Record:
    """One layer computed in one way.

    Attributes:
        layer: As the tables call it, for example ``"3x3 56x56 64"``.
        shape: The layer; a dense layer is a 1x1 convolution over a row of ``batch`` pixels.
        kernel: Who computed it and how, for example ``"popcount"``, ``"bit planes"`` or ``"onnxruntime int8"``; a limit
            of the machine ends in ``" limit"``: the time that its probe needs for as many multiply-accumulates.
        isa: The instruction set that the kernel was compiled for.
        epilogue: What it stores: ``"bits"``, ``"float"`` or ``"float + bits"``.
        seconds: Of the fastest run.
        density: The share of set weights; None for weights {-1, +1} and floats.
    """

    layer: str
    shape: Conv2dShape
    kernel: str
    isa: str
    epilogue: str
    seconds: float
    density: float | None = None

    @property
    def macs_per_second(self) -> float:
        """Dense-equivalent multiply-accumulates: weights that are not set count too."""
        return self.shape.macs / self.seconds

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Record:
        """The record of a JSON object."""
        shape: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields["shape"].items()
        }
        return cls(**{**fields, "shape": Conv2dShape(**shape)})


@dataclass(frozen=True)
class Machine:
    """Where and when something was measured.

    Attributes:
        cpu: Its name.
        day: ISO 8601.
    """

    cpu: str = field(default_factory=lambda: cpu_name())
    day: str = field(default_factory=lambda: date.today().isoformat())

    def __str__(self) -> str:
        return f"{self.cpu}, {self.day}"


def cpu_name() -> str:
    """The name of this CPU, or its numbers where it has no name."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" in fields:
        numbers = f"family {fields.get('cpu family')} model {fields.get('model')}"
        return f"{fields['model name']} ({numbers})"
    return f"implementer {fields.get('CPU implementer', '?')} part {fields.get('CPU part', '?')}"


def write(path: Path, records: Iterable[Record], machine: Machine | None = None) -> None:
    """Write the records of one benchmark: ``{"machine": {...}, "records": [{...}, ...]}``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": asdict(machine or Machine()), "records": [asdict(record) for record in records]}
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> tuple[Machine, list[Record]]:
    """What :func:`write` wrote."""
    content = json.loads(path.read_text())
    return Machine(**content["machine"]), [Record.from_json(fields) for fields in content["records"]]
