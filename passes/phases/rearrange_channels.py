"""Rewrite every rearrangement of channels, rows and columns to one form: a concatenation, takes, and a padding."""

from __future__ import annotations

from tvm import relax
from tvm.ir import IRModule

from ..relax.graph import Graph, Writer, drop_dead, shape
from ..relax.moves import Moves
from ..relax.selections import Chosen, emit_selection, factorise


def rearrange_channels(mod: IRModule) -> IRModule:
    """Rewrite splits, slices, shuffles, paddings and nested concatenations to one form (relax/selections.py).

    1. Trace each element of such a value back to an element of the value that computes it (relax/moves.py).
    2. If whole channels, rows and columns were moved, concatenate the values found, take the channels, rows and
       columns in order, and pad. An operation that would change nothing is left out.

    Examples: a, b with 2 channels each. The shuffle ``reshape(permute_dims(reshape(concat(a, b), [N, 2, 2, H, W])))``
    becomes ``take(concat(a, b), [0, 2, 1, 3])``. A split of ``concat(a, b)`` into halves becomes a and b themselves.
    ``x[:, :, ::2, ::2]`` of 4 x 4 pixels becomes ``take(take(x, [0, 2], axis=2), [0, 2], axis=3)``.
    """
    graph = Graph(mod["main"])
    writer, moves = Writer(graph), Moves(graph)
    for var, value in graph.bindings:
        chosen = _selection(graph, moves, var)
        if chosen is None:
            writer.keep(var, value)
        else:
            writer.bind(var, emit_selection(writer, chosen, shape(var), var.name))
    return drop_dead(writer.module(mod))


def _selection(graph: Graph, moves: Moves, var: relax.Var) -> Chosen | None:
    """The channels, rows and columns that a value is made of; None if it does more than move them."""
    near = moves.within([var])
    if near is None:
        return None
    # A value whose elements moved otherwise on the way may still be a selection of its own operands.
    for moved in (moves.origin(var), near):
        if moved is not None and all(str(source.ty.dtype) == "float32" for source in moved.sources):
            chosen = factorise(moved, shape(var))
            if chosen is not None:
                return chosen
    return None
