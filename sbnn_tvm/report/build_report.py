"""Build the compilation report from the lowered layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.frontends.onnx.opset import SOURCE
from sbnn_tvm.passes.families.choose import Choice
from sbnn_tvm.passes.layers.forms import Form
from sbnn_tvm.passes.layers.kinds import (
    AvgPool2d,
    BatchedProduct,
    BinaryConvolution,
    BinaryDense,
    BinaryLinearLayer,
    BitInterleaving,
    BitMaxPool2d,
    BitSelection,
    BitShift,
    ChannelSelection,
    Concatenation,
    Copy,
    Elementwise,
    FloatConvolution,
    FloatDense,
    FloatLinearLayer,
    GlobalAvgPool2d,
    IntegerConvolution,
    IntegerDense,
    IntegerLinearLayer,
    Layer,
    LinearLayer,
    MaxPool2d,
    PhaseInterleaving,
    QuantisationRange,
    Recurrent,
    Resampling,
    Rows,
    SampleMean,
    WindowSum,
)
from sbnn_tvm.passes.lowering.lower import Lowered, LoweredLayer, UnscheduledOperator
from sbnn_tvm.passes.relax.exceptional_weights import TWO_VALUES
from sbnn_tvm.passes.relax.facts import Note
from sbnn_tvm.passes.relax.node_names import with_node_names
from sbnn_tvm.passes.relax.weights import BinaryWeight
from sbnn_tvm.schedules.coded.expansion import Expansion
from sbnn_tvm.schedules.epilogue.program import Channel, Ref, Scalar
from sbnn_tvm.schedules.selection import Selection

from ..tuning_database.lookup import TuningLookup, known_machines
from .report import COST_MODEL, TUNED, UNSCHEDULED, YOU, LayerReport, Report

_KINDS: dict[type[Layer], str] = {
    BinaryConvolution: "binary conv", BinaryDense: "binary dense", FloatConvolution: "conv", FloatDense: "dense",
    IntegerConvolution: "integer conv", IntegerDense: "integer dense",
    WindowSum: "window sum", MaxPool2d: "max pool", BitMaxPool2d: "max pool on bits",
    AvgPool2d: "average pool", GlobalAvgPool2d: "global average pool", Elementwise: "elementwise",
    SampleMean: "mean of each sample", ChannelSelection: "channels", BitSelection: "channels of bits",
    BitShift: "shift of bits", Recurrent: "recurrent", Rows: "rows", BatchedProduct: "product of activations",
    PhaseInterleaving: "interleaving", BitInterleaving: "interleaving of bits",
    QuantisationRange: "quantisation range", Copy: "copy", Concatenation: "concatenation", Resampling: "resampling",
}  # fmt: skip


def build_report(lowered: Lowered, imported: Imported, model: str, target: str, notes: Sequence[Note]) -> Report:
    """The report of a compilation.

    Args:
        lowered: The kernels.
        imported: The model.
        model: Its name.
        target: The name of the target.
        notes: What the phases noted about values.
    """
    layers = tuple(_entry(entry, imported) for entry in lowered.entries)
    warnings = _sentences([note for note in notes if note.approximates], imported)
    warnings += tuple(_changed_weights(lowered, imported))
    advice = _sentences([note for note in notes if not note.approximates], imported)
    source = next((entry.value for entry in imported.model.metadata_props if entry.key == SOURCE), "")
    return Report(model, target, layers, warnings, source=source, advice=advice)


def _sentences(notes: Sequence[Note], imported: Imported) -> tuple[str, ...]:
    """Each sentence once, with the nodes that it is about."""
    nodes: dict[str, list[str]] = {}
    for note in notes:
        nodes.setdefault(note.sentence, []).append(imported.nodes.get(note.about, note.about))
    return tuple(f"{sentence}: {', '.join(dict.fromkeys(names))}" for sentence, names in nodes.items())


def _changed_weights(lowered: Lowered, imported: Imported) -> Iterator[str]:
    linear = [entry.layer for entry in lowered.layers if isinstance(entry.layer, LinearLayer)]
    changes = [(each.node(imported.nodes), each.weight_change) for each in linear if each.weight_change is not None]
    rounded = [f"{name} ({change.relative:.1e})" for name, change in changes if change.relative]
    if rounded:
        yield (
            "weights that take few values but for rounding became these values, changed by at most (relative to the "
            f"largest of their output channel): {', '.join(rounded)}; exact_weights=True forbids it"
        )
    zeros = [f"{name} ({change.zeros})" for name, change in changes if change.zeros]
    positive = any(change.sign_of_zero > 0 for _, change in changes)
    if zeros:
        value, sign_zero = ("+a", "positive") if positive else ("-a", "negative")
        yield (
            f"weights of 0 between -a and +a became {value}, as sign_zero={sign_zero!r} allows: {', '.join(zeros)}; "
            "exact_weights=True forbids it"
        )


def with_tuning(report: Report, tuning: TuningLookup, slower: bool) -> Report:
    """Add notes about a tuning database to a report.

    Args:
        report: The report of the compilation.
        tuning: The measurements that it used.
        slower: Whether they were not used, because the whole network was slower with them.
    """
    database = tuning.database
    notes, sentence = list(report.notes), ""
    if tuning.machine is None:
        notes.append(
            f"{database.path} has no measurements for this target's CPU, and nothing is tuned; "
            f"it has: {known_machines(database)}"
        )
    elif slower:
        notes.append(f"{database.path}: the whole network was slower with tuned kernels, which are not used")
    else:
        tuned = [layer for layer in report.layers if layer.gain is not None]
        sentence = f"{len(tuned)} kernels tuned by {database.path}, measured on {tuning.machine}"
    return replace(report, notes=(*notes, *tuning.complaints()), tuning=sentence)


def of_builds(described: Report, reports: Mapping[str, Report], target: str) -> Report:
    """The report of a target that holds several builds.

    Args:
        described: The report of the build whose layers are shown.
        reports: The reports of all builds by the names of their targets, best first.
        target: The name of the target.
    """
    own = described.fallbacks()
    notes = [
        f"in the build {name}: {sentence}"
        for name, report in reports.items()
        for sentence in report.fallbacks()
        if report is not described and sentence not in own
    ]
    sentence = f"the library holds builds for {', '.join(reports)}; the table shows {described.target}"
    tuning = described.tuning
    untuned = [name for name, report in reports.items() if tuning and not report.tuning]
    if untuned:
        tuning += f"; without measurements: {', '.join(untuned)}"
    return replace(described, target=target, notes=(*described.notes, *notes), tuning=tuning, builds=sentence)


def _entry(entry: LoweredLayer | UnscheduledOperator, imported: Imported) -> LayerReport:
    if isinstance(entry, LoweredLayer):
        return _layer(entry, imported)
    return LayerReport(
        name=imported.nodes.get(entry.name, entry.name),
        kind=entry.operator.removeprefix("nn."),
        weights="",
        density=None,
        activations=32,
        kernel=UNSCHEDULED,
        bytes=0,
        macs=0,
        why="there is no kernel of ours for this operator",
    )


def _layer(entry: LoweredLayer, imported: Imported) -> LayerReport:
    layer, choice, nodes = entry.layer, entry.choice, imported.nodes
    family, built = choice.candidate.family, choice.built
    # The first of two planes is a part of the layer that the second one completes, as a window sum is.
    linear = layer if isinstance(layer, LinearLayer) and not layer.sums_windows and layer.plane_of != "" else None
    kind = ("window sum" if layer.sums_windows else _KINDS[type(layer)]) + _geometry(layer)
    if isinstance(layer, LinearLayer) and layer.plane_of == "":
        kind = f"first plane of {kind}"
    why = with_node_names(layer.why_float, nodes) if isinstance(layer, FloatLinearLayer) else ""
    if isinstance(layer, BinaryLinearLayer) and built.reads == Form.CHANNELS_LAST:
        kind = kind.removeprefix("binary ")
        why = f"it is binary, but {_why_float(choice)}: it runs in float with the same result"
    values = None if linear is None else _two_values(linear, nodes)
    weights, macs = "", 0
    if linear is not None:
        nonzero = np.count_nonzero(linear.weight) / linear.weight.size
        macs = round(linear.macs * nonzero) if family.skips_zeros else linear.macs
        weights = f"float32, {nonzero:.2%} not 0" if family.skips_zeros else "float32"
        if isinstance(linear, IntegerLinearLayer):
            weights = f"int{linear.weight_bits}"
    elif isinstance(layer, BatchedProduct):
        macs = layer.shape.macs
    return LayerReport(
        name=layer.node(nodes),
        kind=kind,
        weights=(linear.plane_of if linear is not None else None) or (weights if values is None else str(values)),
        density=None if values is None else values.density,
        activations=_activation_bits(layer, choice),
        kernel=choice.kernel.name + (" + threshold" if built.folded else ""),
        bytes=sum(map(_stored_bytes, entry.constants)),
        macs=macs,
        why=why,
        chosen=_chosen(choice),
        gain=None if choice.tuned is None else choice.tuned.gain,
        weight_count=0 if linear is None else linear.weight.size,
        coding=_coding(entry),
        expanded_bytes=choice.kernel.constant_bytes,
    )


def _stored_bytes(constant: np.ndarray | Expansion) -> int:
    return constant.kernel.constant_bytes if isinstance(constant, Expansion) else constant.nbytes


def _coding(entry: LoweredLayer) -> str:
    """The codings of the coded constants, the one of the largest constant first."""
    coded = [constant for constant in entry.constants if isinstance(constant, Expansion)]
    return ", ".join(dict.fromkeys(each.coding for each in sorted(coded, key=_stored_bytes, reverse=True)))


def _chosen(choice: Choice) -> str:
    ways = [YOU] * choice.forced + [TUNED] * (choice.tuned is not None)
    return ", ".join(ways) or COST_MODEL


def _why_float(choice: Choice) -> str:
    if choice.forced:
        return "you chose the float kernel"
    if choice.tuned is not None:
        return "the float kernel was faster when it was tuned"
    return "its groups have too few channels for popcounts to pay"


def _activation_bits(layer: Layer, choice: Choice) -> int:
    if choice.built.reads in (Form.CHANNELS_LAST, Form.PLAIN):
        return 8 * np.dtype(layer.data_dtype).itemsize
    return 1 if layer.input_domain is None else layer.input_domain.bits


def _geometry(layer: Layer) -> str:
    match layer:
        case ChannelSelection() | BitSelection():
            moved = layer.selection != Selection.concatenation(layer.selection.inputs) or layer.pixels is None
            parts = [str(layer.selection)] * moved + ([str(layer.pixels)] if layer.pixels is not None else [])
            return f": {', '.join(parts)}"
        case Recurrent():
            return f": {layer.recurrence.cell}, {layer.steps} steps" + ", reversed" * layer.recurrence.reverse
        case (
            FloatConvolution() | BinaryConvolution() | IntegerConvolution() | MaxPool2d() | AvgPool2d() | BitMaxPool2d()
        ):
            conv = layer.shape
        case WindowSum() if len(layer.extent) == 4:
            conv = layer.shape
        case _:
            return ""
    text = f" {conv.kernel[0]}x{conv.kernel[1]}"
    if conv.strides != (1, 1):
        text += f"/{conv.strides[0]}" if conv.strides[0] == conv.strides[1] else f"/{conv.strides[0]}x{conv.strides[1]}"
    if isinstance(layer, LinearLayer) and conv.groups > 1:
        text += f", {conv.groups} groups"
    return text


@dataclass(frozen=True, eq=False)
class _Values:
    """The two values of a layer's weights: ``scale * sign + offset``.

    Attributes:
        signs: The signs of the weights, output channels first; +1 where positive.
        scale: float32 [out channels].
        offset: float32 [out channels]; None if the offset cannot be read from the epilogue.
    """

    signs: np.ndarray
    scale: np.ndarray
    offset: np.ndarray | None

    @property
    def density(self) -> float:
        """Share of the weights that have the larger value."""
        rises = (self.scale >= 0).reshape(-1, *[1] * (self.signs.ndim - 1))
        return float(((self.signs > 0) == rises).mean())

    def __str__(self) -> str:
        if self.offset is None:
            return "{a, b} per channel"
        low, high = self.offset - abs(self.scale), self.offset + abs(self.scale)
        if (low == low[0]).all() and (high == high[0]).all():
            return "{-1, +1}" if (low[0], high[0]) == (-1, 1) else f"{{{low[0]:.4g}, {high[0]:.4g}}}"
        return "{a, b} per channel" if self.offset.any() else "{-a, +a} per channel"


def _two_values(layer: LinearLayer, nodes: Mapping[str, str]) -> _Values | None:
    """The values of two-valued weights; None for other weights."""
    if isinstance(layer, IntegerLinearLayer):
        return None
    if not isinstance(layer, BinaryLinearLayer):
        binary = BinaryWeight.of(layer.weight) if BinaryWeight.telling(layer.weight) else None
        return None if binary is None else _Values(binary.signs, binary.tau, binary.phi)
    if layer.factors is not None:
        return _Values(layer.weight, *layer.factors)
    # The epilogue begins with the operations of the layer's own ONNX node on the sum of signs.
    channels = layer.out_channels
    scale, offset = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    for step, name in zip(layer.program.steps, layer.step_names, strict=True):
        if not _own(layer, name, nodes):
            break
        constants = [side for side in (step.a, step.b) if isinstance(side, Channel | Scalar)]
        if step.op == "add" and not constants:
            return _Values(layer.weight, scale, offset if offset.any() else None)
        if step.op == "multiply" and constants:
            values = np.broadcast_to(np.float32(_numbers(constants[0])), channels)
            if Ref(0) in (step.a, step.b):
                scale = values
            else:
                offset = values
        if name.endswith(TWO_VALUES):  # what follows adds the few other weights
            break
    return _Values(layer.weight, scale, np.zeros_like(scale))


def _numbers(constant: Channel | Scalar) -> np.ndarray | float:
    return constant.values if isinstance(constant, Channel) else constant.value


def _own(layer: LinearLayer, name: str, nodes: Mapping[str, str]) -> bool:
    """Whether a step comes from the layer's own ONNX node.

    Steps that the recogniser adds have no node; their names begin with the name of the layer.
    """
    origin = nodes.get(name)
    if origin is None:
        return name.startswith(layer.integer_sum_of or layer.name)
    return origin == layer.node(nodes)
