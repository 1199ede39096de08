"""Bring quantisation to integers, and the way back, into one form, and let values that only move stay integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.codes import STORED, Rounded, emit_codes, rounded
from ..relax.graph import Graph, Writer, between_formats, channel_axis, constant, drop_dead, op_name, operands, shape

_UNARY: dict[str, Callable[..., np.ndarray]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
    "maximum": np.maximum,
    "minimum": np.minimum,
}
_MEANS = ("nn.avg_pool2d", "nn.adaptive_avg_pool2d", "mean")
_MOVES_OF_CODES = ("nn.max_pool2d", "strided_slice", "take", "nn.pad", "concat")
"""Operators on integers that kernels compute as those on floats; others stay as they are."""
_MOVES = ("nn.max_pool2d", "nn.relu", "reshape", "permute_dims", "strided_slice", "take", "nn.pad", "concat")


def integer_values(mod: IRModule) -> IRModule:
    """Write quantised values in one form, whatever the graph looks like.

    1. A value that is rounded, shifted by an integer and limited is an integer. Where its type is one of 8 or 16 bits,
       or where a scale follows at once (fake quantisation in floats), it becomes a quantisation in the form of
       relax/codes.py. A limit to fewer codes, as QCDQ writes it, moves before it.
    2. A value ``(q - zero_point) * scale`` of such integers q is written at each of its readers, as
       ``multiply(subtract(astype(q, float32), zero_point), scale)``, so that what is kept in memory is q. Casts between
       integer types, and differences in int32, which float32 represents exactly, are written in float32.
    3. Max pooling, reshapes, transposes, slices, selections, paddings and concatenations of such values work on q. A
       concatenation of several scales has one scale per channel after it. Poolings of integers are written alike.
    4. Means are taken of q, which sums integers.
    5. A quantisation that gives every code back as it was is left out.
    """
    graph = Graph(mod["main"])
    walk = _Walk(graph)
    for var, value in graph.bindings:
        walk.visit(var, value)
    return drop_dead(walk.writer.module(mod))


@dataclass(eq=False)
class _Integers:
    """A value ``(number - zero_point) * scale``, or ``number - zero_point`` if ``scale`` is None.

    Attributes:
        dtype: The integer type that holds the numbers.
        codes: The variable of the new function that holds them in that type, if there is one.
        floats: A variable that holds them as float32, if there is one; at least one of both exists.
        source: The codes of which ``floats`` is a reshape or a permutation, if it is.
        moves: The operations between both, in order.
    """

    dtype: str
    codes: Expr | None
    floats: Expr | None = None
    zero_point: int = 0
    scale: np.float32 | None = None
    source: Expr | None = None
    moves: tuple[Call, ...] = ()
    made: list[Expr] = field(default_factory=list)

    def value(self, numbers: np.ndarray) -> np.ndarray:
        """What some numbers stand for, float32."""
        differences = numbers.astype(np.float32) - np.float32(self.zero_point)
        return differences if self.scale is None else differences * self.scale


class _Walk:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.writer = Writer(graph)
        self.known: dict[Var, _Integers] = {}
        self.differences: dict[Var, tuple[Expr, Expr | None]] = {}
        self.named: set[Var] = set()

    def visit(self, var: Var, value: Expr) -> None:
        """Write one binding."""
        self._visit(var, value)
        if var in self.known and var in self.graph.results and _is_float(var):
            self.writer.alias(var, self._floats(var))

    def _visit(self, var: Var, value: Expr) -> None:
        if not isinstance(var.ty, relax.TensorType) or not isinstance(value, Call):
            self._keep(var, value)
            return
        dtype = str(var.ty.dtype)
        if dtype in STORED and (matched := rounded(self.graph, var)) is not None and _is_quantised(matched, dtype):
            self._quantised(var, matched, dtype)
            return
        if dtype in STORED and op_name(value) in _MOVES_OF_CODES and self._moved_codes(var, value, dtype):
            return
        self._note_differences(var, value)
        if (found := self._integers(var, value)) is not None:
            self.known[var] = found
            if not _is_float(var):
                self._keep(var, value)  # for readers in int32; drop_dead removes it if there is none
            return
        if op_name(value) in _MOVES and (moved := self._moved(var, value)) is not None:
            self.known[var] = moved
            return
        if op_name(value) in ("reshape", "permute_dims") and self._moved_differences(var, value):
            return
        if op_name(value) == "concat" and self._concatenated(var, value):
            return
        if op_name(value) in _MEANS and self._mean(var, value):
            return
        self._keep(var, value)

    def _keep(self, var: Var, value: Expr) -> None:
        for operand in dict.fromkeys(operands(value)):
            if operand in self.known and _is_float(operand):
                self.writer.alias(operand, self._floats(operand))
        self.writer.keep(var, value)

    def _quantised(self, var: Var, matched: Rounded, dtype: str) -> None:
        base = self._unchanged(matched) if matched.point is None else None
        if base is not None and base.dtype == dtype:
            self.writer.alias(var, self._codes(base, var.name))
        else:
            self.writer.bind(var, self._emit(matched, dtype, var.name))
        self.known[var] = _Integers(dtype, self.writer[var])

    def _emit(self, matched: Rounded, dtype: str, name: str) -> Expr:
        for operand in operands(matched.x):
            if operand in self.known and _is_float(operand):
                self.writer.alias(operand, self._floats(operand))
        x, limits = self.writer[matched.x], np.iinfo(dtype)
        if matched.point is not None:
            return emit_codes(self.writer, x, dtype, self.writer[matched.point], name)
        if matched.low > limits.min:
            x = self.writer.emit(op.maximum(x, _number(matched.low - matched.zero_point)), f"{name}_above")
        if matched.high < limits.max:
            x = self.writer.emit(op.minimum(x, _number(matched.high - matched.zero_point)), f"{name}_below")
        return emit_codes(self.writer, x, dtype, matched.zero_point, name)

    def _integers(self, var: Var, value: Call) -> _Integers | None:
        """A value as integers: what is known of its operand, cast, shifted or scaled."""
        name = op_name(value)
        if name == "astype":
            source = value.args[0]
            if not isinstance(source, Var) or str(var.ty.dtype) not in ("float32", "int32"):
                return None
            if source in self.known:
                return self.known[source] if self.known[source].scale is None else None
            stored = str(source.ty.dtype)
            return _Integers(stored, self.writer[source]) if stored in STORED else None
        if (bounded := self._bounded(var, value)) is not None:
            return bounded
        if name not in ("add", "subtract", "multiply"):
            return None
        first, second = value.args
        if name != "subtract" and not isinstance(first, Var):
            first, second = second, first
        base, number = self.known.get(first), constant(second)
        if base is None or base.scale is not None or number is None or number.size != 1:
            return None
        if number.ndim > len(shape(first)):
            return None
        if name == "multiply":
            scale = np.float32(number.item())
            positive = _is_float(var) and np.isfinite(scale) and scale > 0
            return replace(base, scale=scale) if positive else None
        shift = float(number.item())
        if not shift.is_integer() or abs(shift) > 2**17:
            return None
        return replace(base, zero_point=base.zero_point + int(-shift if name == "add" else shift))

    def _bounded(self, var: Var, value: Call) -> _Integers | None:
        """A float32 value that is rounded and limited, and then scaled: fake quantisation."""
        if not _is_float(var) or op_name(value) != "multiply":
            return None
        source, factor = value.args
        if not isinstance(source, Var):
            source, factor = factor, source
        number = constant(factor)
        if number is None or number.size != 1 or source in self.known:
            return None
        matched = rounded(self.graph, source)
        scale = np.float32(number.item())
        if matched is None or matched.point is not None or not (np.isfinite(scale) and scale > 0):
            return None
        # 256 numbers that fit neither int8 nor uint8 get a zero point of their own
        shift = int(-matched.low) if matched.type not in ("int8", "uint8") and matched.high - matched.low <= 255 else 0
        matched = matched.shifted(shift)
        if (dtype := matched.type) is None:
            return None
        known = self._unchanged(matched)
        if known is not None and known.dtype == dtype:
            return replace(known, zero_point=shift, scale=scale)
        name = f"{source.name}_codes"
        codes = self.writer.emit(self._emit(matched, dtype, name), name)
        return _Integers(dtype, codes, zero_point=shift, scale=scale)

    def _codes(self, integers: _Integers, name: str) -> Expr:
        """The variable that holds the numbers in their integer type."""
        if integers.codes is None and not integers.made:
            source, moves = integers.source, list(map(op_name, integers.moves))
            assert integers.floats is not None
            if source is not None and set(moves) == {"reshape"}:
                made = self.writer.emit(op.reshape(source, shape(integers.floats)), name)
            elif source is not None and (moves == ["permute_dims"] or _interleaves(integers.moves, source)):
                made = source
                for move in integers.moves:
                    made = self.writer.emit(Call(move.op, [made, *move.args[1:]], move.attrs, move.ty_args), name)
            else:
                made = self.writer.emit(emit_codes(self.writer, integers.floats, integers.dtype, 0, name), name)
            integers.made.append(made)
        return integers.made[0] if integers.codes is None else integers.codes

    def _numbers(self, integers: _Integers, name: str, stored: bool = False) -> Expr:
        """The numbers as float32; read from memory if they are computed, and ``stored`` asks for it."""
        computed = bool({"nn.max_pool2d", "nn.relu"}.intersection(map(op_name, integers.moves)))
        if integers.floats is not None and not (stored and computed):
            return integers.floats
        codes = self._codes(integers, f"{name}_stored")
        return self.writer.emit(op.astype(codes, "float32"), f"{name}_codes")

    def _floats(self, var: Var) -> Expr:
        """The float32 value, written once more for each reader."""
        integers = self.known[var]
        value = op.astype(self._codes(integers, f"{var.name}_stored"), "float32")
        if integers.zero_point:
            value = op.subtract(self.writer.emit(value, f"{var.name}_codes"), _number(integers.zero_point))
        if integers.scale is not None:
            value = op.multiply(self.writer.emit(value, f"{var.name}_centred"), relax.const(integers.scale))
        if var in self.named:
            return self.writer.emit(value, var.name)
        self.named.add(var)
        return self.writer.bind(var, value)

    def _moved(self, var: Var, value: Call) -> _Integers | None:
        """A value of an operator that only moves numbers, or takes the largest; None if it is none of integers."""
        name = op_name(value)
        if name == "permute_dims" and str(var.ty.dtype) == "int32":
            return self._permuted_differences(var, value)
        read = list(value.args[0].fields) if isinstance(value.args[0], relax.Tuple) else [value.args[0]]
        if not _is_float(var) or any(each not in self.known for each in read):
            return None
        if any(isinstance(arg, Var) for arg in value.args[1:]):
            return None
        found = [self.known[each] for each in read]
        base = found[0]
        if any((f.dtype, f.zero_point, f.scale) != (base.dtype, base.zero_point, base.scale) for f in found):
            return None
        if name == "nn.relu" and base.zero_point == np.iinfo(base.dtype).min:
            return base
        if name == "permute_dims" and base.codes is not None and between_formats(value):
            codes = self.writer.emit(op.permute_dims(base.codes, value.attrs.axes), f"{var.name}_stored")
            return replace(base, codes=codes, floats=None, made=[])
        joined = name == "concat"
        numbers = [self._numbers(each, arg.name, joined) for each, arg in zip(found, read, strict=True)]
        alone = len(read) == 1
        source = (base.source if base.codes is None else base.codes) if alone else None
        call: Expr
        match name:
            case "nn.relu":
                call, source = op.maximum(numbers[0], _number(base.zero_point)), None
            case "nn.pad":
                filled = self._padding(value, base)
                if filled is None:
                    return None
                call, source = op.nn.pad(numbers[0], list(value.attrs.pad_width), filled), None
            case "concat":
                call = op.concat(numbers, int(value.attrs.axis))
            case _:
                call = Call(value.op, [numbers[0], *value.args[1:]], value.attrs, value.ty_args)
        floats = self.writer.emit(call, f"{var.name}_numbers")
        return _Integers(base.dtype, None, floats, base.zero_point, base.scale, source, (*base.moves, value))

    def _moved_codes(self, var: Var, value: Call, dtype: str) -> bool:
        """Write an operator that only moves numbers of an integer type, or takes the largest, on their floats."""
        joined = isinstance(value.args[0], relax.Tuple)
        read = list(value.args[0].fields) if joined else [value.args[0]]
        if not all(isinstance(each, Var) for each in read) or any(isinstance(arg, Var) for arg in value.args[1:]):
            return False
        floats = [self.writer.emit(op.astype(self.writer[each], "float32"), f"{each.name}_codes") for each in read]
        arguments = [relax.Tuple(floats) if joined else floats[0], *value.args[1:]]
        moved = self.writer.emit(Call(value.op, arguments, value.attrs, value.ty_args), f"{var.name}_numbers")
        self.writer.bind(var, emit_codes(self.writer, moved, dtype, 0, var.name))
        self.known[var] = _Integers(dtype, self.writer[var])
        return True

    def _permuted_differences(self, var: Var, value: Call) -> _Integers | None:
        """Differences in int32 in another image format: the codes change it, so that a layer of integers reads them."""
        base = self.known.get(value.args[0])
        if base is None or base.codes is None or base.scale is not None or not between_formats(value):
            return None
        codes = self.writer.emit(op.permute_dims(base.codes, value.attrs.axes), f"{var.name}_stored")
        difference: Expr = op.astype(codes, "int32")
        if base.zero_point:
            number = self.writer.emit(difference, f"{var.name}_codes")
            difference = op.subtract(number, relax.const(np.int32(base.zero_point)))
        self.writer.bind(var, difference)
        return replace(base, codes=codes, floats=None, made=[])

    def _note_differences(self, var: Var, value: Call) -> None:
        """Note the codes, and what is subtracted from them, of a value of differences in int32."""
        source = value.args[0] if value.args else None
        if str(var.ty.dtype) != "int32" or not isinstance(source, Var):
            return
        if op_name(value) == "astype" and str(source.ty.dtype) in STORED:
            self.differences[var] = self.writer[source], None
        elif op_name(value) == "subtract" and source in self.differences and not shape(value.args[1]):
            codes, point = self.differences[source]
            if point is None:
                self.differences[var] = codes, self.writer[value.args[1]]

    def _moved_differences(self, var: Var, value: Call) -> bool:
        """Write a permutation or reshape of differences in int32 as one of the codes, which are fewer bytes."""
        codes, point = self.differences.get(value.args[0], (None, None))
        if codes is None:
            return False
        moved = Call(value.op, [codes, *value.args[1:]], value.attrs, value.ty_args)
        codes = self.writer.emit(moved, f"{var.name}_stored")
        difference: Expr = op.astype(codes, "int32")
        if point is not None:
            difference = op.subtract(self.writer.emit(difference, f"{var.name}_codes"), point)
        self.writer.bind(var, difference)
        self.differences[var] = codes, point
        return True

    def _padding(self, pad: Call, base: _Integers) -> float | None:
        """The number that a padding fills in; None if its value is none of theirs."""
        if str(pad.attrs.pad_mode) != "constant":
            return None
        value = np.float32(pad.attrs.pad_value)
        scale = np.float32(1) if base.scale is None else base.scale
        with np.errstate(all="ignore"):
            number = np.rint(value / scale) + base.zero_point
        limits = np.iinfo(base.dtype)
        inside = limits.min <= number <= limits.max
        return float(number) if inside and base.value(np.array(number)) == value else None

    def _concatenated(self, var: Var, value: Call) -> bool:
        """Write a concatenation of integers of several scales: one scale and zero point per channel follow it."""
        fields = list(value.args[0].fields) if isinstance(value.args[0], relax.Tuple) else []
        extent = shape(var)
        if not _is_float(var) or int(value.attrs.axis) % len(extent) != channel_axis(extent):
            return False
        found = [self.known.get(each) for each in fields]
        if any(each is None or each.scale is None for each in found) or len({each.dtype for each in found if each}) > 1:
            return False
        axis = channel_axis(extent)
        counts = [shape(each)[axis] for each in fields]
        along = tuple(-1 if i == axis else 1 for i in range(len(extent)))
        points = np.repeat(np.array([each.zero_point for each in found if each], np.float32), counts).reshape(along)
        scales = np.repeat(np.array([each.scale for each in found if each], np.float32), counts).reshape(along)
        numbers = [self._numbers(each, arg.name, True) for each, arg in zip(found, fields, strict=True) if each]
        call = self.writer.emit(op.concat(numbers, axis), f"{var.name}_numbers")
        centred = self.writer.emit(op.subtract(call, relax.const(points)), f"{var.name}_centred")
        self.writer.bind(var, op.multiply(centred, relax.const(scales)))
        return True

    def _mean(self, var: Var, value: Call) -> bool:
        """Write the mean of integers."""
        base = self.known.get(value.args[0])
        if base is None or not _is_float(var):
            return False
        numbers = self._numbers(base, value.args[0].name)
        if base.zero_point:
            numbers = self.writer.emit(op.subtract(numbers, _number(base.zero_point)), f"{var.name}_centred")
        mean = Call(value.op, [numbers, *value.args[1:]], value.attrs, value.ty_args)
        if base.scale is not None:
            mean = op.multiply(self.writer.emit(mean, f"{var.name}_mean"), relax.const(base.scale))
        self.writer.bind(var, mean)
        return True

    def _unchanged(self, matched: Rounded) -> _Integers | None:
        """The integers that a quantisation gives back as they were; None if it changes any, or reads something else."""
        steps: list[Callable[[np.ndarray], np.ndarray]] = []
        x = matched.x
        while x not in self.known:
            value = self.graph.values.get(x) if isinstance(x, Var) else None
            step = None if value is None else _step(value)
            if step is None:
                return None
            steps.append(step[1])
            x = step[0]
        base = self.known[x]
        limits = np.iinfo(base.dtype)
        numbers = np.arange(limits.min, limits.max + 1)
        y = base.value(numbers)
        with np.errstate(all="ignore"):
            for step in reversed(steps):
                y = step(y)
            y = np.minimum(np.maximum(np.rint(y) + np.float32(matched.zero_point), matched.low), matched.high)
        return base if np.array_equal(y, numbers) else None


def _interleaves(moves: Sequence[Call], source: Expr) -> bool:
    """Whether operations make pixels of channels: a transposed convolution or a pixel shuffle (interleavings.py)."""
    names = list(map(op_name, moves))
    if names[:3] != ["reshape", "permute_dims", "reshape"] or any(name != "strided_slice" for name in names[3:]):
        return False
    before, after = shape(source), [int(extent) for extent in moves[2].args[1].values]
    return len(before) == len(after) == 4 and before[2] <= after[2] and before[3] <= after[3] and before[1] > after[1]


def _step(value: Expr) -> tuple[Expr, Callable[[np.ndarray], np.ndarray]] | None:
    """An operation of one tensor and a number: the tensor, and what it does to float32 numbers."""
    name = op_name(value)
    if name == "nn.relu":
        return value.args[0], lambda x: np.maximum(x, np.float32(0))
    if name == "clip":
        low, high = (np.float32(bound.value) for bound in value.args[1:])
        return value.args[0], lambda x: np.minimum(np.maximum(x, low), high)
    if name not in _UNARY:
        return None
    first, second = value.args
    a, b = constant(first), constant(second)
    function = _UNARY[name]
    if a is None and b is not None and b.size == 1 and b.dtype == np.float32:
        number = np.float32(b.item())
        return first, lambda x: function(x, number)
    if b is None and a is not None and a.size == 1 and a.dtype == np.float32:
        number = np.float32(a.item())
        return second, lambda x: function(number, x)
    return None


def _is_quantised(matched: Rounded, dtype: str) -> bool:
    """Whether a value is a quantisation to a type; to all of its numbers if a zero point is known only at run time."""
    limits = np.iinfo(dtype)
    return matched.fits(dtype) and (
        matched.point is None or (matched.low, matched.high, matched.keeps_nan) == (limits.min, limits.max, False)
    )


def _is_float(var: Expr) -> bool:
    return isinstance(var.ty, relax.TensorType) and str(var.ty.dtype) == "float32"


def _number(value: float) -> Expr:
    return relax.const(np.float32(value))
