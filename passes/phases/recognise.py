"""Find the binary layers of a graph: two-valued activations times weights with two values per output channel.

Recognition depends on the values that a tensor provably has, not on the tool that wrote the graph. So graphs of ai.sbnn
operators and graphs of standard operators are treated alike.
"""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.domains import domains
from ..relax.exceptional_weights import EXCEPTIONS, TWO_VALUES, without_exceptions
from ..relax.facts import integer_sums, weight_changes, with_integer_sums, with_weight_planes
from ..relax.graph import Graph, Writer, flattened_map, op_name, shape
from ..relax.weight_planes import WeightPlanes
from ..relax.weights import BinaryWeight, all_ones, linear_weight


def recognise(mod: IRModule) -> IRModule:
    """Rewrite every binary layer so that its weights are -1 and +1, followed by a scale and an offset.

    1. Write the weights as ``tau * S + phi``, with signs S and one tau and phi per output channel. A layer stays as it
       is if its weights are -1 and +1 already.
    2. Replace ``conv(x, tau * S + phi)`` by ``tau * conv(x, S) + phi * conv(x, 1)``. The first sum costs one popcount
       per output, the second one popcount per window. It is left out if phi is 0.
    3. Weights that are two values but for a few become ``conv(x, W - R) + conv(x, R)``, where R holds the few
       (relax/exceptional_weights.py).
    4. Weights of three or four evenly spaced values are sums of two binary weights (relax/weight_planes.py). Replace
       ``conv(x, w)`` by ``tau * (factor * conv(x, S1) + conv(x, S2)) + phi * conv(x, 1)``.
    5. Rewrite a sum over the rows of two-valued activations to a product with ones, which is a window sum too.
    6. Move the window sums before the layers that read them.

    Example: weights [0.3, -0.1] and x = [1, -1]. tau = 0.2, phi = 0.1, S = [1, -1]; ``0.2 * 2 + 0.1 * 0 = 0.4``.

    The module records which integer sums replace float sums (relax/facts.py).
    """
    graph = Graph(mod["main"])
    known = domains(graph)
    writer = Writer(graph)
    planes: dict[str, str] = {}
    sums = integer_sums(mod)
    sums |= {name: name for name in weight_changes(mod)}  # the reference has other weights, and rounds its sums
    for var, value in graph.bindings:
        if op_name(value) == "sum" and value.args[0] in known and _sums_rows(value):
            writer.bind(var, _sum_of_rows(graph, writer, var, value))
            continue
        weight = linear_weight(value)
        if weight is None or value.args[0] not in known:
            writer.keep(var, value)
        elif (binary := BinaryWeight.of(weight)) is not None:
            if binary.plain:
                writer.keep(var, value)
            else:
                writer.bind(var, _with_signs(writer, var, value, binary, sums))
        elif (few := without_exceptions(weight)) is not None:
            writer.bind(var, _with_exceptions(writer, var, value, few, sums))
        elif (split := WeightPlanes.of(weight)) is not None:
            writer.bind(var, _with_planes(writer, var, value, split, sums, planes))
        else:
            writer.keep(var, value)
    return _window_sums_first(with_weight_planes(with_integer_sums(writer.module(mod), sums), planes))


def _emit_signed(writer: Writer, var: Var, call: Call, signs: np.ndarray, suffix: str, sums: dict[str, str]) -> Var:
    """Emit a linear call with signs as weights; ``sums`` maps the name of the integer sum to that of the value."""
    signed = writer.emit(_linear_like(call, writer[call.args[0]], signs), f"{var.name}_{suffix}")
    sums[signed.name] = var.name
    return signed


def _with_signs(writer: Writer, var: Var, call: Call, binary: BinaryWeight, sums: dict[str, str]) -> Expr:
    """Emit a linear call as signs, scale and offset."""
    signed = _emit_signed(writer, var, call, binary.signs, "signed", sums)
    return _scaled(writer, var, call, signed, binary.tau, binary.phi)


def _with_exceptions(
    writer: Writer, var: Var, call: Call, parts: tuple[np.ndarray, np.ndarray], sums: dict[str, str]
) -> Expr:
    """Emit a linear call as one of two-valued weights plus one of the few others."""
    plain, few = parts
    binary = BinaryWeight.of(plain)
    assert binary is not None
    # The binary layer comes last, so that the operations after the layer join it.
    rest = writer.emit(_linear_like(call, writer[call.args[0]], few), f"{var.name}{EXCEPTIONS}")
    two_valued = writer.emit(_with_signs(writer, var, call, binary, sums), f"{var.name}{TWO_VALUES}")
    return op.add(two_valued, rest)


def _with_planes(
    writer: Writer, var: Var, call: Call, split: WeightPlanes, sums: dict[str, str], planes: dict[str, str]
) -> Expr:
    """Emit a linear call as two calls with signs; ``planes`` maps their names to what their weights are a part of."""
    first = _emit_signed(writer, var, call, split.first, "plane", sums)
    planes[first.name] = ""
    high = (
        first
        if split.factor == 1
        else writer.emit(op.multiply(first, relax.const(np.float32(split.factor))), f"{var.name}_high")
    )
    second = _emit_signed(writer, var, call, split.second, "signed", sums)
    planes[second.name] = split.name
    total = writer.emit(op.add(second, high), f"{var.name}_sum")
    return _scaled(writer, var, call, total, split.tau, split.phi)


def _scaled(writer: Writer, var: Var, call: Call, signed: Var, tau: np.ndarray, phi: np.ndarray) -> Expr:
    """``tau * signed + phi * window``, where the window sum is left out if phi is 0."""
    dense = op_name(call) == "matmul"
    rank: tuple[int, ...] = (1, -1) if dense else (1, -1, 1, 1)
    scaled = op.multiply(signed, relax.const(tau.reshape(rank)))
    if not phi.any():
        return scaled
    weight = linear_weight(call)
    assert weight is not None
    grouped = not dense and int(call.attrs.groups) > 1
    ones = np.ones_like(weight if grouped else weight[:1])
    window = writer.emit(_linear_like(call, writer[call.args[0]], ones), f"{var.name}_window")
    scaled = writer.emit(scaled, f"{var.name}_scaled")
    offset = writer.emit(op.multiply(window, relax.const(phi.reshape(rank))), f"{var.name}_offset")
    return op.add(scaled, offset)


def _linear_like(call: Call, x: Expr, weight: np.ndarray) -> Expr:
    """The same convolution or dense layer with other weights, output channels first."""
    if op_name(call) == "matmul":
        return op.matmul(x, relax.const(np.ascontiguousarray(weight.T)))
    return Call(call.op, [x, relax.const(weight)], call.attrs)


def _sums_rows(call: Call) -> bool:
    rank = len(shape(call.args[0]))
    axis = [int(a) % rank for a in call.attrs.axis] if call.attrs.axis is not None else []
    return bool(call.attrs.keepdims) and rank in (2, 3) and axis == [rank - 1]


def _sum_of_rows(graph: Graph, writer: Writer, var: Var, call: Call) -> Expr:
    """A product with ones; of a flattened map, the convolution that ``canonicalize`` makes of a dense layer there."""
    if (feature_map := flattened_map(graph, call.args[0])) is None:
        ones = np.ones((shape(call.args[0])[-1], 1), np.float32)
        return op.matmul(writer[call.args[0]], relax.const(ones))
    batch, *window = shape(feature_map)
    conv = op.nn.conv2d(writer[feature_map], relax.const(np.ones((1, *window), np.float32)))
    return op.reshape(writer.emit(conv, f"{var.name}_map"), (batch, 1))


def _window_sums_first(mod: IRModule) -> IRModule:
    # A window sum is an operand of the epilogue of the layer on the same windows, so it must come before that layer.
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
