"""Find the binary layers of any graph: two-valued activations times weights of two values a channel.

Graphs made with the ai.sbnn operators and graphs of standard operators only take the same way: what counts is what a
tensor provably holds, not which tool wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from sbnn_tvm.algebra.domain import BinaryDomain, Domain, code_of

from ..relax.graph import Graph, Writer, constant, op_name, shape
from ..relax.quantisers import quantiser

REWRITTEN = "_signed"
"""Ends the name of an integer sum that takes the place of a sum of float products, which the reference rounds."""

# A tensor keeps its two values through these, whatever their attributes.
_VALUE_PRESERVING = {"reshape", "permute_dims", "nn.max_pool2d", "squeeze", "expand_dims", "take", "strided_slice"}


def domains(graph: Graph) -> dict[Var, Domain]:
    """Which variables provably take two values, or the levels of a few bits, and which."""
    known: dict[Var, Domain] = {}
    for var, value in graph.bindings:
        if (domain := domain_of(graph, value, known)) is not None:
            known[var] = domain
    return known


def domain_of(graph: Graph, value: Expr, known: Mapping[Var, Domain]) -> Domain | None:
    """The two values or levels of a bound value, given those of the variables before it; None if it has others."""
    if (quantised := quantiser(graph, value)) is not None:
        return quantised.levels
    name = op_name(value)
    if name == "where":
        return _binariser_domain(graph, value)
    if name == "multiply":
        pooled = signed_max_pool(graph, value)
        return known.get(pooled[0]) if pooled is not None else None
    if name == "concat" and isinstance(value.args[0], relax.Tuple):
        together = {known.get(field) for field in value.args[0].fields}
        return together.pop() if len(together) == 1 else None
    if name not in _VALUE_PRESERVING and name != "nn.pad":
        return None
    domain = known.get(value.args[0])
    if domain is None or name != "nn.pad":
        return domain
    inside = value.attrs.pad_mode == "constant" and code_of(domain, float(value.attrs.pad_value)) is not None
    return domain if inside else None


def _binariser_domain(graph: Graph, where: Call) -> BinaryDomain | None:
    condition = graph.values.get(where.args[0])
    hi, lo = constant(where.args[1]), constant(where.args[2])
    if condition is None or op_name(condition) not in ("greater", "greater_equal") or hi is None or lo is None:
        return None
    if hi.size != 1 or lo.size != 1 or not lo.item() < hi.item():
        return None
    return BinaryDomain(lo.item(), hi.item())


def signed_max_pool(graph: Graph, value: Expr) -> tuple[Var, np.ndarray] | None:
    """``x`` and ``s`` of ``s * max_pool2d(s * x)``: a minimum in the channels where s is -1, a maximum where it is +1.

    Returns:
        x, and s as float32 [C]; None for anything else.
    """
    signs = constant(value.args[1]) if op_name(value) == "multiply" else None
    if signs is None or not np.all(np.abs(signs) == 1):
        return None
    pool = graph.producer(value.args[0], "nn.max_pool2d")
    inner = graph.producer(pool.args[0], "multiply") if pool is not None else None
    if inner is None or not isinstance(inner.args[0], Var) or signs.shape != (1, shape(inner.args[0])[1], 1, 1):
        return None
    same = constant(inner.args[1])
    return (inner.args[0], signs.reshape(-1)) if same is not None and np.array_equal(same, signs) else None


@dataclass(frozen=True, eq=False)
class BinaryWeight:
    """Weights of two values a channel: ``tau * signs + phi``.

    Attributes:
        signs: float32 of -1 and +1, in the shape of the weights, output channels first.
        tau: float32 [out channels].
        phi: float32 [out channels].
    """

    signs: np.ndarray
    tau: np.ndarray
    phi: np.ndarray

    @classmethod
    def of(cls, weight: np.ndarray) -> BinaryWeight | None:
        """Read weights [out channels, ...]; None if a channel takes more than two values, or one that is not finite."""
        if not np.isfinite(weight).all():
            return None
        flat = weight.reshape(len(weight), -1)
        lo, hi = flat.min(axis=1), flat.max(axis=1)
        if not np.all((flat == lo[:, None]) | (flat == hi[:, None])):
            return None
        # A channel of one value a is a * (+1) or -a * (-1); a zero channel has tau = 0.
        single = lo == hi
        bits = np.where(single[:, None], flat > 0, flat == hi[:, None])
        tau = np.where(single, np.abs(hi), (hi.astype(np.float64) - lo) / 2).astype(np.float32)
        phi = np.where(single, 0, (hi.astype(np.float64) + lo) / 2).astype(np.float32)
        signs = np.where(bits, np.float32(1), np.float32(-1)).reshape(weight.shape)
        return cls(signs, tau, phi)

    @staticmethod
    def telling(weight: np.ndarray) -> bool:
        """Whether weights [out channels, ...] are two-valued on purpose: two weights a channel always are."""
        return weight[0].size > 2 and BinaryWeight.of(weight) is not None

    @property
    def plain(self) -> bool:
        """Whether the weights are -1 and +1 themselves."""
        return bool(np.all(self.tau == 1) and not self.phi.any())


def linear_weight(call: Expr) -> np.ndarray | None:
    """The constant weights of a convolution or dense layer, output channels first; None for any other call."""
    name = op_name(call)
    if name == "nn.conv2d":
        return constant(call.args[1])
    if name == "matmul":
        weight = constant(call.args[1])
        return None if weight is None or weight.ndim != 2 else np.ascontiguousarray(weight.T)
    return None


def recognise(mod: IRModule) -> IRModule:
    """Rewrite every binary layer so that its weights are -1 and +1, and scale and offset follow.

    ``conv(x, tau * S + phi)`` becomes ``tau * conv(x, S) + phi * conv(x, 1)``, where the first sum is one popcount an
    output and the second one popcount a window.
    """
    graph = Graph(mod["main"])
    known = domains(graph)
    writer = Writer(graph)
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
            writer.bind(var, _with_signs(writer, var, value, binary))
    return _window_sums_first(writer.module(mod))


def _with_signs(writer: Writer, var: Var, call: Call, binary: BinaryWeight) -> Expr:
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
    signed = writer.emit(signed, f"{var.name}{REWRITTEN}")
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


def is_window_sum(call: Expr) -> bool:
    """Whether a linear call only sums its windows: one output channel, all weights 1."""
    weight = linear_weight(call)
    return weight is not None and len(weight) == 1 and _ones(weight)


def _ones(weight: np.ndarray | None) -> bool:
    return weight is not None and bool(np.all(weight == 1))


def _window_sums_first(mod: IRModule) -> IRModule:
    # The sum of a window (of a group) is an operand of the epilogue of the layer beside it, so it must come first.
    graph = Graph(mod["main"])
    known = domains(graph)
    early = {var for var, value in graph.bindings if _ones(linear_weight(value)) and value.args[0] in known}
    writer = Writer(graph)
    for var, value in graph.bindings:
        if var not in early:
            writer.keep(var, value)
        for user in graph.users[var]:
            if user in early:
                writer.keep(user, graph.values[user])
    return writer.module(mod)
