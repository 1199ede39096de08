"""From the lowered layers to the report that a user reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.passes.families.build_kernel import Choice, DataForm
from sbnn_tvm.passes.families.candidates import Family
from sbnn_tvm.passes.layers.layer import Layer
from sbnn_tvm.passes.lowering.lower import Lowered, LoweredLayer
from sbnn_tvm.passes.phases.recognise import REWRITTEN, BinaryWeight
from sbnn_tvm.passes.pipeline import Options
from sbnn_tvm.schedules.coded.expansion import Expansion
from sbnn_tvm.schedules.epilogue.program import Channel, Ref, Scalar

from ..tuning_database.lookup import Tuning, known_machines
from .record import COST_MODEL, TUNED, UNSCHEDULED, YOU, LayerReport, Report

_KINDS = {
    "binary_conv2d": "binary conv", "binary_dense": "binary dense", "conv2d": "conv", "dense": "dense",
    "window_sum": "window sum", "max_pool2d": "max pool", "max_pool2d_bits": "max pool on bits",
    "avg_pool2d": "average pool", "global_avg_pool2d": "global average pool", "elementwise": "elementwise",
    "sample_mean": "mean of each sample",
    "select_channels": "channels", "select_channels_bits": "channels of bits",
    "shift_bits": "shift of bits",
}  # fmt: skip


def describe(lowered: Lowered, imported: Imported, model: str, target: str, options: Options) -> Report:
    """The report of a compilation."""
    layers = tuple(_layer(entry, imported) for entry in lowered.layers)
    notes = []
    signs = [node.name or node.output[0] for node in imported.model.graph.node if node.op_type == "Sign"]
    if signs and options.sign_zero != "exact":
        value = "+1" if options.sign_zero == "positive" else "-1"
        notes.append(
            f"Sign gives {value} instead of 0 at 0, as sign_zero={options.sign_zero!r} allows: {', '.join(signs)}"
        )
    return Report(model, target, layers, tuple(notes))


def with_tuning(report: Report, tuning: Tuning, slower: bool) -> Report:
    """The report with what a tuning database had to say.

    Args:
        report: Of the compilation.
        tuning: What was used.
        slower: Whether it was not used, since the whole network had been slower with it.
    """
    database = tuning.database
    notes = [*report.notes, *map(str, database.corrupt)]
    sentence = ""
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
    return replace(report, notes=tuple(notes), tuning=sentence)


def _layer(entry: LoweredLayer, imported: Imported) -> LayerReport:
    layer, choice = entry.layer, entry.choice
    if layer is None or choice is None:
        name = imported.nodes.get(entry.name, entry.name)
        operator = entry.operator.removeprefix("nn.")
        return LayerReport(
            name, operator, "", None, 32, UNSCHEDULED, 0, 0, "there is no kernel of ours for this operator"
        )
    nodes = imported.nodes
    name = layer.node(nodes)
    kind = ("window sum" if layer.sums_windows else _KINDS[layer.kind]) + _geometry(layer)
    why = layer.why_float or ""
    if layer.binary and choice.candidate.family == Family.FLOAT:
        kind = kind.removeprefix("binary ")
        why = f"it is binary, but {_why_float(choice)}: it runs in float with the same result"
    values = _two_values(layer, nodes)
    sparse = choice.candidate.family == Family.SPARSE_FLOAT
    float_weights = "" if layer.weight is None or layer.sums_windows else "float32"
    if sparse:
        float_weights = f"float32, {_nonzero(layer):.2%} not 0"
    return LayerReport(
        name=name,
        kind=kind,
        weights=float_weights if values is None else str(values),
        density=None if values is None else _density(layer, values),
        activations=_activation_bits(layer, choice),
        kernel=choice.kernel.name + (" + threshold" if choice.folded else ""),
        bytes=sum(map(_stored_bytes, entry.constants)),
        macs=round(_macs(layer) * _nonzero(layer)) if sparse else _macs(layer),
        why=why,
        chosen=_chosen(choice),
        gain=None if choice.tuned is None else choice.tuned.gain,
        weight_count=0 if layer.weight is None or layer.sums_windows else layer.weight.size,
        coding=_coding(entry),
        expanded_bytes=choice.kernel.constant_bytes,
    )


def _stored_bytes(constant: np.ndarray | Expansion) -> int:
    return constant.kernel.constant_bytes if isinstance(constant, Expansion) else constant.nbytes


def _coding(entry: LoweredLayer) -> str:
    """The codings of the constants that are stored coded, that of most bytes first."""
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
    if choice.data == DataForm.FLOAT:
        return 32
    return 1 if layer.input_domain is None else layer.input_domain.bits


def _geometry(layer: Layer) -> str:
    conv = layer.shape
    if layer.selection is not None:
        return f": {layer.selection}"
    if conv is None or layer.kind in ("global_avg_pool2d", "sample_mean"):
        return ""
    text = f" {conv.kernel[0]}x{conv.kernel[1]}"
    if conv.strides != (1, 1):
        text += f"/{conv.strides[0]}" if conv.strides[0] == conv.strides[1] else f"/{conv.strides[0]}x{conv.strides[1]}"
    if layer.weight is not None and conv.groups > 1:
        text += f", {conv.groups} groups"
    return text


def _macs(layer: Layer) -> int:
    if layer.weight is None or layer.sums_windows:
        return 0
    if layer.shape is not None:
        return layer.shape.macs
    rows = 1
    for extent in layer.extent[:-1]:
        rows *= extent
    return rows * layer.weight.size


def _nonzero(layer: Layer) -> float:
    """The share of weights that are not 0."""
    assert layer.weight is not None
    return np.count_nonzero(layer.weight) / layer.weight.size


@dataclass(frozen=True, eq=False)
class _Values:
    """The two values of a layer's weights: ``scale * sign + offset``.

    Attributes:
        scale: float32 [out channels].
        offset: float32 [out channels]; None if there is one that is not to be seen.
    """

    scale: np.ndarray
    offset: np.ndarray | None

    def __str__(self) -> str:
        if self.offset is None:
            return "{a, b} per channel"
        low, high = self.offset - abs(self.scale), self.offset + abs(self.scale)
        if (low == low[0]).all() and (high == high[0]).all():
            return "{-1, +1}" if (low[0], high[0]) == (-1, 1) else f"{{{low[0]:.4g}, {high[0]:.4g}}}"
        return "{a, b} per channel" if self.offset.any() else "{-a, +a} per channel"


def _two_values(layer: Layer, nodes: Mapping[str, str]) -> _Values | None:
    """The values of two-valued weights, None for other weights."""
    if layer.weight is None or layer.sums_windows:
        return None
    if not layer.binary:
        binary = BinaryWeight.of(layer.weight) if BinaryWeight.telling(layer.weight) else None
        return None if binary is None else _Values(binary.tau, binary.phi)
    if layer.factors is not None:
        return _Values(*layer.factors)
    # The epilogue begins with what the layer's own ONNX node does to the sum of signs.
    channels = len(layer.weight)
    scale, offset = np.ones(channels, np.float32), np.zeros(channels, np.float32)
    for step, name in zip(layer.program.steps, layer.step_names, strict=True):
        if not _own(layer, name, nodes):
            break
        constants = [side for side in (step.a, step.b) if isinstance(side, Channel | Scalar)]
        if step.op == "add" and not constants:
            return _Values(scale, offset if offset.any() else None)
        if step.op == "multiply" and constants:
            values = np.broadcast_to(np.float32(_numbers(constants[0])), channels)
            if Ref(0) in (step.a, step.b):
                scale = values
            else:
                offset = values
    return _Values(scale, np.zeros_like(scale))


def _numbers(constant: Channel | Scalar) -> np.ndarray | float:
    return constant.values if isinstance(constant, Channel) else constant.value


def _own(layer: Layer, name: str, nodes: Mapping[str, str]) -> bool:
    """Whether a step comes from the ONNX node of the anchor; the recogniser derives the names of what it adds."""
    origin = nodes.get(name)
    if origin is None:
        return name.startswith(layer.name.removesuffix(REWRITTEN))
    return origin == layer.node(nodes)


def _density(layer: Layer, values: _Values) -> float:
    assert layer.weight is not None
    if not layer.binary:
        binary = BinaryWeight.of(layer.weight)
        assert binary is not None
        return float((binary.signs > 0).mean())
    rises = (values.scale >= 0).reshape(-1, *[1] * (layer.weight.ndim - 1))
    return float(((layer.weight > 0) == rises).mean())
