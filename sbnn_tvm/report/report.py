"""The report of a compilation: what each layer became, and why."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from ..extras import needed_by
from ..printable import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
    from rich.table import Table

UNSCHEDULED = "TVM (unscheduled)"
COST_MODEL, YOU, TUNED = "cost model", "chosen by you", "tuned"
"""The ways in which a kernel is chosen."""


@dataclass(frozen=True)
class LayerReport:
    """One layer of a compiled model.

    Attributes:
        name: Name of the ONNX node; for an exported PyTorch model the path of the module.
        kind: The operation that it computes.
        weights: The domain of its weights, or ``"float32"``; empty without weights.
        density: Share of the weights that have the upper value of their domain (binary layers).
        activations: Bits of each activation that it reads.
        kernel: The kernel; ``"TVM (unscheduled)"`` for an operator without a scheduled kernel.
        bytes: Bytes of the kernel's constants as they are stored in the library.
        macs: Multiply-accumulates, one per weight and output that uses it.
        why: Why a layer with weights is not binary, or what was allowed for it.
        chosen: How the kernel was chosen: ``"cost model"``, ``"chosen by you"``, ``"tuned"``, or
            ``"chosen by you, tuned"``.
        gain: Time of the untuned kernel over time of this one, as measured when it was tuned.
        weight_count: Number of weights.
        coding: Codings of the constants that are decoded when the library is loaded, most bytes first; may be empty.
        expanded_bytes: Bytes of the kernel's constants in memory, decoded.
    """

    name: str
    kind: str
    weights: str
    density: float | None
    activations: int
    kernel: str
    bytes: int
    macs: int
    why: str
    chosen: str = COST_MODEL
    gain: float | None = None
    weight_count: int = 0
    coding: str = ""
    expanded_bytes: int = 0

    @property
    def bits_per_weight(self) -> float | None:
        """Bits of all constants that the library stores for the layer, per weight."""
        return 8 * self.bytes / self.weight_count if self.weight_count else None

    @property
    def binary(self) -> bool:
        """Whether it has binary weights and reads activations of one or a few bits."""
        return self.kind.startswith("binary") and self.activations < 32

    @property
    def of_integers(self) -> bool:
        """Whether it has integer weights and reads activations of 8 bits."""
        return self.kind.startswith("integer")

    @property
    def scheduled(self) -> bool:
        """Whether the layer has a scheduled kernel, rather than TVM's default loops."""
        return self.kernel != UNSCHEDULED

    @property
    def fallback(self) -> bool:
        """Whether it runs in TVM's unscheduled loops, or has binary weights and runs in float without your choice."""
        asked = YOU in self.chosen
        return not self.scheduled or (self.density is not None and not self.binary and not asked)

    @property
    def how(self) -> str:
        """The kernel, and how it was chosen unless by the cost model."""
        if self.chosen == COST_MODEL:
            return self.kernel
        gain = "" if self.gain is None else f" {self.gain:.2f}x"
        return f"{self.kernel} ({self.chosen}{gain})"


@dataclass(frozen=True)
class Report:
    """What each layer of a model became; ``print`` shows it as a table.

    Attributes:
        model: Name of the model.
        target: Name of the target.
        layers: In order of execution.
        notes: Sentences about approximations that the user allowed, and about problems with the tuning database.
        tuning: A sentence about the source of tuned kernels; empty without tuning.
        source: A sentence about how a PyTorch module was traced, if not by torch.export alone; else empty.
        advice: Sentences about what else an option could do.
        builds: A sentence about the builds of a target that holds several, and which one is described; else empty.
    """

    model: str
    target: str
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    tuning: str = ""
    source: str = ""
    advice: tuple[str, ...] = ()
    builds: str = ""

    @property
    def linear(self) -> tuple[LayerReport, ...]:
        """The layers with weights."""
        return tuple(layer for layer in self.layers if layer.weights)

    @property
    def bytes(self) -> int:
        """Bytes of the constants of all kernels, as they are stored."""
        return sum(layer.bytes for layer in self.layers)

    def summary(self) -> str:
        """A summary of one line."""
        binary = [layer for layer in self.linear if layer.binary]
        macs, binary_macs = (sum(layer.macs for layer in some) for some in (self.linear, binary))
        share = binary_macs / macs if macs else 0.0
        integers = sum(layer.of_integers for layer in self.linear)
        also = f", {integers} are of 8-bit integers" if integers else ""
        return printable(
            f"{self.model} for {self.target}: {len(binary)} of {len(self.linear)} layers with weights are binary "
            f"({share:.1%} of {macs / 1e6:.4g} M MACs){also}, {self.bytes / 1024:.1f} KiB of constants"
        )

    def fallbacks(self) -> tuple[str, ...]:
        """Everything that ``strict=True`` refuses, one sentence each."""
        found = [f"{layer.name} ({layer.kind}): {layer.why}" for layer in self.layers if layer.fallback]
        return (*found, *self.notes)

    def to_json(self) -> str:
        """The report as JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what ``to_json`` wrote.

        Raises:
            ValueError: If the text is anything else.
        """
        try:
            record = json.loads(text)
            layers = tuple(_layer(layer) for layer in record["layers"])
            sentences = record.get("tuning", ""), record.get("source", "")
            builds = record.get("builds", "")
            texts = [record["model"], record["target"], *sentences, builds, *record["notes"], *record["advice"]]
            if not all(isinstance(each, str) for each in texts):
                raise ValueError("its model, target, notes, advice, tuning, source and builds must be text")
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"the report is not one of this version: {error}") from None
        return cls(
            record["model"],
            record["target"],
            layers,
            tuple(record["notes"]),
            *sentences,
            tuple(record["advice"]),
            builds,
        )

    def __str__(self) -> str:
        with needed_by("a report as text"):
            from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=200, color_system=None)
        console.print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        """The table, for rich's consoles. A narrow console gets fewer columns, and cells may have two lines."""
        from rich.measure import Measurement
        from rich.text import Text

        table = self._table(None)
        if Measurement.get(console, options.update(width=10_000), table).maximum > options.max_width:
            table = self._table(options.max_width)
        yield table
        yield ""
        yield from self._reasons()
        yield Text(self.summary(), style="bold")
        for sentence in (self.builds, self.source, self.tuning):
            if sentence:
                yield Text(printable(sentence))
        for note in self.notes:
            yield Text(printable(f"note: {note}"), style="yellow")
        for sentence in self.advice:
            yield Text(printable(f"advice: {sentence}"))

    def _table(self, width: int | None) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="bold")
        columns = [column for column in _COLUMNS if width is None or column.narrow]
        widths = [column.narrow for column in columns]
        if width is not None:
            widths[0] = max(8, width - sum(widths[1:]) - 2 * (len(widths) - 1))
        for column, limit in zip(columns, widths, strict=True):
            justify: JustifyMethod = "right" if column.number else "left"
            table.add_column(
                column.heading, justify=justify, overflow="fold", max_width=None if width is None else limit
            )
        for layer in self.layers:
            style = "yellow" if layer.fallback else "" if layer.binary else "dim" if not layer.weights else ""
            table.add_row(*(Text(printable(column.cell(layer))) for column in columns), style=style)
        return table

    def _reasons(self) -> Iterable[RenderableType]:
        """Why layers with weights are not binary: one paragraph per reason."""
        from rich.padding import Padding
        from rich.text import Text

        reasons: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.why:
                reasons.setdefault(layer.why, []).append(layer.name)
        if reasons:
            yield Text("Why not binary", style="bold")
            for why, names in reasons.items():
                yield Padding(Text(printable(f"{', '.join(names)}: {why}")), (0, 0, 0, 2))
            yield ""


@dataclass(frozen=True)
class _Column:
    """A column of the table.

    Attributes:
        heading: Heading of the column.
        cell: The text for a layer.
        narrow: Its width in a narrow table; 0 to leave it out.
        number: Whether to align it to the right.
    """

    heading: str
    cell: Callable[[LayerReport], str]
    narrow: int
    number: bool = False


_COLUMNS = (
    _Column("layer", lambda layer: layer.name, 8),
    _Column("kind", lambda layer: layer.kind, 12),
    _Column("weights", lambda layer: layer.weights, 11),
    _Column("density", lambda layer: "" if layer.density is None else f"{layer.density:.1%}", 7, True),
    _Column("bits", lambda layer: str(layer.activations), 0, True),
    _Column("kernel", lambda layer: layer.how, 16),
    _Column("KiB", lambda layer: f"{layer.bytes / 1024:.1f}" if layer.bytes else "", 0, True),
    _Column("bits/w", lambda layer: f"{layer.bits_per_weight:.2f}" if layer.bits_per_weight else "", 0, True),
    _Column("coding", lambda layer: layer.coding, 0),
    _Column("M MACs", lambda layer: f"{layer.macs / 1e6:.3f}" if layer.macs else "", 8, True),
)


def _layer(fields: dict[str, Any]) -> LayerReport:
    types = get_type_hints(LayerReport)
    for name, value in fields.items():
        if not isinstance(value, types.get(name, ())):
            raise ValueError(f"a layer cannot have {name}={value!r}")
    return LayerReport(**fields)
