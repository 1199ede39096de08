"""``x[mask] = number`` in a traced model, as a selection between two values.

torch.onnx writes such an assignment with the places where the mask is set, whose number depends on the data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

aten = torch.ops.aten

_SELECTIONS = {
    aten.index_put.default: aten.masked_fill.Tensor,
    aten.index_put_.default: aten.masked_fill_.Tensor,
}


def select_where_masked(program: ExportedProgram) -> None:
    """Rewrites assignments of one number to the elements of a tensor that a mask selects, in place."""
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target in _SELECTIONS and len(node.args) == 3 and not node.kwargs:
            _rewrite(graph, node)
    program.graph_module.recompile()


def _rewrite(graph: fx.Graph, node: fx.Node) -> None:
    tensor, indices, number = node.args
    assert isinstance(tensor, fx.Node) and isinstance(indices, list | tuple) and isinstance(number, fx.Node)
    masks = [(axis, index) for axis, index in enumerate(indices) if isinstance(index, fx.Node)]
    if len(masks) != 1 or masks[0][1].meta["val"].dtype != torch.bool or number.meta["val"].numel() != 1:
        return
    axis, mask = masks[0]
    with graph.inserting_before(node):
        rows = axis + mask.meta["val"].ndim  # the axes after these are assigned as a whole
        for _ in range(tensor.meta["val"].ndim - rows):
            mask = _call(graph, node, aten.unsqueeze.default, mask, -1)
        if number.meta["val"].ndim:
            number = _call(graph, node, aten.reshape.default, number, [])
    node.target = _SELECTIONS[node.target]  # type: ignore[index]
    node.args = (tensor, mask, number)


def _call(graph: fx.Graph, like: fx.Node, func: Any, operand: fx.Node, *args: Any) -> fx.Node:
    node = graph.call_function(func, (operand, *args))
    node.meta = {**like.meta, "val": func(operand.meta["val"], *args)}
    return node
