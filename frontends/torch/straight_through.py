"""Straight-through arithmetic in a traced model: ``(a - b).detach() + b`` is a.

Training code writes the value of ``a`` with the gradient of ``b`` that way. In a forward pass ``b`` cancels but for its
rounding, which would give weights of two values some more beside these. So terms of a sum of which one is detached and
one is not, with opposite signs, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import fx
from torch.export import ExportedProgram

from .trace_memory import changed_in_place

aten = torch.ops.aten
_SUMS = (aten.add.Tensor, aten.sub.Tensor)


class _Term(NamedTuple):
    """A term of a sum."""

    node: fx.Node
    negative: bool
    detached: bool


def cancel_straight_through(program: ExportedProgram) -> int:
    """Leaves out the terms that cancel.

    Returns:
        The number of sums that changed.
    """
    graph = program.graph_module.graph
    changed = changed_in_place(graph)
    count = 0
    for node in list(graph.nodes):
        if node.target not in _SUMS or node in changed:
            continue
        terms = list(_terms(node, changed))
        left = _without_pairs(terms)
        if len(left) == len(terms) or not 1 <= len(left) <= 2 or (len(left) == 1 and left[0].negative):
            continue
        if len(left) == 2 and left[0].negative:
            left.reverse()
        if left[0].negative:
            continue
        with graph.inserting_before(node):
            result = left[0].node
            if len(left) == 2:
                func = aten.sub.Tensor if left[1].negative else aten.add.Tensor
                operands = (result, left[1].node)
                result = graph.call_function(func, operands)
                result.meta = {**node.meta, "val": func(*(each.meta["val"] for each in operands))}
        want, got = node.meta["val"], result.meta["val"]
        if want.shape == got.shape and want.dtype == got.dtype:
            node.replace_all_uses_with(result)
            count += 1
    return count


def _terms(node: fx.Node, changed: set[fx.Node], negative: bool = False, detached: bool = False) -> Iterator[_Term]:
    """The terms of a sum of tensors whose memory nothing changes."""
    operands = [each for each in node.args if isinstance(each, fx.Node)]
    if node in changed or node.kwargs or len(operands) != len(node.args):
        yield _Term(node, negative, detached)
    elif node.target in _SUMS:
        yield from _terms(operands[0], changed, negative, detached)
        yield from _terms(operands[1], changed, negative ^ (node.target is aten.sub.Tensor), detached)
    elif node.target is aten.detach.default:
        yield from _terms(operands[0], changed, negative, True)
    else:
        yield _Term(node, negative, detached)


def _without_pairs(terms: list[_Term]) -> list[_Term]:
    left = list(terms)
    for term in terms:
        opposite = _Term(term.node, not term.negative, not term.detached)
        if term in left and opposite in left and term.node.meta["val"].is_floating_point():
            left.remove(term)
            left.remove(opposite)
    return left
