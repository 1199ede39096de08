"""The distinct tuning tasks of a network. Layers whose kernels take the same time form one task."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from math import log2
from typing import Any

import numpy as np

from sbnn_tvm.passes.families.choose import Candidate, candidates
from sbnn_tvm.passes.layers.kinds import (
    AvgPool2d,
    BinaryConvolution,
    BinaryDense,
    BinaryLinearLayer,
    BitMaxPool2d,
    BitSelection,
    ChannelSelection,
    FloatDense,
    GlobalAvgPool2d,
    Layer,
    LinearLayer,
    MaxPool2d,
    WindowSum,
)
from sbnn_tvm.schedules.epilogue.program import Channel, Scalar
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.shapes import Conv2dShape

_CLASSES = 4
"""Number of density classes per factor of two."""


@dataclass(frozen=True, eq=False)
class Task:
    """Layers of a network that are tuned together.

    Attributes:
        key: Identifies the task; equal in all processes and networks.
        title: Description for people.
        layer: A representative layer; its weights and epilogue are used for the measurements.
        isa: The instruction set.
        names: Names of the layers in the report.
        space: The candidates, the untuned one first.
    """

    key: str
    title: str
    layer: Layer
    isa: Isa
    names: tuple[str, ...]
    space: tuple[Candidate, ...]


def tasks_of(layers: Iterable[Layer], nodes: Mapping[str, str], isa: Isa, threads: int = 1) -> list[Task]:
    """The tasks of a network that have several candidates, in the order of its layers.

    Args:
        layers: The layers of the network.
        nodes: The ONNX node of each variable.
        isa: The instruction set.
        threads: Number of threads. With one thread, serial variants of candidates are left out.
    """
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(task_key(layer, isa), []).append(layer)
    tasks = []
    for key, group in groups.items():
        space = tuple(each for each in candidates(group[0], isa) if threads > 1 or not each.serial)
        if len(space) > 1:
            names = tuple(layer.node(nodes) for layer in group)
            tasks.append(Task(key, title_of(group[0], isa), group[0], isa, names, space))
    return tasks


def task_key(layer: Layer, isa: Isa) -> str:
    """The key of a layer's task: a hash of everything that a kernel's time depends on, except the CPU."""
    text = json.dumps(_signature(layer, isa), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def title_of(layer: Layer, isa: Isa) -> str:
    """A description of a task, for example ``"binary conv2d 3x3 56x56x64 -> 56x56x64, 50 % set, 2 outputs"``."""
    words = [layer.kind.replace("_", " ")]
    conv = _windows(layer)
    if conv is not None:
        stride = "" if conv.strides == (1, 1) else f"/{max(conv.strides)}"
        words.append(f"{conv.kernel[0]}x{conv.kernel[1]}{stride}")
        words.append(f"{conv.height}x{conv.width}x{conv.in_channels} -> ")
        words[-1] += f"{conv.out_height}x{conv.out_width}x{conv.out_channels}"
        if conv.groups > 1:
            words.append(f"in {conv.groups} groups")
        if conv.batch > 1:
            words.append(f"batch {conv.batch}")
    elif isinstance(layer, LinearLayer):
        words.append(f"{layer.shape.width} x {layer.shape.in_channels} -> {layer.out_channels}")
    else:
        words.append("x".join(map(str, layer.extent)))
    text = " ".join(words)
    if isinstance(layer, LinearLayer) and layer.counted_density < 1:
        text += f", {layer.counted_density:.2g} set"
    if isinstance(layer, BinaryLinearLayer) and layer.fitted.folded:
        return f"{text}, threshold"
    steps, outputs = len(layer.program.steps), len(layer.program.outputs)
    return f"{text}, {steps} step{'s' * (steps != 1)}" + (f", {outputs} outputs" if outputs > 1 else "")


def _windows(layer: Layer) -> Conv2dShape | None:
    """The shape of a layer over a feature map; None for rows and elementwise layers."""
    if isinstance(layer, FloatDense | BinaryDense) or (isinstance(layer, WindowSum) and len(layer.extent) != 4):
        return None
    if isinstance(layer, LinearLayer | WindowSum | MaxPool2d | AvgPool2d | GlobalAvgPool2d | BitMaxPool2d):
        return layer.shape
    return None


def _signature(layer: Layer, isa: Isa) -> dict[str, Any]:
    folded = isinstance(layer, BinaryLinearLayer) and layer.fitted.folded
    shape = _windows(layer)
    selects = layer if isinstance(layer, ChannelSelection | BitSelection) else None
    selection = None if selects is None else selects.selection
    domain = layer.weight_domain if isinstance(layer, BinaryLinearLayer) else None
    return {
        "isa": isa.name,
        "kind": layer.kind,
        "shape": None if shape is None else asdict(shape),
        "extent": layer.extent,
        "inputs": layer.in_channels,
        "selection": _described(selection),
        **({"pixels": _described(selects.pixels)} if selects is not None and selects.pixels is not None else {}),
        "weight": layer.weight.shape if isinstance(layer, LinearLayer) else None,
        "density": round(_CLASSES * log2(layer.counted_density)) if isinstance(layer, LinearLayer) else None,
        "padding": layer.pad_value if isinstance(layer, BinaryConvolution | WindowSum) else 0.0,
        "minima": isinstance(layer, BitMaxPool2d) and layer.minima is not None,
        "counted padding": layer.counted_padding if isinstance(layer, AvgPool2d) else None,
        "domains": [_described(layer.input_domain), _described(domain)],
        "epilogue": [type(each).__name__ for each in layer.program.outputs] if folded else _described(layer.program),
    }


def _described(value: Any) -> Any:
    """A value as JSON data. Constants that differ between layers are described by their type and rank only."""
    if isinstance(value, Channel | Scalar):
        return type(value).__name__
    if is_dataclass(value):
        return [type(value).__name__, *(_described(getattr(value, each.name)) for each in fields(value))]
    if isinstance(value, np.ndarray):
        return [str(value.dtype), value.ndim]
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, tuple | list):
        return [_described(each) for each in value]
    return value
