"""Rewrite equivalent forms of zero padding and dense layers to the one form that later passes match."""

from __future__ import annotations

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, op

from ..relax.graph import Graph, Writer, constant, drop_dead, flattened_map, op_name, shape


def canonicalize(mod: IRModule) -> IRModule:
    """Remove dead code, and bring padding and dense layers into one form.

    1. A zero ``pad`` of the image before a convolution becomes the convolution's own padding.
    2. A dense layer on a flattened feature map becomes a convolution whose kernel covers the whole map. It can then
       read the map in its stored layout, packed or not. Example: dense 512 -> 10 on a flattened [N, 32, 4, 4] map
       becomes a 4x4 convolution with 10 output channels.
    3. A dense layer on a tensor of four axes becomes one on a matrix of rows. After this pass, only feature maps have
       four axes.
    """
    graph = Graph(mod["main"])
    live = graph.live()
    writer = Writer(graph)
    for var, value in graph.bindings:
        if var not in live:
            continue
        name = op_name(value)
        new: Expr | None = None
        if name == "nn.conv2d":
            new = _merge_zero_padding(graph, writer, value)
        elif name == "matmul":
            new = _dense_on_a_map(graph, writer, var, value)
            if new is None:
                new = _dense_on_rows(writer, var, value)
        if new is None:
            writer.keep(var, value)
        else:
            writer.bind(var, new)
    return drop_dead(writer.module(mod))


def _merge_zero_padding(graph: Graph, writer: Writer, conv: Call) -> Expr | None:
    pad = graph.producer(conv.args[0], "nn.pad")
    if pad is None or pad.attrs.pad_mode != "constant" or float(pad.attrs.pad_value) != 0:
        return None
    width = [int(extent) for extent in pad.attrs.pad_width]
    if any(width[:4]):
        return None
    old = [int(extent) for extent in conv.attrs.padding]
    top, bottom, left, right = width[4:]
    padding = (old[0] + top, old[1] + left, old[2] + bottom, old[3] + right)
    return op.nn.conv2d(
        writer[pad.args[0]],
        writer[conv.args[1]],
        strides=tuple(conv.attrs.strides),
        padding=padding,
        dilation=tuple(conv.attrs.dilation),
        groups=int(conv.attrs.groups),
    )


def _dense_on_a_map(graph: Graph, writer: Writer, var: relax.Var, matmul: Call) -> Expr | None:
    feature_map, weight = flattened_map(graph, matmul.args[0]), constant(matmul.args[1])
    if feature_map is None or weight is None or weight.ndim != 2:
        return None
    extent = shape(feature_map)
    kernel = np.ascontiguousarray(weight.T).reshape(-1, *extent[1:])
    conv = writer.emit(op.nn.conv2d(writer[feature_map], relax.const(kernel)), f"{var.name}_map")
    return op.reshape(conv, (extent[0], kernel.shape[0]))


def _dense_on_rows(writer: Writer, var: relax.Var, matmul: Call) -> Expr | None:
    weight, extent = constant(matmul.args[1]), shape(var)
    if weight is None or weight.ndim != 2 or len(extent) != 4:
        return None
    rows = writer.emit(op.reshape(writer[matmul.args[0]], (int(np.prod(extent[:-1])), len(weight))), f"{var.name}_rows")
    product = writer.emit(op.matmul(rows, matmul.args[1]), f"{var.name}_product")
    return op.reshape(product, extent)
