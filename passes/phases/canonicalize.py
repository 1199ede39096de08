"""Rewrite equivalent forms of binarisers, zero padding and dense layers to the one form that later passes match."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, op

from ..relax.comparisons import emit_comparison
from ..relax.graph import Graph, Writer, broadcasts_to, constant, drop_dead, flattened_map, op_name, shape

_SWAPPED = {"greater": "less", "greater_equal": "less_equal", "less": "greater", "less_equal": "greater_equal"}
_ARITHMETIC: dict[str, Callable[..., np.float32]] = {
    "add": np.add,
    "subtract": np.subtract,
    "multiply": np.multiply,
    "divide": np.divide,
}
_NEGATED = {"greater": "less_equal", "greater_equal": "less", "less": "greater_equal", "less_equal": "greater"}
"""The opposites of the comparisons for numbers; for NaN all comparisons are false."""


def canonicalize(mod: IRModule) -> IRModule:
    """Remove dead code, and bring binarisers, padding and dense layers into one form.

    1. A binariser becomes ``where(greater(x, t), hi, lo)``, or the same with another of the four comparisons that rise
       with x (relax/comparisons.py), where ``lo < hi``. The input may be any comparison that is converted to a number,
       with numbers added to it or multiplied by it. Example: ``2 * (x > t) - 1`` becomes
       ``where(greater(x, t), 1, -1)``. ``where(x < t, -1, 1)`` is 1 for NaN, and stays so: it becomes
       ``where(logical_not(less(x, t)), 1, -1)``.
    2. A zero ``pad`` of the image before a convolution becomes the convolution's own padding.
    3. A dense layer on a flattened feature map becomes a convolution whose kernel covers the whole map. It can then
       read the map in its stored layout, packed or not. Example: dense 512 -> 10 on a flattened [N, 32, 4, 4] map
       becomes a 4x4 convolution with 10 output channels.
    4. A dense layer on a tensor of four axes becomes one on a matrix of rows. After this pass, only feature maps have
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
        if name in ("where", "astype", "negative", *_ARITHMETIC):
            new = _binariser(graph, writer, var)
        elif name == "nn.conv2d":
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


def _chosen(graph: Graph, var: Expr) -> tuple[Call, np.float32, np.float32] | None:
    """Match a value that takes one of two numbers, depending on a comparison.

    Returns:
        The comparison, the number where it holds, and the number where it does not; None for any other value.
    """
    value = graph.values.get(var) if isinstance(var, relax.Var) else None
    if value is None or str(var.ty.dtype) != "float32":
        return None
    name = op_name(value)
    if name in ("where", "astype"):
        condition = graph.values.get(value.args[0])
        yes, no = (_number(arg) for arg in value.args[1:]) if name == "where" else (np.float32(1), np.float32(0))
        while condition is not None and op_name(condition) == "logical_not":
            condition, yes, no = graph.values.get(condition.args[0]), no, yes
        if condition is None or op_name(condition) not in _SWAPPED or yes is None or no is None:
            return None
        return condition, yes, no
    if name != "negative" and name not in _ARITHMETIC:
        return None
    numbers = [_number(arg) for arg in value.args]
    variables = [arg for arg, number in zip(value.args, numbers, strict=True) if number is None]
    chosen = _chosen(graph, variables[0]) if len(variables) == 1 else None
    if chosen is None:
        return None
    operation: Callable[..., np.float32] = _ARITHMETIC.get(name, np.negative)
    with np.errstate(all="ignore"):
        yes, no = (operation(*(each if number is None else number for number in numbers)) for each in chosen[1:])
    return chosen[0], yes, no


def _number(expr: Expr) -> np.float32 | None:
    values = constant(expr)
    return np.float32(values.item()) if values is not None and values.size == 1 else None


def _binariser(graph: Graph, writer: Writer, var: relax.Var) -> Expr | None:
    chosen = _chosen(graph, var)
    if chosen is None:
        return None
    condition, yes, no = chosen
    a, b = condition.args
    if yes == no or not np.isfinite([yes, no]).all() or any(str(each.ty.dtype) != "float32" for each in (a, b)):
        return None
    name = op_name(condition)
    if constant(a) is not None and constant(b) is None:  # t < x equals x > t
        a, b = b, a
        name = _SWAPPED[name]
    if constant(b) is None and shape(b) != shape(a) and broadcasts_to(shape(a), shape(b)):  # a computed threshold
        a, b = b, a
        name = _SWAPPED[name]
    if constant(a) is not None or np.broadcast_shapes(shape(a), shape(b)) != shape(var):
        return None
    hi, lo, x, threshold = yes, no, writer[a], writer[b]
    of_nan = bool(lo > hi)
    if of_nan:  # not (x > t) equals x <= t, but for NaN, for which it is true
        hi, lo = lo, hi
        name = _NEGATED[name]
    if name.startswith("less") and shape(a) == shape(b) and constant(b) is None:
        x, threshold, name = threshold, x, _SWAPPED[name]
    elif name.startswith("less"):
        minus, known = relax.const(np.float32(-1)), constant(b)
        # Emit the threshold first. The negated x comes last, so that it can join the layer of the comparison.
        if known is None:
            threshold = writer.emit(op.multiply(threshold, minus), f"{var.name}_limit")
        else:
            threshold = relax.const(-known)
        x = writer.emit(op.multiply(x, minus), f"{var.name}_negated")
        name = name.replace("less", "greater")
    condition = emit_comparison(writer, x, threshold, name == "greater_equal", of_nan, f"{var.name}_condition")
    return op.where(condition, relax.const(hi), relax.const(lo))


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
