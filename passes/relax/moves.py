"""Trace values through operations that only move elements: slices, concatenations, reshapes, transposes, paddings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var

from .graph import Graph, constant, op_name, shape

OUTSIDE = -1
"""The index of an element that comes from no source."""
_LARGEST = 1 << 24  # elements of a sample; larger values are not traced


@dataclass(frozen=True, eq=False)
class Origin:
    """The origin of each element of a value, in every sample of the batch alike.

    Attributes:
        sources: The values that the elements come from, each once.
        index: For each element of a sample, its position in the samples of all sources, flattened and put one after
            the other; OUTSIDE for an element that comes from no source. Integers, of the value's shape without axis 0.
        fill: The number in the elements that come from no source; None if there are none.
    """

    sources: tuple[Var, ...]
    index: np.ndarray
    fill: float | None = None

    @classmethod
    def itself(cls, var: Var) -> Origin:
        """A value as its own source."""
        extent = shape(var)[1:]
        return cls((var,), np.arange(int(np.prod(extent)), dtype=np.int64).reshape(extent))

    def at(self, index: np.ndarray) -> Origin:
        """The same sources with another index."""
        inside = self.fill is None or not (index == OUTSIDE).any()
        return Origin(self.sources, index, None if inside else self.fill)


class Moves:
    """The origins of all values of a function, computed when they are asked for."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._known: dict[Var, Origin] = {}

    def origin(self, var: Var) -> Origin | None:
        """The origin of a value in values that are computed, not moved; None for what is not a tensor of samples."""
        if not _traceable(var):
            return None
        if var not in self._known:
            value = self._graph.values.get(var)
            moved = None if value is None else _moved(self._graph, var, value, self.origin)
            self._known[var] = moved or Origin.itself(var)
        return self._known[var]

    def within(self, steps: Sequence[Var]) -> Origin | None:
        """The origin of the last of some values in the operands of their operations; None if these do not only move.

        Args:
            steps: Values in the order of their computation.
        """
        known: dict[Var, Origin] = {}

        def origin(operand: Var) -> Origin | None:
            return known.get(operand) or (Origin.itself(operand) if _traceable(operand) else None)

        for var in steps:
            moved = _moved(self._graph, var, self._graph.values[var], origin) if _traceable(var) else None
            if moved is None:
                return None
            known[var] = moved
        return known[steps[-1]]


def _traceable(var: Expr) -> bool:
    if not isinstance(var, Var) or not isinstance(var.ty, relax.TensorType):
        return False
    extent = shape(var)
    return len(extent) > 1 and 0 < int(np.prod(extent[1:])) <= _LARGEST


def _moved(graph: Graph, var: Var, value: Expr, origin: Callable[[Var], Origin | None]) -> Origin | None:
    """The origin of a bound value, from those of its operands; None if its operation does not only move elements."""
    if isinstance(value, relax.TupleGetItem):
        return _of_split(graph, var, value, origin)
    if not isinstance(value, Call):
        return None
    if op_name(value) == "concat":
        return _of_concat(value, shape(var), origin)
    if not value.args or not isinstance(value.args[0], Var) or op_name(value) not in _INDEX:
        return None
    source = origin(value.args[0])
    old, new = shape(value.args[0]), shape(var)
    if source is None or old[0] != new[0]:
        return None
    if op_name(value) == "nn.pad":
        return _of_pad(source, value)
    index = _INDEX[op_name(value)](source.index, value, new)
    return None if index is None or index.shape != new[1:] else source.at(index)


def _of_split(
    graph: Graph, var: Var, value: relax.TupleGetItem, origin: Callable[[Var], Origin | None]
) -> Origin | None:
    split = graph.producer(value.tuple_value, "split")
    if split is None or not isinstance(split.args[0], Var):
        return None
    axis = int(split.attrs.axis) % len(shape(var))
    source = origin(split.args[0]) if axis else None
    if source is None:
        return None
    before = sum(int(part.shape[axis]) for part in value.tuple_value.ty.fields[: value.index])
    return source.at(np.take(source.index, np.arange(before, before + shape(var)[axis]), axis - 1))


def _of_concat(value: Call, extent: tuple[int, ...], origin: Callable[[Var], Origin | None]) -> Origin | None:
    axis = 0 if value.attrs.axis is None else int(value.attrs.axis) % len(extent)
    if not axis or not isinstance(value.args[0], relax.Tuple):
        return None
    parts = [
        _of_constant(field) or (origin(field) if isinstance(field, Var) else None) for field in value.args[0].fields
    ]
    moved = [part for part in parts if part is not None]
    fills = {part.fill for part in moved} - {None}
    if len(moved) < len(parts) or len(fills) > 1:
        return None
    sources = list(dict.fromkeys(source for part in moved for source in part.sources))
    starts = dict(zip(sources, _starts(sources), strict=True))
    index = np.concatenate([_renumbered(part, starts) for part in moved], axis - 1)
    return Origin(tuple(sources), index, fills.pop() if fills else None) if sources else None


def _of_constant(field: Expr) -> Origin | None:
    values = constant(field)
    if values is None or values.ndim < 2 or values.dtype != np.float32 or values.min() != values.max():
        return None
    return Origin((), np.full(values.shape[1:], OUTSIDE, np.int64), float(values.flat[0]))


def _of_pad(source: Origin, pad: Call) -> Origin | None:
    width = np.array([int(extent) for extent in pad.attrs.pad_width]).reshape(-1, 2)
    fill = float(pad.attrs.pad_value)
    if pad.attrs.pad_mode != "constant" or width[0].any() or source.fill not in (None, fill):
        return None
    return Origin(
        source.sources, np.pad(source.index, width[1:], constant_values=OUTSIDE), fill if width.any() else source.fill
    )


def _starts(sources: list[Var]) -> list[int]:
    """The position of the first element of each source."""
    return np.cumsum([0, *(int(np.prod(shape(source)[1:])) for source in sources)])[:-1].tolist()


def _renumbered(part: Origin, starts: dict[Var, int]) -> np.ndarray:
    index = np.full_like(part.index, OUTSIDE)
    for source, start in zip(part.sources, _starts(list(part.sources)), strict=True):
        inside = (part.index >= start) & (part.index < start + int(np.prod(shape(source)[1:])))
        index[inside] = part.index[inside] - start + starts[source]
    return index


def _reshaped(index: np.ndarray, value: Call, new: tuple[int, ...]) -> np.ndarray:
    return index.reshape(new[1:])


def _transposed(index: np.ndarray, value: Call, new: tuple[int, ...]) -> np.ndarray | None:
    axes = [int(a) % len(new) for a in value.attrs.axes or reversed(range(len(new)))]
    return index.transpose([axis - 1 for axis in axes[1:]]) if axes[0] == 0 else None


def _broadcast(index: np.ndarray, value: Call, new: tuple[int, ...]) -> np.ndarray | None:
    return np.broadcast_to(index, new[1:]) if index.ndim == len(new) - 1 else None


def _taken(index: np.ndarray, value: Call, new: tuple[int, ...]) -> np.ndarray | None:
    picks = constant(value.args[1])
    axis = 0 if value.attrs.axis is None else int(value.attrs.axis) % (index.ndim + 1)
    if not axis or picks is None or picks.ndim != 1:
        return None
    size = index.shape[axis - 1]
    return np.take(index, picks % size, axis - 1) if ((picks >= -size) & (picks < size)).all() else None


def _sliced(index: np.ndarray, value: Call, new: tuple[int, ...]) -> np.ndarray | None:
    numbers = [[int(each.value) for each in arg.fields] for arg in value.args[1:]]
    axes, begins, ends = numbers[:3]
    strides = numbers[3] if len(numbers) > 3 else [1] * len(axes)
    at = [slice(None)] * index.ndim
    for axis, begin, end, stride in zip(axes, begins, ends, strides, strict=True):
        if stride < 1:
            return None
        if axis % (index.ndim + 1):
            at[axis % (index.ndim + 1) - 1] = slice(begin, end, stride)
    return index[tuple(at)]


_INDEX: dict[str, Callable[[np.ndarray, Call, tuple[int, ...]], np.ndarray | None]] = {
    "broadcast_to": _broadcast,
    "expand_dims": _reshaped,
    "nn.pad": _reshaped,
    "permute_dims": _transposed,
    "reshape": _reshaped,
    "squeeze": _reshaped,
    "strided_slice": _sliced,
    "take": _taken,
}
