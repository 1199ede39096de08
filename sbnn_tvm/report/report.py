"""What each layer became, and why."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType
    from rich.table import Table

UNSCHEDULED = "TVM (unscheduled)"
COST_MODEL, YOU, TUNED = "cost model", "chosen by you", "tuned"
"""Who chose a kernel."""


@dataclass(frozen=True)
class LayerReport:
    """One layer of a compiled model.

    Attributes:
        name: The ONNX node; for an exported PyTorch model the path of the module.
        kind: What it computes.
        weights: The domain of its weights, or ``"float32"``; empty without weights.
        density: Share of the weights that take the upper value of their domain (binary layers).
        activations: Bits of each activation that it reads.
        kernel: The kernel that was chosen; ``"TVM (unscheduled)"`` for an operator that has none of ours.
        bytes: Constants of the kernel in the library, as they are stored.
        macs: Multiply-accumulates, one for each weight used at each output.
        why: Why a layer with weights is not binary, or what was allowed for it.
        chosen: Who chose the kernel: ``"cost model"``, ``"chosen by you"``, ``"tuned"``, or both of the last two.
        gain: How many times faster than the untuned kernel it was when it was tuned.
        weight_count: How many weights it has.
        coding: How constants are coded that are expanded when the library is loaded, most bytes first; may be empty.
        expanded_bytes: Constants of the kernel in memory, expanded.
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
        """What the library stores for the layer, all constants together, for each weight."""
        return 8 * self.bytes / self.weight_count if self.weight_count else None

    @property
    def binary(self) -> bool:
        """Whether binary weights meet activations of one or a few bits in a popcount."""
        return self.kind.startswith("binary") and self.activations < 32

    @property
    def scheduled(self) -> bool:
        """Whether the layer runs in a kernel of ours."""
        return self.kernel != UNSCHEDULED

    @property
    def fallback(self) -> bool:
        """Whether its weights are binary but it runs in float, unasked, or it runs in TVM's unscheduled loops."""
        asked = YOU in self.chosen
        return not self.scheduled or (self.density is not None and not self.binary and not asked)

    @property
    def how(self) -> str:
        """The kernel, and who chose it if that was not the cost model."""
        if self.chosen == COST_MODEL:
            return self.kernel
        gain = "" if self.gain is None else f" {self.gain:.2f}x"
        return f"{self.kernel} ({self.chosen}{gain})"


@dataclass(frozen=True)
class Report:
    """What became of a model; ``print`` shows it as a table.

    Attributes:
        model: Name of the model.
        target: Name of the target.
        layers: In order of execution.
        notes: What was approximated or given up, with the user's permission, in sentences.
        tuning: Where tuned kernels come from; empty without tuning.
    """

    model: str
    target: str
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()
    tuning: str = ""

    @property
    def linear(self) -> tuple[LayerReport, ...]:
        """The layers with weights."""
        return tuple(layer for layer in self.layers if layer.weights)

    @property
    def bytes(self) -> int:
        """Constants of all kernels."""
        return sum(layer.bytes for layer in self.layers)

    def summary(self) -> str:
        """One line."""
        binary = [layer for layer in self.linear if layer.binary]
        macs, binary_macs = (sum(layer.macs for layer in some) for some in (self.linear, binary))
        share = binary_macs / macs if macs else 0.0
        return (
            f"{self.model} for {self.target}: {len(binary)} of {len(self.linear)} layers with weights are binary "
            f"({share:.1%} of {macs / 1e6:.4g} M MACs), {self.bytes / 1024:.1f} KiB of constants"
        )

    def fallbacks(self) -> tuple[str, ...]:
        """What ``strict=True`` refuses, in sentences."""
        found = [f"{layer.name} ({layer.kind}): {layer.why}" for layer in self.layers if layer.fallback]
        return (*found, *self.notes)

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read what ``to_json`` wrote."""
        record = json.loads(text)
        layers = tuple(LayerReport(**layer) for layer in record["layers"])
        return cls(record["model"], record["target"], layers, tuple(record["notes"]), record.get("tuning", ""))

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=200, color_system=None)
        console.print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        """The table, for rich's consoles; a narrow one gets fewer columns, of two lines each."""
        from rich.measure import Measurement
        from rich.text import Text

        table = self._table(None)
        if Measurement.get(console, options.update(width=10_000), table).maximum > options.max_width:
            table = self._table(options.max_width)
        yield table
        yield ""
        yield from self._reasons()
        yield Text(self.summary(), style="bold")
        if self.tuning:
            yield Text(self.tuning)
        for note in self.notes:
            yield Text(f"note: {note}", style="yellow")

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
            table.add_row(*(Text(column.cell(layer)) for column in columns), style=style)
        return table

    def _reasons(self) -> Iterable[RenderableType]:
        """Why layers with weights are not binary; layers with the same reason share a paragraph."""
        from rich.padding import Padding
        from rich.text import Text

        reasons: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.why:
                reasons.setdefault(layer.why, []).append(layer.name)
        if reasons:
            yield Text("Why not binary", style="bold")
            for why, names in reasons.items():
                yield Padding(Text(f"{', '.join(names)}: {why}"), (0, 0, 0, 2))
            yield ""


@dataclass(frozen=True)
class _Column:
    """A column of the table.

    Attributes:
        heading: Of the column.
        cell: What a layer has there.
        narrow: Its width where there is little room; 0 to do without it.
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
