"""Rewrite every rearrangement of channels to one form: a concatenation, then a ``take`` of some of its channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.channels import concatenated_channels, taken_channels
from ..relax.graph import Graph, Writer, channel_axis, drop_dead, op_name, shape

Channels = tuple[tuple[Var, int], ...]
"""The origin of each channel of a value: a variable, and the index of a channel of it."""


def rearrange_channels(mod: IRModule) -> IRModule:
    """Rewrite splits, slices, shuffles and nested concatenations to a ``concat`` and a ``take`` with constant indices.

    1. Trace each channel of such a value back to a channel of the value that computes it (``_origin``).
    2. Concatenate the values found, and take the channels in order (``_select``). A ``concat`` or ``take`` that would
       change nothing is left out.

    Example: a, b with 2 channels each. The shuffle ``reshape(permute_dims(reshape(concat(a, b), [N, 2, 2, H, W])))``
    becomes ``take(concat(a, b), [0, 2, 1, 3])``. A split of ``concat(a, b)`` into halves becomes a and b themselves.
    """
    graph = Graph(mod["main"])
    writer = Writer(graph)
    origins: dict[Var, Channels] = {}
    for var, value in graph.bindings:
        channels = _origin(graph, origins, var, value)
        if channels is None or any(str(source.ty.dtype) != "float32" for source, _ in channels):
            writer.keep(var, value)
            continue
        origins[var] = channels
        writer.bind(var, _select(writer, var, channels))
    return drop_dead(writer.module(mod))


def _select(writer: Writer, var: Var, channels: Channels) -> Expr:
    axis = channel_axis(shape(var))
    sources = list(dict.fromkeys(source for source, _ in channels))
    sizes = [shape(source)[axis] for source in sources]
    # If every source occurs whole, perhaps repeatedly, a concatenation suffices.
    whole: list[Var] = []
    while sum(shape(source)[axis] for source in whole) < len(channels):
        whole.append(channels[sum(shape(source)[axis] for source in whole)][0])
    if _all_channels(whole, axis) == channels:
        return writer[whole[0]] if len(whole) == 1 else op.concat([writer[source] for source in whole], axis)
    first = dict(zip(sources, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
    indices = np.array([first[source] + channel for source, channel in channels], np.int64)
    together: Expr = writer[sources[0]]
    if len(sources) > 1:
        together = writer.emit(op.concat([writer[source] for source in sources], axis), f"{var.name}_sources")
    return op.take(together, relax.const(indices), axis)


def _all_channels(sources: Sequence[Var], axis: int) -> Channels:
    return tuple((source, channel) for source in sources for channel in range(shape(source)[axis]))


def _origin(graph: Graph, origins: dict[Var, Channels], var: Var, value: Expr) -> Channels | None:
    """The origins of the channels of a value; None if the value does more than move channels."""
    if not isinstance(var.ty, relax.TensorType) or len(shape(var)) < 2:
        return None
    extent = shape(var)
    axis = channel_axis(extent)

    def channels_of(source: Var) -> Channels:
        return origins.get(source) or _all_channels([source], axis)

    def picked(source: Var, indices: Sequence[int]) -> Channels:
        channels = channels_of(source)
        return tuple(channels[index] for index in indices)

    name = op_name(value)
    if (fields := concatenated_channels(value, extent)) is not None:
        return tuple(channel for field in fields for channel in channels_of(field))
    if (indices := taken_channels(value, extent)) is not None and isinstance(value.args[0], Var):
        return picked(value.args[0], indices.tolist())
    if isinstance(value, relax.TupleGetItem):
        split = graph.producer(value.tuple_value, "split")
        if split is None or int(split.attrs.axis) % len(extent) != axis or not isinstance(split.args[0], Var):
            return None
        before = sum(int(part.shape[axis]) for part in value.tuple_value.ty.fields[: value.index])
        return picked(split.args[0], range(before, before + extent[axis]))
    if name == "strided_slice" and isinstance(value.args[0], Var):
        sliced = _sliced_channels(value, extent)
        return picked(value.args[0], sliced) if sliced is not None else None
    if name == "reshape":
        return _shuffled(graph, var, channels_of)
    return None


def _sliced_channels(value: Call, extent: tuple[int, ...]) -> range | None:
    """The channels that a slice takes; None if it also cuts another axis."""
    whole = shape(value.args[0])
    axis = channel_axis(extent)
    if any(size != old for i, (size, old) in enumerate(zip(extent, whole, strict=True)) if i != axis):
        return None
    axes, begin, end = ([int(each.value) for each in argument.fields] for argument in value.args[1:4])
    strides = [int(each.value) for each in value.args[4].fields] if len(value.args) > 4 else [1] * len(axes)
    if min(strides) < 1:
        return None
    for i, start, stop, step in zip(axes, begin, end, strides, strict=True):
        if i % len(extent) == axis:
            channels = range(whole[axis])[start:stop:step]
            return channels if len(channels) == extent[axis] else None
    return None


def _shuffled(graph: Graph, var: Var, channels_of: Callable[[Var], Channels]) -> Channels | None:
    """The origins of a channel shuffle: reshapes and transpositions that only permute channels; None for others."""
    extent = shape(var)
    if len(extent) not in (2, 4):
        return None
    chain = [var]
    while (step := graph.values.get(chain[0])) is not None and op_name(step) in ("reshape", "permute_dims"):
        if len(chain) > 2 and shape(chain[0]) == extent:
            break
        if not isinstance(step.args[0], Var):
            return None
        chain.insert(0, step.args[0])
    if len(chain) < 3 or shape(chain[0]) != extent:
        return None
    pixels = len(extent) - 2
    order = np.arange(extent[1])
    for result in chain[1:]:
        step, new = graph.values[result], shape(result)
        split = len(new) - pixels  # the first axis after those that hold the channels
        if new[0] != extent[0] or new[split:] != extent[2:]:
            return None
        if op_name(step) == "reshape":
            order = order.reshape(new[1:split])
            continue
        axes = [int(a) % len(new) for a in step.attrs.axes or reversed(range(len(new)))]
        if axes[0] != 0 or axes[split:] != list(range(split, len(new))):
            return None
        order = order.transpose([a - 1 for a in axes[1:split]])
    channels = channels_of(chain[0])
    return tuple(channels[index] for index in order.reshape(-1).tolist())
