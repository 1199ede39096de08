"""Selections of channels, rows and columns, in the one form that the phase ``rearrange_channels`` writes.

The form is ``nn.pad(take(take(take(concat(a, b), channels, 1), rows, 2), columns, 3))``. Each operation may be missing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm import relax
from tvm.relax import Expr, Var, op

from .channels import concatenated_channels
from .graph import Graph, Writer, channel_axis, constant, op_name, shape
from .moves import OUTSIDE, Moves, Origin


@dataclass(frozen=True, eq=False)
class Chosen:
    """A selection of channels, rows and columns of other values.

    Attributes:
        sources: The values, of equal shapes but for their channels.
        channels: For each channel of the result one of all channels of the sources, or OUTSIDE; integers [C].
        rows: For each row of the result a row of the sources, or OUTSIDE; integers [H]. Empty without pixels.
        columns: The same for columns, [W].
        fill: The number in channels, rows and columns from OUTSIDE.
        steps: Results of the operations of this form, in order.
    """

    sources: tuple[Var, ...]
    channels: np.ndarray
    rows: np.ndarray
    columns: np.ndarray
    fill: float = 0.0
    steps: tuple[Var, ...] = ()

    @property
    def moves_pixels(self) -> bool:
        """Whether rows or columns of the result differ from those of the sources."""
        height, width = shape(self.sources[0])[2:] if len(self.rows) else (0, 0)
        return not (np.array_equal(self.rows, np.arange(height)) and np.array_equal(self.columns, np.arange(width)))


def factorise(moved: Origin, extent: tuple[int, ...]) -> Chosen | None:
    """The channels, rows and columns that a value is made of.

    Args:
        moved: Where its elements come from.
        extent: Its shape.

    Returns:
        The selection; None if the elements of a channel, row or column come from several ones, or if the sources differ
        in more than their channels.
    """
    axis, shapes = channel_axis(extent), [shape(source) for source in moved.sources]
    if any(len(each) != len(extent) for each in shapes):
        return None
    if len({each[:axis] + each[axis + 1 :] for each in shapes}) != 1 or shapes[0][0] != extent[0]:
        return None
    places = _places(moved.index, shapes, axis)
    inside = moved.index != OUTSIDE
    digits = [each.max(tuple(i for i in range(each.ndim) if i != along)) for along, each in enumerate(places)]
    expected = np.stack(np.meshgrid(*digits, indexing="ij"))
    if not inside.any() or not np.array_equal(np.where((expected == OUTSIDE).any(0), OUTSIDE, expected), places):
        return None
    if not all(_contiguous(each) for each in digits):
        return None
    none = np.empty(0, np.int64)
    if len(extent) == 4:
        channels, rows, columns = digits
        return Chosen(moved.sources, channels, rows, columns, moved.fill or 0.0)
    of_rows = digits[: axis - 1]
    same = all(np.array_equal(each, np.arange(size)) for each, size in zip(of_rows, shapes[0][1:], strict=False))
    return Chosen(moved.sources, digits[-1], none, none) if same and inside.all() else None


def _places(index: np.ndarray, shapes: list[tuple[int, ...]], axis: int) -> np.ndarray:
    """The position of each element along each axis of a concatenation of the sources along their channels.

    Args:
        index: The positions in the flattened samples of all sources, one after the other.
        shapes: The shapes of the sources.
        axis: Their channel axis.

    Returns:
        Integers [axes without axis 0, *index.shape]; OUTSIDE for elements that come from no source.
    """
    places = np.full((len(shapes[0]) - 1, *index.shape), OUTSIDE, np.int64)
    start = channels = 0
    for each in shapes:
        end = start + int(np.prod(each[1:]))
        here = (index >= start) & (index < end)
        at = np.stack(np.unravel_index(index[here] - start, each[1:]))
        at[axis - 1] += channels
        places[:, here] = at
        start, channels = end, channels + each[axis]
    return places


def _contiguous(digits: np.ndarray) -> bool:
    """Whether OUTSIDE occurs only before the first and after the last source."""
    inside = np.flatnonzero(digits >= 0)
    return bool((np.diff(inside) == 1).all())


def emit_selection(writer: Writer, chosen: Chosen, extent: tuple[int, ...], name: str) -> Expr:
    """Write a selection in the one form; operations that would change nothing are left out.

    Args:
        writer: Emits the inner operations.
        chosen: The selection, of variables of the old function.
        extent: Shape of the result.
        name: Name of the result, with which the names of inner operations begin.

    Returns:
        The last operation, or a source.
    """
    axis, sources = channel_axis(extent), [writer[source] for source in chosen.sources]
    sizes = [shape(source)[axis] for source in chosen.sources]
    channels = chosen.channels[chosen.channels >= 0]
    steps: list[tuple[str, Callable[[Expr], Expr]]] = []
    whole = _whole_sources(channels.tolist(), sizes)
    x = sources[whole[0] if whole else 0]
    if whole is None or len(whole) > 1:
        together = sources if whole is None else [sources[number] for number in whole]
        if len(together) > 1:
            steps.append(("sources", lambda _: op.concat(together, axis)))
    if whole is None:
        steps.append(("channels", partial(_take, channels, axis)))
    for digits, along, what in ((chosen.rows, 2, "rows"), (chosen.columns, 3, "columns")):
        inside = digits[digits >= 0]
        if len(digits) and not np.array_equal(inside, np.arange(shape(chosen.sources[0])[along])):
            steps.append((what, partial(_take, inside, along)))
    padding = [width for digits in (chosen.channels, chosen.rows, chosen.columns) for width in _padding(digits)]
    if any(padding):
        steps.append(("padded", lambda v: op.nn.pad(v, [0, 0, *padding], pad_mode="constant", pad_value=chosen.fill)))
    for number, (what, step) in enumerate(steps, 1):
        x = step(x) if number == len(steps) else writer.emit(step(x), f"{name}_{what}")
    return x


def _take(picks: np.ndarray, axis: int, x: Expr) -> Expr:
    return op.take(x, relax.const(picks), axis)


def _whole_sources(channels: list[int], sizes: list[int]) -> list[int] | None:
    """The sources whose concatenation has these channels; None if channels of a source are missing or in disorder."""
    starts = np.cumsum([0, *sizes])
    numbers: list[int] = []
    at = 0
    while at < len(channels):
        number = int(np.searchsorted(starts, channels[at], side="right")) - 1
        if channels[at : at + sizes[number]] != list(range(starts[number], starts[number + 1])):
            return None
        numbers.append(number)
        at += sizes[number]
    return numbers


def _padding(digits: np.ndarray) -> tuple[int, int]:
    inside = np.flatnonzero(digits >= 0)
    return (int(inside[0]), len(digits) - 1 - int(inside[-1])) if len(inside) else (0, 0)


def selection_rank(value: Expr, extent: tuple[int, ...]) -> int | None:
    """The place of an operation in the one form, 0 to 4; None for an operation that is no part of it.

    Args:
        value: A bound value.
        extent: Shape of its result.
    """
    name = op_name(value)
    if concatenated_channels(value, extent) is not None:
        return 0
    if name == "take" and isinstance(value.args[0], Var) and value.attrs.axis is not None:
        picks = constant(value.args[1])
        if picks is None or picks.ndim != 1 or len(shape(value.args[0])) != len(extent) or len(extent) < 2:
            return None
        axis = int(value.attrs.axis) % len(extent)
        return 1 if axis == channel_axis(extent) else axis if len(extent) == 4 and axis > 1 else None
    if name == "nn.pad" and isinstance(value.args[0], Var) and len(extent) == 4 and value.attrs.pad_mode == "constant":
        return None if any(int(width) for width in value.attrs.pad_width[:2]) else 4
    return None


def chosen_of(graph: Graph, var: Var, inner: Callable[[Var], bool]) -> Chosen | None:
    """Match the one form.

    Args:
        graph: The function.
        var: The result of the last operation.
        inner: Whether an operand of the form that has the form itself belongs to it, rather than being a source.

    Returns:
        The selection; None if ``var`` has another form.
    """
    moves, last, steps = Moves(graph), selection_rank(graph.values.get(var), shape(var)), [var]
    if last is None or str(var.ty.dtype) != "float32":
        return None
    while last > 0:
        before = graph.values[steps[0]].args[0]
        rank = selection_rank(graph.values.get(before), shape(before))
        if rank is None or rank >= last or not inner(before):
            break
        steps.insert(0, before)
        last = rank
    moved = moves.within(steps)
    found = None if moved is None else factorise(moved, shape(var))
    return None if found is None else replace(found, steps=tuple(steps))
