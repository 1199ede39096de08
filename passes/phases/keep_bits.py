"""Move binarisers towards the layer that makes their input, so that bits are what travels between layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.channels import concatenated_channels, taken_channels
from ..relax.domains import domains
from ..relax.graph import (
    Graph,
    Writer,
    channel_axis,
    constant,
    drop_dead,
    one_a_channel,
    op_name,
    shape,
    without_pixels,
)
from ..relax.quantisers import Quantiser, emit_quantiser, quantisers

# Operations of one tensor and constants that move along with the binariser behind them.
_WITH_CONSTANT = {"add", "subtract", "multiply", "divide", "maximum", "minimum", "nn.prelu"}
_UNARY = {"nn.relu", "nn.leakyrelu", "clip", "negative"}


def keep_bits(mod: IRModule) -> IRModule:
    """A binariser moves before what only moves values: max pooling, selections of channels, reshapes.

    ``binarize(f(max_pool(x)))`` becomes ``max_pool(binarize(f(x)))``, where ``f`` is what lies between, batch norm or
    PReLU for example, as long as it is monotone in every channel; where it falls (a negative scale) the maximum becomes
    a minimum. This is exact, since rounding is monotone too. It applies where nothing else reads the values between.
    Quantisers move before max pooling likewise.
    """
    while (moved := _move_one(mod)) is not None:
        mod = moved
    return _merge_equal(mod)


@dataclass(frozen=True, eq=False)
class _Source:
    """What a mover reads.

    Attributes:
        var: The value.
        channels: For each of its channels one of the mover's result that holds it; None if there is no such thing.
    """

    var: Var
    channels: np.ndarray | None


@dataclass(frozen=True, eq=False)
class _Move:
    """A binariser that can go before the operation that moves its values.

    Attributes:
        mover: The result of that operation.
        sources: What it reads.
        chain: The operations behind it, of one reader each; the last one is a binariser's comparison, or what a
            quantiser reads.
        binarised: The result of the binariser or quantiser.
        quantiser: If it is one.
        signs: Of a pooling: -1 in the channels where the chain falls, else +1.
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
    inside = {var for each in found.values() for var in each.chain}  # codes whose levels come later
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
        possible = op_name(value) == "nn.max_pool2d" if quantised is not None else len(chain) > 1
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
    taken = taken_channels(mover, extent)
    if taken is None:
        return None
    channels = np.argsort(taken)
    if len(taken) == shape(source)[channel_axis(extent)] and np.array_equal(taken[channels], np.arange(len(taken))):
        return (_Source(source, channels),)
    # To binarise more than is taken costs nothing in the epilogue of a layer, but a kernel where there is none.
    return (_Source(source, None),) if source in graph.values else None


def _operand(value: Expr, extent: tuple[int, ...]) -> Var | None:
    """The only tensor that an elementwise operation reads, if its other operands are one constant a channel."""
    name = op_name(value)
    if name in _UNARY:
        return value.args[0] if isinstance(value.args[0], Var) else None
    if name not in _WITH_CONSTANT and name not in ("greater", "greater_equal"):
        return None
    variables = [arg for arg in value.args if isinstance(arg, Var)]
    constants = [each for arg in value.args if (each := constant(arg)) is not None]
    if len(variables) != 1 or len(constants) != 1 or shape(variables[0]) != extent:
        return None
    if name == "nn.prelu":
        return variables[0] if int(value.attrs.axis) == channel_axis(extent) else None
    return variables[0] if one_a_channel(constants[0], extent) else None


def _is_uniform(step: Call) -> bool:
    constants = [each for arg in step.args if (each := constant(arg)) is not None]
    return op_name(step) != "nn.prelu" and all(each.size == 1 for each in constants)


def _directions(steps: Sequence[Call], channels: int) -> np.ndarray | None:
    """Whether a chain of operations rises (+1) or falls (-1), by channel; None if it does neither everywhere."""
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
        elif name == "negative" or (name == "subtract" and constant_first):
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
    """The chain and the binariser on one of the sources."""
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
    """The levels of x, which is of the new function."""
    name = f"{result.name}_early"
    value = emit_quantiser(writer, x, quantised.thresholds, name)
    for var in [*quantised.chain, result][4:]:  # the arithmetic behind the sum
        call, codes = graph.values[var], writer.emit(value, f"{name}_code")
        value = Call(call.op, [codes if isinstance(arg, Var) else arg for arg in call.args], call.attrs)
    return writer.emit(value, name)


def _picked(arg: Expr, source: _Source, extent: tuple[int, ...], operation: str) -> Expr:
    """A constant of the chain for the channels of a source."""
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
    """What moves the values, on bits."""
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
    """Binarisers that say the same of the same value become one."""
    graph = Graph(mod["main"])
    known = domains(graph)
    writer = Writer(graph)
    first: dict[tuple[object, ...], Var] = {}
    for var, value in graph.bindings:
        if op_name(value) == "where" and var in known and var not in graph.results:
            condition = graph.values[value.args[0]]
            constants = [constant(each) for each in (condition.args[1], *value.args[1:])]
            contents = [(each.shape, each.tobytes()) for each in constants if each is not None]
            computed = condition.args[1] if constant(condition.args[1]) is None else None
            key = (condition.args[0], op_name(condition), computed, *contents)
            if key in first:
                writer.alias(var, writer[first[key]])
                continue
            first[key] = var
        writer.keep(var, value)
    return drop_dead(writer.module(mod))
