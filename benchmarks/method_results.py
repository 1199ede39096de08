"""The results of methods.py: files in one folder per method, and the table that is made from them.

A folder holds one ``seed-N.json`` per finished training (Training), and for the model of the first seed
``deployed.json`` (Deployment) and ``model.so``. So a stopped comparison continues where it was, and several processes
can fill the same folder.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Training:
    """One training of a method.

    Attributes:
        seed, epochs: What was trained.
        accuracy: Per cent of the test images.
        seconds: Time of the training, without the networks that it starts from.
    """

    seed: int
    epochs: int
    accuracy: float
    seconds: float


@dataclass(frozen=True)
class Deployment:
    """The compiled model of one seed.

    Attributes:
        weight_bytes: Size of the body's weights in a file.
        library_bytes: Size of the shared library.
        images, equal: The test images, and those for which PyTorch, onnxruntime and the library give the same class.
        distance: The largest difference of two scores of an image, relative to the largest score.
        on_bits: How many of the body's layers run on bits, of how many.
        kernels: The kernels of the body's layers, each once.
    """

    weight_bytes: int
    library_bytes: int
    images: int
    equal: int
    distance: float
    on_bits: tuple[int, int]
    kernels: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        key: Names the method in commands and files.
        name: Names it in the table and the plots.
        family: Methods of a family have the same colour.
        accuracies: Per cent of the test images, by seed.
        seconds: Mean time of a training.
        deployment: Of the first seed.
        microseconds: Latency of the library for one image.
        float_microseconds: Latency of the float32 network of the same architecture in onnxruntime.
    """

    key: str
    name: str
    family: str
    accuracies: dict[int, float]
    seconds: float
    deployment: Deployment
    microseconds: float
    float_microseconds: float

    @property
    def accuracy(self) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.accuracies.values())

    @property
    def error(self) -> float:
        """The standard error of the mean; NaN with one seed."""
        return standard_error(list(self.accuracies.values()))

    @property
    def accuracy_text(self) -> str:
        """The mean with its standard error; one training has none."""
        one = len(self.accuracies) == 1
        return f"{self.accuracy:.1f} (one seed)" if one else f"{self.accuracy:.1f} +- {self.error:.1f}"

    @classmethod
    def from_json(cls, fields: dict) -> Row:
        """The row that a JSON object describes."""
        accuracies = {int(seed): value for seed, value in fields["accuracies"].items()}
        return cls(**{**fields, "accuracies": accuracies, "deployment": deployment_of(fields["deployment"])})


@dataclass(frozen=True)
class Gain:
    """The accuracy of one method minus that of another, over the seeds that both were trained with.

    Attributes:
        name: What is compared.
        gains: Points of accuracy, by seed.
    """

    name: str
    gains: dict[int, float]

    def __str__(self) -> str:
        values = list(self.gains.values())
        return f"{statistics.fmean(values):+.1f} +- {standard_error(values):.1f} points over {len(values)} seeds"

    @classmethod
    def of(cls, name: str, one: Row, other: Row) -> Gain:
        """Compares two rows seed by seed: both start from the same networks."""
        both = one.accuracies.keys() & other.accuracies.keys()
        return cls(name, {seed: one.accuracies[seed] - other.accuracies[seed] for seed in sorted(both)})


def standard_error(values: Sequence[float]) -> float:
    """The standard error of a mean; NaN for fewer than two values."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def deployment_of(fields: dict) -> Deployment:
    """The deployment that a JSON object describes."""
    lists = {name: tuple(fields[name]) for name in ("on_bits", "kernels")}
    return Deployment(**{**fields, **lists})


def write(path: Path, record: Training | Deployment) -> None:
    """Writes a result in one step, so that another process never reads half of it."""
    draft = path.with_suffix(".draft")
    draft.write_text(json.dumps(asdict(record)) + "\n")
    draft.replace(path)


def trainings(folder: Path) -> dict[int, Training]:
    """The finished trainings in a method's folder, by seed."""
    found = [Training(**json.loads(path.read_text())) for path in sorted(folder.glob("seed-*.json"))]
    return {each.seed: each for each in found}


def deployment(folder: Path) -> Deployment | None:
    """The deployment in a method's folder, if there is one."""
    path = folder / "deployed.json"
    return deployment_of(json.loads(path.read_text())) if path.exists() else None


def markdown(rows: Sequence[Row], gains: Sequence[Gain], machine: str) -> str:
    """The table and the comparisons, for docs/methods.md."""
    head = ("method", "accuracy %", "bytes", "library KiB", "us", "faster than float32", "`--only`")
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
    for row in rows:
        cells = (
            row.name,
            row.accuracy_text,
            f"{row.deployment.weight_bytes:,}",
            f"{row.deployment.library_bytes / 1024:.0f}",
            f"{row.microseconds:.1f}",
            f"{row.float_microseconds / row.microseconds:.1f}x",
            f"`{row.key}`",
        )
        lines.append("| " + " | ".join(cells) + " |")
    seeds = sorted({seed for row in rows for seed in row.accuracies})
    images = {row.deployment.images for row in rows}
    equal = sum(row.deployment.equal for row in rows)
    lines += [
        "",
        f"Measured on {machine}, one thread, seeds {', '.join(map(str, seeds))}. PyTorch, onnxruntime and the library "
        f"give the same class for {equal:,} of {sum(row.deployment.images for row in rows):,} images "
        f"({max(images, default=0):,} per row); scores differ by at most "
        f"{max((row.deployment.distance for row in rows), default=0):.0e} of the largest.",
    ]
    lines += ["", *(f"- {gain.name}: {gain}." for gain in gains)] if gains else []
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- made by benchmarks/methods.py: begin -->", "<!-- end -->"


def replace_table(document: Path, table: str) -> None:
    """Puts the table between the two marks of a document.

    Raises:
        SystemExit: If the document has no such marks.
    """
    before, begin, rest = document.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{document} has no lines {BEGIN!r} and {END!r} to put the table between")
    document.write_text(f"{before}{BEGIN}\n{table}{END}{after}")
