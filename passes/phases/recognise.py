"""Find the binary layers of any graph: two-valued activations times weights of two values a channel.

Graphs made with the ai.sbnn operators and graphs of standard operators only take the same way: what counts is what a
tensor provably holds, not which tool wrote it.
"""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.domains import domains
from ..relax.facts import with_integer_sums
from ..relax.graph import Graph, Writer, op_name, shape
from ..relax.weights import BinaryWeight, all_ones, linear_weight


def recognise(mod: IRModule) -> IRModule:
    """Rewrite every binary layer so that its weights are -1 and +1, and scale and offset follow.

    ``conv(x, tau * S + phi)`` becomes ``tau * conv(x, S) + phi * conv(x, 1)``, where the first sum is one popcount an
    output and the second one popcount a window.
    """
    graph = Graph(mod["main"])
    known = domains(graph)
    writer = Writer(graph)
    sums: dict[str, str] = {}
    for var, value in graph.bindings:
        if op_name(value) == "sum" and value.args[0] in known and _sums_rows(value):
            ones = np.ones((shape(value.args[0])[-1], 1), np.float32)
            writer.bind(var, op.matmul(writer[value.args[0]], relax.const(ones)))
            continue
        weight = linear_weight(value)
        binary = BinaryWeight.of(weight) if weight is not None and value.args[0] in known else None
        if binary is None or binary.plain:
            writer.keep(var, value)
        else:
            writer.bind(var, _with_signs(writer, var, value, binary, sums))
    return _window_sums_first(with_integer_sums(writer.module(mod), sums))


def _with_signs(writer: Writer, var: Var, call: Call, binary: BinaryWeight, sums: dict[str, str]) -> Expr:
    """The value of a linear call by signs; ``sums`` gets the name of the integer sum, and of the value."""
    x = writer[call.args[0]]
    if op_name(call) == "matmul":
        rank: tuple[int, ...] = (1, -1)
        ones = np.ones((binary.signs.shape[1], 1), np.float32)
        window = op.matmul(x, relax.const(ones)) if binary.phi.any() else None
        signed: Expr = op.matmul(x, relax.const(np.ascontiguousarray(binary.signs.T)))
    else:
        rank = (1, -1, 1, 1)
        ones = np.ones_like(binary.signs if int(call.attrs.groups) > 1 else binary.signs[:1])
        window = _conv_like(call, x, ones) if binary.phi.any() else None
        signed = _conv_like(call, x, binary.signs)
    if window is not None:
        window = writer.emit(window, f"{var.name}_window")
    signed = writer.emit(signed, f"{var.name}_signed")
    sums[signed.name] = var.name
    scaled = op.multiply(signed, relax.const(binary.tau.reshape(rank)))
    if window is None:
        return scaled
    scaled = writer.emit(scaled, f"{var.name}_scaled")
    offset = writer.emit(op.multiply(window, relax.const(binary.phi.reshape(rank))), f"{var.name}_offset")
    return op.add(scaled, offset)


def _conv_like(conv: Call, x: Expr, weight: np.ndarray) -> Call:
    return Call(conv.op, [x, relax.const(weight)], conv.attrs)


def _sums_rows(call: Call) -> bool:
    rank = len(shape(call.args[0]))
    axis = [int(a) % rank for a in call.attrs.axis] if call.attrs.axis is not None else []
    return bool(call.attrs.keepdims) and rank in (2, 3) and axis == [rank - 1]


def _window_sums_first(mod: IRModule) -> IRModule:
    # The sum of a window (of a group) is an operand of the epilogue of the layer beside it, so it must come first.
    graph = Graph(mod["main"])
    known = domains(graph)
    early = {var for var, value in graph.bindings if all_ones(linear_weight(value)) and value.args[0] in known}
    writer = Writer(graph)
    for var, value in graph.bindings:
        if var not in early:
            writer.keep(var, value)
        for user in graph.users[var]:
            if user in early:
                writer.keep(user, graph.values[user])
    return writer.module(mod)
