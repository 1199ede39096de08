"""Give every value of a program a place in one arena, so that values that are alive at the same time do not overlap.

Each value gets the lowest offset that is free while it lives, in an order that is searched for. No plan can be smaller
than the largest set of values that are alive at the same time; the networks that were tried reach that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from .program import Buffer, Input, Output, Place, Program

ALIGNMENT = 64
"""Bytes to which all values are aligned, as kernels require."""

_ATTEMPTS = 50


@dataclass(frozen=True)
class MemoryPlan:
    """Offsets in the arena, in bytes.

    Attributes:
        buffers: Of each buffer.
        inputs: Of a copy of each input, for a caller's memory that is not aligned.
        outputs: Of a copy of each output, likewise.
        workspaces: Of the workspace of each call.
        size: The size of the arena.
        largest_live_set: The most bytes that are alive at the same time.
    """

    buffers: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    workspaces: tuple[int, ...]
    size: int
    largest_live_set: int


@dataclass(frozen=True)
class _Value:
    size: int
    first: int
    last: int


def plan_memory(program: Program) -> MemoryPlan:
    """Place the buffers of a program, its workspaces, and copies of its inputs and outputs."""
    end = len(program.run)  # the step after all calls: outputs are copied to the caller
    uses: dict[Place, list[int]] = {}
    for step, call in enumerate(program.run):
        for place in call.places:
            uses.setdefault(place, []).append(step)
    for copy in program.copies:
        uses.setdefault(copy.source, []).append(end)
    # A value that became an output has no use as a buffer.
    values = [_value(size if Buffer(i) in uses else 0, uses.get(Buffer(i))) for i, size in enumerate(program.buffers)]
    # An input is copied before the first call, an output after the last one; those that no kernel uses need no room.
    for step, kind, tensors in ((0, Input, program.inputs), (end, Output, program.outputs)):
        for index, tensor in enumerate(tensors):
            used = uses.get(kind(index))
            values.append(_value(tensor.bytes if used else 0, [step, *(used or [step])]))
    values += [_value(size, [step]) for step, size in enumerate(program.workspaces.serial)]
    offsets = _place(values)
    live = max((sum(v.size for v in values if v.first <= step <= v.last) for step in range(end + 1)), default=0)
    size = _end(values, offsets)
    rest = iter(offsets)
    return MemoryPlan(
        buffers=tuple(islice(rest, len(program.buffers))),
        inputs=tuple(islice(rest, len(program.inputs))),
        outputs=tuple(islice(rest, len(program.outputs))),
        workspaces=tuple(rest),
        size=size,
        largest_live_set=live,
    )


def _value(size: int, steps: Sequence[int] | None) -> _Value:
    steps = steps or [0]
    return _Value(-(-size // ALIGNMENT) * ALIGNMENT, min(steps), max(steps))


def _place(values: Sequence[_Value]) -> list[int]:
    """Offsets of values, such that the end of the last one is low.

    The largest values are placed first. Then, again and again, those that reach highest are placed before all others.
    """
    order = sorted(range(len(values)), key=lambda i: (-values[i].size, values[i].first))
    best = _in_order(values, order)
    for _ in range(_ATTEMPTS):
        offsets = _in_order(values, order)
        best = min(best, offsets, key=lambda each: _end(values, each))
        end = _end(values, offsets)
        highest = [i for i in order if offsets[i] + values[i].size == end]
        order = [*highest, *(i for i in order if i not in highest)]
    return best


def _end(values: Sequence[_Value], offsets: Sequence[int]) -> int:
    return max((offset + value.size for offset, value in zip(offsets, values, strict=True)), default=0)


def _in_order(values: Sequence[_Value], order: Sequence[int]) -> list[int]:
    """Offsets of values, each the lowest that is free when the values before it in ``order`` have theirs."""
    offsets = [0] * len(values)
    placed: list[int] = []
    for index in order:
        value = values[index]
        offset = 0
        at_once = [i for i in placed if values[i].first <= value.last and value.first <= values[i].last]
        for other in sorted(at_once, key=offsets.__getitem__):
            if offset + value.size <= offsets[other]:
                break
            offset = max(offset, offsets[other] + values[other].size)
        offsets[index] = offset
        placed.append(index)
    return offsets
