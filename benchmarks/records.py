"""The results of a benchmark as JSON: one record per measurement, and the machine it was made on."""

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
        layer: Its name in the tables, for example ``"3x3 56x56 64"``.
        shape: The layer. A dense layer is a 1x1 convolution over a row of ``batch`` pixels.
        kernel: The kernel or engine, for example ``"popcount"``, ``"bit planes"`` or ``"onnxruntime int8"``. A name
            that ends in ``" limit"`` is a limit of the machine: the time that its probe needs for as many
            multiply-accumulates.
        isa: Name of the instruction set that the kernel was compiled for.
        epilogue: What the kernel stores, for example ``"bits"``, ``"float"`` or ``"float + bits"``.
        seconds: Time of the fastest run, per layer.
        density: Share of set weights; None where it does not matter (popcounts and float kernels).
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
        """Multiply-accumulates of the dense layer per second: weights that are not set count too."""
        return self.shape.macs / self.seconds

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Record:
        """The record that a JSON object describes."""
        shape: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in fields["shape"].items()
        }
        return cls(**{**fields, "shape": Conv2dShape(**shape)})


@dataclass(frozen=True)
class Machine:
    """Where and when something was measured.

    Attributes:
        cpu: Name of the CPU.
        day: The date in ISO 8601, for example ``"2026-11-21"``.
    """

    cpu: str = field(default_factory=lambda: cpu_name())
    day: str = field(default_factory=lambda: date.today().isoformat())

    def __str__(self) -> str:
        return f"{self.cpu}, {self.day}"


def cpu_name() -> str:
    """The name of this CPU, or its part number if it has no name."""
    fields: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    if "model name" in fields:
        numbers = f"family {fields.get('cpu family')} model {fields.get('model')}"
        return f"{fields['model name']} ({numbers})"
    return f"implementer {fields.get('CPU implementer', '?')} part {fields.get('CPU part', '?')}"


def write(path: Path, records: Iterable[Record], machine: Machine | None = None) -> None:
    """Write the records of one benchmark: ``{"machine": {...}, "records": [{...}, ...]}``.

    Args:
        path: The JSON file.
        records: In the order of the tables.
        machine: Where they were measured; by default this machine, today.
    """
    write_json(path, {"machine": asdict(machine or Machine()), "records": [asdict(record) for record in records]})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file, and the folders above it if they are missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def read(path: Path) -> tuple[Machine, list[Record]]:
    """The machine and the records that :func:`write` stored in a file."""
    content = json.loads(path.read_text())
    return Machine(**content["machine"]), [Record.from_json(fields) for fields in content["records"]]
