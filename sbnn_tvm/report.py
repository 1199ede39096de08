"""What each layer became, and why."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass


UNSCHEDULED = "TVM (unscheduled)"


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
        bytes: Constants of the kernel in the library.
        macs: Multiply-accumulates, one for each weight used at each output.
        why: Why a layer with weights is not binary, or what was allowed for it.
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

    @property
    def binary(self) -> bool:
        """Whether binary weights meet binary activations in a popcount."""
        return self.kind.startswith("binary") and self.activations == 1

    @property
    def scheduled(self) -> bool:
        """Whether the layer runs in a kernel of ours."""
        return self.kernel != UNSCHEDULED


    @property
    def fallback(self) -> bool:
        """Whether its weights are binary but it runs in float, or it runs in TVM's unscheduled loops."""
        return not self.scheduled or (self.density is not None and not self.binary)


@dataclass(frozen=True)
class Report:
    """What became of a model; ``print`` shows it as a table.

    Attributes:
        model: Name of the model.
        target: Name of the target.
        layers: In order of execution.
        notes: What was approximated or given up, with the user's permission, in sentences.
    """

    model: str
    target: str
    layers: tuple[LayerReport, ...]
    notes: tuple[str, ...] = ()

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
        return cls(record["model"], record["target"], layers, tuple(record["notes"]))

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(file=text, width=200, color_system=None)
        console.print(self)
        return "\n".join(line.rstrip() for line in text.getvalue().rstrip().splitlines())

    def __rich_console__(self, console: object, options: object) -> Iterable[object]:
        """The table, for rich's consoles."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, title=None)
        right = {"density", "bits", "bytes", "MACs"}
        for heading in ("layer", "kind", "weights", "density", "bits", "kernel", "bytes", "MACs", "why not binary"):
            table.add_column(heading, justify="right" if heading in right else "left", overflow="fold")
        for layer in self.layers:
            density = "" if layer.density is None else f"{layer.density:.1%}"
            macs = f"{layer.macs:,}" if layer.macs else ""
            cells = (layer.name, layer.kind, layer.weights, density, str(layer.activations), layer.kernel)
            table.add_row(*cells, f"{layer.bytes:,}", macs, layer.why)
        yield table
        yield self.summary()
        for note in self.notes:
            yield f"note: {note}"
