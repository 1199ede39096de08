"""From the lowered layers to the report that a user reads."""

from __future__ import annotations

from collections.abc import Mapping

from sbnn_tvm.frontends.onnx.importer import Imported
from sbnn_tvm.passes.layer import Layer
from sbnn_tvm.passes.lower import Lowered, LoweredLayer
from sbnn_tvm.passes.pipeline import Options
from sbnn_tvm.passes.recognise import BinaryWeight
from sbnn_tvm.report import UNSCHEDULED, LayerReport, Report
from sbnn_tvm.schedules.epilogue import Channel, Operand, Pixel, Ref, Scalar, Step

_KINDS = {
    "binary_conv2d": "binary conv", "binary_dense": "binary dense", "conv2d": "conv", "dense": "dense",
    "window_sum": "window sum", "max_pool2d": "max pool", "max_pool2d_bits": "max pool on bits",
    "avg_pool2d": "average pool", "global_avg_pool2d": "global average pool", "elementwise": "elementwise",
    "select_channels": "channels", "select_channels_bits": "channels of bits",
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


def _layer(entry: LoweredLayer, imported: Imported) -> LayerReport:
    layer, choice = entry.layer, entry.choice
    if layer is None or choice is None:
        name = imported.nodes.get(entry.name, entry.name)
        operator = entry.operator.removeprefix("nn.")
        return LayerReport(
            name, operator, "", None, 32, UNSCHEDULED, 0, 0, "there is no kernel of ours for this operator"
        )
    nodes = imported.nodes
    name = _origin(layer, nodes) or layer.name
    popcount = choice.kernel.name.startswith("popcount")
    kind = _KINDS[layer.kind] + _geometry(layer)
    why = layer.why_float or ""
    if layer.binary and not popcount:
        kind = kind.removeprefix("binary ")
        why = (
            "it is binary, but its groups have too few channels for popcounts to pay: "
            "it runs in float with the same result"
        )
    return LayerReport(
        name=name,
        kind=kind,
        weights=_weights(layer, nodes),
        density=float((layer.weight > 0).mean()) if layer.weight is not None and _two_valued(layer) else None,
        activations=1 if choice.data.name == "BITS" else 32,
        kernel=choice.kernel.name + (" + threshold" if choice.folded else ""),
        bytes=choice.kernel.constant_bytes,
        macs=_macs(layer),
        why=why,
    )


def _geometry(layer: Layer) -> str:
    conv = layer.shape
    if layer.selection is not None:
        return f": {layer.selection}"
    if conv is None or layer.kind == "global_avg_pool2d":
        return ""
    text = f" {conv.kernel[0]}x{conv.kernel[1]}"
    if conv.strides != (1, 1):
        text += f"/{conv.strides[0]}" if conv.strides[0] == conv.strides[1] else f"/{conv.strides[0]}x{conv.strides[1]}"
    if layer.linear and conv.groups > 1:
        text += f", {conv.groups} groups"
    return text


def _macs(layer: Layer) -> int:
    if layer.weight is None:
        return 0
    if layer.shape is not None:
        return layer.shape.macs
    rows = 1
    for extent in layer.extent[:-1]:
        rows *= extent
    return rows * layer.weight.size


def _two_valued(layer: Layer) -> bool:
    return layer.binary or (layer.weight is not None and BinaryWeight.of(layer.weight) is not None)


def _weights(layer: Layer, nodes: Mapping[str, str]) -> str:
    if layer.weight is None:
        return ""
    binary = BinaryWeight.of(layer.weight)
    if binary is None:
        return "float32"
    if not binary.plain:
        return "{a, b} per channel" if binary.phi.any() else "{-a, +a} per channel"
    scale = _scale(layer, nodes)
    if any(isinstance(operand, Pixel) for step in layer.program.steps for operand in (step.a, step.b)):
        return _domain(layer, scale)
    if scale is None:
        return "{-1, +1}"
    if isinstance(scale, Scalar):
        return f"{{{-abs(scale.value):.4g}, {abs(scale.value):.4g}}}"
    return "{-a, +a} per channel"


def _scale(layer: Layer, nodes: Mapping[str, str]) -> Operand | None:
    """What the anchor's own ONNX node multiplies its integer sum with."""
    if not layer.program.steps:
        return None
    first, name = layer.program.steps[0], layer.step_names[0]
    origin = nodes.get(name)
    if first.op != "multiply" or Ref(0) not in (first.a, first.b) or origin != _origin(layer, nodes):
        return None
    return first.b if first.a == Ref(0) else first.a


def _origin(layer: Layer, nodes: Mapping[str, str]) -> str | None:
    return next((nodes[member] for member in layer.members if member in nodes), None)


def _domain(layer: Layer, scale: Operand | None) -> str:
    """The two values of weights with an offset, as numbers where all channels share them."""
    offset = next((other for step in layer.program.steps if (other := _pixel_factor(step)) is not None), None)
    tau = scale.values if isinstance(scale, Channel) else None
    phi = offset.values if isinstance(offset, Channel) else None
    if tau is not None and phi is not None and (tau == tau[0]).all() and (phi == phi[0]).all():
        return f"{{{phi[0] - tau[0]:.4g}, {phi[0] + tau[0]:.4g}}}"
    return "{a, b} per channel"


def _pixel_factor(step: Step) -> Operand | None:
    if step.op != "multiply":
        return None
    if isinstance(step.a, Pixel):
        return step.b
    return step.a if isinstance(step.b, Pixel) else None
