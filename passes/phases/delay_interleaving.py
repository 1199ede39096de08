"""Compute elementwise operations before phases are interleaved, so that bits and codes are interleaved, not floats."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var

from sbnn_tvm.schedules.layouts.interleaving import Interleaving

from ..relax.codes import STORED
from ..relax.domains import domains
from ..relax.graph import Graph, Writer, constant, drop_dead, op_name, operands, shape
from ..relax.interleavings import Axes, Interleaved, emit_interleaving, interleaved
from ..relax.permutable import ELEMENTWISE
from ..relax.quantisers import quantisers

_LAST_AXIS = ("expand_dims", "sum")
"""Operators of quantisers: they count thresholds along an axis after those of the map."""


def delay_interleaving(mod: IRModule) -> IRModule:
    """Move interleavings (relax/interleavings.py) behind the elementwise operations that follow them.

    1. Operations with constants, numbers or one per channel, and with values that are interleaved alike, are computed
       on each phase. So the convolution of a phase has them in its epilogue, and stores bits or codes where a binariser
       or a quantisation follows. What reads bits or codes stays behind the interleaving.
    2. A convolution before them computes its channels in the order in which those of a phase are neighbours.
    """
    graph = Graph(mod["main"])
    walk = _Walk(graph)
    for var, value in graph.bindings:
        walk.visit(var, value)
    return drop_dead(walk.writer.module(mod))


@dataclass(frozen=True, eq=False)
class _Phases:
    """A value that is not interleaved yet.

    Attributes:
        parts: Variables of the new function, [N, channels, H, W, ...].
        interleaving: What is read of them.
        axes: How the channels are cut and turned.
        written: The interleaved value, once it is written.
    """

    parts: tuple[Expr, ...]
    interleaving: Interleaving
    axes: Axes
    written: list[Expr] = field(default_factory=list)

    def alike(self, other: _Phases) -> bool:
        """Whether both have parts of the same sizes that are interleaved in the same way."""
        sizes = [[shape(part)[1] for part in each.parts] for each in (self, other)]
        return sizes[0] == sizes[1] and self.axes == other.axes and self.interleaving.equals(other.interleaving)

    def of_parts(self, values: np.ndarray) -> list[np.ndarray]:
        """A constant that broadcasts over the value, for each part."""
        if values.ndim < 2:
            return [values] * len(self.parts)
        rank = max(len(shape(self.parts[0])), values.ndim)
        aligned = values.reshape((1,) * (rank - values.ndim) + values.shape)
        if aligned.shape[1] == 1:
            return [values] * len(self.parts)
        channels = self.interleaving.channels
        of_source = np.empty(channels.size, np.int64)
        of_source[channels] = np.arange(channels.shape[2])
        ends = np.cumsum([shape(part)[1] for part in self.parts])[:-1]
        return [np.take(aligned, each, 1) for each in np.split(of_source, ends)]


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.writer = Writer(graph)
        inner = {step for each in quantisers(graph).values() for step in each.chain}
        self.few_values = set(domains(graph)) - inner
        self.known: dict[Var, _Phases] = {}
        self.joined = {each for var, _ in graph.bindings if (each := self._joined(var)) is not None}

    def _joined(self, var: Var) -> Var | None:
        """The concatenation of phases that elementwise operations alone separate from their interleaving."""
        found = interleaved(self.graph, var)
        if found is None or len(found.parts) > 1:
            return None
        _, sources = self._behind(found.parts[0])
        joined = next(iter(sources)) if len(sources) == 1 else None
        concat = None if joined is None else self.graph.values.get(joined)
        if joined is None or concat is None or op_name(concat) != "concat" or len(shape(joined)) != 4:
            return None
        fields = all(isinstance(each, Var) for each in concat.args[0].fields)
        return joined if fields and int(concat.attrs.axis) == 1 else None

    def _behind(self, end: Var) -> tuple[set[Var], set[Var]]:
        """The elementwise operations that lead to a value and to nothing else, and what they read; empty if others do.

        The operations are without the value itself, if it is none.
        """
        between: set[Var] = set()
        sources: set[Var] = set()
        read = [end]
        while read:
            each = read.pop()
            value = self.graph.values.get(each)
            if value is None or op_name(value) not in ELEMENTWISE:
                sources.add(each)
            elif each not in between:
                between.add(each)
                read += operands(value)
        inner = {*sources, *between} - {end}
        alone = all(set(self.graph.users[each]) <= between and each not in self.graph.results for each in inner)
        return (between, sources) if alone and len(self.graph.users[end]) == 1 else (set(), set())

    def _side_by_side(self, var: Var, concat: Expr) -> _Phases:
        """A concatenation as one phase."""
        _, channels, height, width = shape(var)
        whole = Interleaving(np.arange(channels).reshape(1, 1, -1), 0, 0, height, width)
        return _Phases(tuple(self.writer[each] for each in concat.args[0].fields), whole, Axes((), (), ()))

    def visit(self, var: Var, value: Expr) -> None:
        """Write one binding."""
        found = interleaved(self.graph, var)
        if var in self.joined:
            self.known[var] = self._side_by_side(var, value)
        elif found is not None and found.interleaving.phases > 1:
            self.known[var] = self._ordered(found)
        elif (moved := self._moved(var, value)) is not None:
            self.known[var] = moved
        else:
            for operand in dict.fromkeys(operands(value)):
                self._write(operand)
            self.writer.keep(var, value)
        if var in self.known and var in self.graph.results:
            self._write(var)

    def _write(self, var: Var) -> None:
        """Interleave a value that something reads."""
        phases = self.known.get(var)
        if phases is not None and not phases.written:
            last = emit_interleaving(self.writer, list(phases.parts), phases.interleaving, phases.axes, var.name)
            phases.written.append(self.writer.bind(var, last))

    def _moved(self, var: Var, value: Expr) -> _Phases | None:
        """The value of an elementwise operation, computed on each phase; None for anything else."""
        read = list(dict.fromkeys(operands(value)))
        if not isinstance(value, Call) or not read or any(each not in self.known for each in read):
            return None
        if op_name(value) not in (*ELEMENTWISE, *_LAST_AXIS) or not all(map(self._is_wide, read)):
            return None
        first = self.known[read[0]]
        if any(not first.alike(self.known[each]) for each in read[1:]):
            return None
        if op_name(value) in _LAST_AXIS and not _keeps_map(value):
            return None
        if not first.interleaving.in_order and self._makes_bits(var):
            return None
        for arg in value.args:
            if (numbers := constant(arg)) is not None and not _is_of_channels(numbers, len(shape(var))):
                return None
        parts = []
        for place in range(len(first.parts)):
            args = [self._argument(arg, place, first) for arg in value.args]
            call = Call(value.op, args, value.attrs, value.ty_args)
            parts.append(self.writer.emit(call, f"{var.name}_phase"))
        return _Phases(tuple(parts), first.interleaving, first.axes)

    def _is_wide(self, var: Var) -> bool:
        """Whether a value is neither bits nor codes."""
        return var not in self.few_values and str(var.ty.dtype) not in STORED

    def _makes_bits(self, var: Var) -> bool:
        """Whether a value takes few values, or is a condition of one that does: bits interleave by whole phases."""
        if var in self.few_values:
            return True
        return str(var.ty.dtype) == "bool" and any(map(self._makes_bits, self.graph.users[var]))

    def _argument(self, arg: Expr, place: int, like: _Phases) -> Expr:
        if isinstance(arg, Var):
            return self.known[arg].parts[place]
        numbers = constant(arg)
        return arg if numbers is None else relax.const(like.of_parts(numbers)[place], str(arg.ty.dtype))

    def _ordered(self, found: Interleaved) -> _Phases:
        """Parts whose channels are in the order of phases, where a convolution can compute them so."""
        interleaving, (first, *more) = found.interleaving, found.parts
        if first in self.known and not more:
            return _Phases(self.known[first].parts, interleaving, found.axes)
        parts = tuple(self.writer[part] for part in found.parts)
        reordered = None if more or interleaving.in_order else self._reordered(first, interleaving.channels.reshape(-1))
        if reordered is None:
            return _Phases(parts, interleaving, found.axes)
        in_order = np.arange(interleaving.channels.size).reshape(interleaving.channels.shape)
        interleaving = replace(interleaving, channels=in_order)
        return _Phases((reordered,), interleaving, Axes.of_phases(shape(reordered), interleaving))

    def _reordered(self, end: Var, order: np.ndarray) -> Expr | None:
        """A map with its channels in another order; None if no convolution, or more than one, can compute it so."""
        between, sources = self._behind(end)
        conv = next(iter(sources)) if len(sources) == 1 else None
        value = None if conv is None else self.graph.values.get(conv)
        if conv is None or value is None or op_name(value) != "nn.conv2d" or int(value.attrs.groups) != 1:
            return None
        weight = constant(value.args[1])
        steps = [(var, step) for var, step in self.graph.bindings if var in between]
        numbers = [each for _, step in steps for arg in step.args if (each := constant(arg)) is not None]
        if weight is None or not all(_is_of_channels(each, 4) for each in numbers):
            return None
        args = [self.writer[value.args[0]], relax.const(weight[order])]
        new: dict[Var, Expr] = {}
        new[conv] = self.writer.emit(Call(value.op, args, value.attrs, value.ty_args), f"{conv.name}_reordered")
        for var, step in steps:
            args = [new[arg] if isinstance(arg, Var) else _reordered(arg, order) for arg in step.args]
            new[var] = self.writer.emit(Call(step.op, args, step.attrs, step.ty_args), f"{var.name}_reordered")
        return new[end]


def _reordered(arg: Expr, order: np.ndarray) -> Expr:
    """A constant with its channels in another order; anything else as it is."""
    numbers = constant(arg)
    if numbers is None or numbers.ndim < 3 or numbers.shape[-3] == 1:
        return arg
    return relax.const(np.take(numbers, order, numbers.ndim - 3), str(arg.ty.dtype))


def _keeps_map(value: Call) -> bool:
    """Whether an operator of quantisers changes only an axis after those of the map."""
    axes, rank = value.attrs.axis, len(shape(value.args[0]))
    if axes is None:
        return False
    size = rank + 1 if op_name(value) == "expand_dims" else rank
    return all(int(axis) % size >= 4 for axis in axes) and not getattr(value.attrs, "keepdims", False)


def _is_of_channels(values: np.ndarray, rank: int) -> bool:
    """Whether a constant beside a tensor of some axes, the channels are axis 1, is the same for all pixels."""
    aligned = (1,) * (rank - values.ndim) + values.shape
    return len(aligned) == rank and all(size == 1 for size in (aligned[0], *aligned[2:4]))
