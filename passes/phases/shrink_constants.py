"""Shrink constants that repeat the same numbers along an axis to one element there."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr

from ..relax.comparisons import COMPARISONS
from ..relax.graph import Graph, Writer, constant, op_name, shape

_BROADCASTING = {"add", "subtract", "multiply", "divide", "power", "maximum", "minimum", "where", "less", "less_equal"}


def shrink_constants(mod: IRModule) -> IRModule:
    """Give constants of elementwise operations one element along each axis where all elements are equal.

    The operation broadcasts them again, so nothing changes but the shape. Later phases then see one number per channel
    where a model was exported with ``x + bias.expand_as(x)``.

    Example: ``add(x, c)`` with x and c of shape [1, 32, 14, 14], where c holds one number per channel, becomes
    ``add(x, c')`` with c' of shape [1, 32, 1, 1].
    """
    graph = Graph(mod["main"])
    writer = Writer(graph)
    for var, value in graph.bindings:
        writer.bind(var, _shrunk(writer[value], shape(var)) if _broadcasts(value) else writer[value])
    return writer.module(mod)


def _broadcasts(value: Expr) -> bool:
    return op_name(value) in _BROADCASTING | set(COMPARISONS)


def _shrunk(call: Call, extent: tuple[int, ...]) -> Call:
    arguments = list(call.args)
    for place, argument in enumerate(arguments):
        values = constant(argument)
        if values is None or values.size == 1:
            continue
        # The other operands must still have the extent of the result along a shrunk axis.
        others = [shape(each) for i, each in enumerate(arguments) if i != place]
        lost = np.broadcast_shapes(*others)
        lost = (1,) * (len(extent) - len(lost)) + lost
        offset = len(extent) - values.ndim
        small = values
        for axis in range(values.ndim):
            first = small.take([0], axis)
            if lost[axis + offset] == extent[axis + offset] and small.shape[axis] > 1 and _equal(small, first):
                small = first
        if small.shape != values.shape:
            arguments[place] = relax.const(np.ascontiguousarray(small))
    return Call(call.op, arguments, call.attrs, call.ty_args)


def _equal(values: np.ndarray, first: np.ndarray) -> bool:
    """Whether all values are those of ``first``, zeros of either sign apart."""
    if values.dtype.kind != "f":
        return bool((values == first).all())
    return bool((values == first).all() and (np.signbit(values) == np.signbit(first)).all())
