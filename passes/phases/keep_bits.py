"""Move binarisers towards the layer that computes their input, so that layers exchange bits instead of floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.channels import concatenated_channels, taken_channels
from ..relax.comparisons import COMPARISONS, comparison
from ..relax.domains import domains
from ..relax.graph import (
    Graph,
    Writer,
    channel_axis,
    constant,
    drop_dead,
    is_per_channel,
    op_name,
    shape,
    without_pixels,
)
from ..relax.quantisers import Quantiser, emit_quantiser, quantisers
from ..relax.selections import selection_rank

# Operations of one tensor and constants, which can move together with the binariser after them.
_WITH_CONSTANT = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "nn.prelu"}
_UNARY = {"nn.relu", "nn.leakyrelu", "clip", "negative", "logical_not"}


def keep_bits(mod: IRModule) -> IRModule:
    """Move binarisers before operations that only move values: max pooling, selections, reshapes.

    ``binarize(f(max_pool(x)))`` becomes ``max_pool(binarize(f(x)))``, for any ``f`` that is monotone in every channel,
    batch norm or PReLU for example. This is exact: float32 rounding is monotone too, so ``binarize(f(x))`` is monotone,
    and a monotone function commutes with a maximum.

    1. From each binariser, walk back over operations with constants until a mover is reached (``_find``). No value on
       the way may have another reader.
    2. For a max pooling, find the direction of ``f`` in each channel. Where it falls (a negative scale), the maximum
       becomes a minimum, which is written ``s * max_pool2d(s * bits)`` with s = -1.
    3. Emit ``f`` and the binariser on each source of the mover, then the mover on the bits (``_moved``).
    4. Repeat until nothing moves. Then merge equal binarisers of the same value.

    Example: ``max_pool2d(x) * -2 > 1`` with x = [-3, 4] in one window: the maximum is 4, and -8 > 1 is false. Moved:
    the bits are [6 > 1, -8 > 1] = [true, false], and their minimum is false.

    Quantisers move before max pooling, and before takes of rows and columns, in the same way.

    Where a window holds NaN, which a max pooling ignores, the bit of NaN counts as any other bit.
    """
    while (moved := _move_one(mod)) is not None:
        mod = moved
    return _merge_equal(mod)


@dataclass(frozen=True, eq=False)
class _Source:
    """An operand of a mover.

    Attributes:
        var: The operand.
        channels: For each channel of the operand, the channel of the mover's result that holds it, integers [C]; None
            if channels do not correspond one to one.
    """

    var: Var
    channels: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Move:
    """A binariser or quantiser that can move before a mover, an operation that only moves values.

    Attributes:
        mover: The result of the mover.
        sources: The operands of the mover.
        chain: The results of the operations between the mover and the binariser, with one reader each. The last one is
            the binariser's comparison, or the input of the quantiser.
        binarised: The result of the binariser or quantiser.
        quantiser: The quantiser; None for a binariser.
        signs: float32 [C], -1 in the channels where the chain falls, else +1; None if the mover is not a pooling.
    """

    mover: Var
    sources: tuple[_Source, ...]
    chain: tuple[Var, ...]
    binarised: Var
    quantiser: Quantiser | None
    signs: np.ndarray | None


def _move_one(mod: IRModule) -> IRModule | None:
    graph = Graph(mod["main"])
    found = quantisers(graph)
    inside = {var for each in found.values() for var in each.chain}  # codes before the arithmetic that makes levels
    for var in domains(graph):
        if op_name(graph.values[var]) != "where" and (var not in found or var in inside):
            continue
        if (move := _find(graph, var, found.get(var))) is not None:
            return _moved(mod, graph, move)
    return None


def _find(graph: Graph, binarised: Var, quantised: Quantiser | None) -> _Move | None:
    chain, reader = [graph.values[binarised].args[0]], binarised
    if quantised is not None:
        chain, reader = [quantised.x], quantised.chain[0]
    while True:
        if graph.users[chain[0]] != [reader] or chain[0] in graph.results:
            return None
        reader, value = chain[0], graph.values.get(chain[0])
        if value is None:
            return None
        possible = len(chain) > 1
        if quantised is not None:
            possible = op_name(value) == "nn.max_pool2d" or _takes_pixels(value, shape(reader))
        if possible and (sources := _sources(graph, value, shape(reader))) is not None:
            break
        operand = _operand(value, shape(reader))
        if operand is None:
            return None
        chain.insert(0, operand)
    mover, *rest = chain
    steps = [graph.values[var] for var in rest]
    if any(source.channels is None for source in sources) and not all(_is_uniform(step) for step in steps):
        return None
    signs = None
    if op_name(value) == "nn.max_pool2d":
        signs = _directions(steps, shape(mover)[1])
        if signs is None:
            return None
    return _Move(mover, sources, tuple(rest), binarised, quantised, signs)


def _sources(graph: Graph, mover: Expr, extent: tuple[int, ...]) -> tuple[_Source, ...] | None:
    name = op_name(mover)
    if (fields := concatenated_channels(mover, extent)) is not None:
        axis = channel_axis(extent)
        ends = np.cumsum([shape(field)[axis] for field in fields])
        return tuple(_Source(f, np.arange(end - shape(f)[axis], end)) for f, end in zip(fields, ends, strict=True))
    if name not in ("nn.max_pool2d", "reshape", "take") or not isinstance(mover.args[0], Var):
        return None
    source = mover.args[0]
    if name == "nn.max_pool2d":
        return (_Source(source, np.arange(extent[1])),)
    if name == "reshape":
        same = without_pixels(shape(source)) == without_pixels(extent) and min(len(shape(source)), len(extent)) > 1
        return (_Source(source, np.arange(extent[1]) if same and len(extent) in (2, 4) else None),)
    if _takes_pixels(mover, extent):
        return (_Source(source, np.arange(extent[1])),) if source in graph.values else None
    taken = taken_channels(mover, extent)
    if taken is None:
        return None
    channels = np.argsort(taken)
    if len(taken) == shape(source)[channel_axis(extent)] and np.array_equal(taken[channels], np.arange(len(taken))):
        return (_Source(source, channels),)
    # Channels that are not taken are binarised although nothing reads them. That costs nothing in the epilogue of a
    # layer, but an input of the model has no layer and would need a kernel of its own.
    return (_Source(source, None),) if source in graph.values else None


def _takes_pixels(mover: Expr, extent: tuple[int, ...]) -> bool:
    """Whether an operation takes rows or columns of a feature map."""
    return op_name(mover) == "take" and len(extent) == 4 and (selection_rank(mover, extent) or 0) > 1


def _operand(value: Expr, extent: tuple[int, ...]) -> Var | None:
    """The only tensor operand of an elementwise operation, if its other operand is one constant, or one per channel."""
    name = op_name(value)
    if name in _UNARY:
        return value.args[0] if isinstance(value.args[0], Var) else None
    if name not in _WITH_CONSTANT and name not in COMPARISONS:
        return None
    variables = [arg for arg in value.args if isinstance(arg, Var)]
    constants = [each for arg in value.args if (each := constant(arg)) is not None]
    if len(variables) != 1 or len(constants) != 1 or shape(variables[0]) != extent:
        return None
    if name == "nn.prelu":
        return variables[0] if int(value.attrs.axis) == channel_axis(extent) else None
    return variables[0] if is_per_channel(constants[0], extent) else None


def _is_uniform(step: Call) -> bool:
    constants = [each for arg in step.args if (each := constant(arg)) is not None]
    return op_name(step) != "nn.prelu" and all(each.size == 1 for each in constants)


def _directions(steps: Sequence[Call], channels: int) -> np.ndarray | None:
    """Direction of a chain in each channel, float32 [C]: +1 rises, -1 falls; None if a channel is not monotone."""
    signs = np.ones(channels, np.float32)
    for step in steps:
        name = op_name(step)
        values = next((each for arg in step.args if (each := constant(arg)) is not None), np.ones(1, np.float32))
        if not np.all(np.isfinite(values)):
            return None
        falls = np.broadcast_to(values.reshape(-1) < 0, channels)
        constant_first = constant(step.args[0]) is not None
        if name == "divide":
            if constant_first or not np.all(values):
                return None
            signs = np.where(falls, -signs, signs)
        elif name == "multiply":
            signs = np.where(falls, -signs, signs)
        elif name in ("negative", "logical_not", "less", "less_equal") or (name == "subtract" and constant_first):
            signs = -signs
        elif (name == "nn.prelu" and falls.any()) or (name == "nn.leakyrelu" and float(step.attrs.alpha) < 0):
            return None
    return signs


def _moved(mod: IRModule, graph: Graph, move: _Move) -> IRModule:
    writer = Writer(graph)
    for var, value in graph.bindings:
        if var == move.binarised:
            parts = [_binarised(graph, writer, move, source) for source in move.sources]
            writer.bind(var, _applied(graph, writer, move, parts))
        else:
            writer.keep(var, value)
    return drop_dead(writer.module(mod))


def _binarised(graph: Graph, writer: Writer, move: _Move, source: _Source) -> Var:
    """Emit the chain and the binariser on one source."""
    extent = shape(source.var)
    x = writer[source.var]
    for var in move.chain:
        call = graph.values[var]
        arguments = [x if isinstance(arg, Var) else _picked(arg, source, extent, op_name(call)) for arg in call.args]
        x = writer.emit(Call(call.op, arguments, call.attrs), f"{var.name}_early")
    if move.quantiser is not None:
        return _quantised(graph, writer, move.binarised, move.quantiser, x)
    where = graph.values[move.binarised]
    return writer.emit(op.where(x, where.args[1], where.args[2]), f"{move.binarised.name}_early")


def _quantised(graph: Graph, writer: Writer, result: Var, quantised: Quantiser, x: Expr) -> Var:
    """Emit the levels of x, a value of the new function."""
    name = f"{result.name}_early"
    value = emit_quantiser(writer, x, quantised.thresholds, name)
    for var in [*quantised.chain, result][4:]:  # the arithmetic after the sum
        call, codes = graph.values[var], writer.emit(value, f"{name}_code")
        value = Call(call.op, [codes if isinstance(arg, Var) else arg for arg in call.args], call.attrs)
    return writer.emit(value, name)


def _picked(arg: Expr, source: _Source, extent: tuple[int, ...], operation: str) -> Expr:
    """A constant of the chain, reduced to the channels of a source."""
    values = constant(arg)
    if values is None or (values.size == 1 and operation != "nn.prelu"):
        return arg if values is None else relax.const(values.reshape(()))
    channels = values.reshape(-1)
    if source.channels is not None and channels.size > 1:
        channels = channels[source.channels]
    if operation == "nn.prelu":
        return relax.const(channels)
    return relax.const(channels.reshape([-1 if i == channel_axis(extent) else 1 for i in range(len(extent))]))


def _applied(graph: Graph, writer: Writer, move: _Move, parts: Sequence[Var]) -> Expr:
    """The mover, applied to the binarised sources."""
    mover, name = graph.values[move.mover], move.binarised.name
    if op_name(mover) == "concat":
        return op.concat(list(parts), channel_axis(shape(move.mover)))
    if move.signs is None or (move.signs > 0).all():
        return Call(mover.op, [parts[0], *mover.args[1:]], mover.attrs)
    signs = relax.const(move.signs.reshape(1, -1, 1, 1))
    signed = writer.emit(op.multiply(parts[0], signs), f"{name}_signed")
    pooled = writer.emit(Call(mover.op, [signed], mover.attrs), f"{name}_pooled")
    return op.multiply(pooled, signs)


def _merge_equal(mod: IRModule) -> IRModule:
    """Merge binarisers of the same value with equal thresholds and equal results."""
    graph = Graph(mod["main"])
    known = domains(graph)
    writer = Writer(graph)
    first: dict[tuple[object, ...], Var] = {}
    for var, value in graph.bindings:
        if op_name(value) == "where" and var in known and var not in graph.results:
            compared = comparison(graph, value.args[0])
            if compared is None:
                raise AssertionError(f"the binariser '{var.name}' does not have the form that canonicalize writes")
            constants = [constant(each) for each in (compared.threshold, *value.args[1:])]
            contents = [(each.shape, each.tobytes()) for each in constants if each is not None]
            computed = compared.threshold if constant(compared.threshold) is None else None
            key = (compared.x, compared.inclusive, compared.of_nan, computed, *contents)
            if key in first:
                writer.alias(var, writer[first[key]])
                continue
            first[key] = var
        writer.keep(var, value)
    return drop_dead(writer.module(mod))
