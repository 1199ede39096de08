"""Move binarisers towards the layer that makes their input, so that bits are what travels between layers."""

from __future__ import annotations

from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from .canonicalize import drop_dead
from .graph import Graph, Writer, constant, op_name, shape
from .recognise import domains

_MOVABLE = {"nn.max_pool2d", "reshape"}


def keep_bits(mod: IRModule) -> IRModule:
    """``binarize(max_pool(x))`` becomes ``max_pool(binarize(x))``, and likewise for reshapes.

    Both are exact: a binariser with one threshold a channel is monotone, so it commutes with the maximum, and a maximum
    of bits is their OR. It applies where nothing else reads the pooled values.
    """
    while (moved := _move_one(mod)) is not None:
        mod = moved
    return mod


def _move_one(mod: IRModule) -> IRModule | None:
    graph = Graph(mod["main"])
    for var in domains(graph):
        where = graph.values[var]
        if op_name(where) != "where":
            continue
        condition = graph.values[where.args[0]]
        mover = graph.values.get(condition.args[0])
        if mover is None or op_name(mover) not in _MOVABLE or not _only_reader(graph, condition.args[0], where.args[0]):
            continue
        if not _one_threshold_a_channel(condition, op_name(mover)):
            continue
        return _swap(mod, graph, var, condition.args[0])
    return None


def _one_threshold_a_channel(condition: Call, mover: str) -> bool:
    """Whether a comparison treats all the elements alike that its operand is moved over."""
    threshold, extent = constant(condition.args[1]), shape(condition.args[0])
    if threshold is None or threshold.ndim > len(extent):
        return False
    return threshold.size == 1 or (mover != "reshape" and threshold.shape == (1, extent[1], 1, 1))


def _only_reader(graph: Graph, var: Var, condition: Var) -> bool:
    return graph.users[var] == [condition] and len(graph.users[condition]) == 1 and var not in graph.results


def _swap(mod: IRModule, graph: Graph, binarised: Var, moved: Var) -> IRModule:
    writer = Writer(graph)
    where, mover = graph.values[binarised], graph.values[moved]
    for var, value in graph.bindings:
        if var == binarised:
            condition = graph.values[where.args[0]]
            first = writer.emit(Call(condition.op, [writer[mover.args[0]], condition.args[1]]), f"{var.name}_condition")
            bits = writer.emit(op.where(first, where.args[1], where.args[2]), f"{var.name}_early")
            writer.bind(var, _applied_to(mover, bits))
        else:
            writer.keep(var, value)
    return drop_dead(writer.module(mod))


def _applied_to(mover: Call, bits: Expr) -> Expr:
    return Call(mover.op, [bits, *mover.args[1:]], mover.attrs)
