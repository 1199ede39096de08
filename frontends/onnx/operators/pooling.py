"""Poolings over windows, and over whole feature maps.

Poolings over one axis become poolings of rows, which have kernels. Sources: the definition of ONNX, and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, as_expr, dtype_of, rank_of, shape_of
from ..window_attributes import Window
from .max_positions import max_with_positions

_LARGEST_P = 32
_POOLS = {
    "max": {4: relax.op.nn.max_pool2d, 5: relax.op.nn.max_pool3d},
    "avg": {4: relax.op.nn.avg_pool2d, 5: relax.op.nn.avg_pool3d},
}


def max_pool(node: Node) -> relax.Expr:
    """Maximum pooling over one to three axes, with the positions of the maxima if the node returns them."""
    window = _window(node)
    ceil_mode = bool(node.attributes.get("ceil_mode", 0))
    if node.uses_output(1):
        outputs = window.outputs(shape_of(node.expr(0))[2:], ceil_mode)
        return max_with_positions(node, window, outputs, column_major=bool(node.attributes.get("storage_order", 0)))
    node.ignore("storage_order")
    return _pool(node, node.expr(0), "max", window, ceil_mode)


def average_pool(node: Node) -> relax.Expr:
    """Average pooling over one to three axes."""
    return averaged(node, node.expr(0))


def averaged(node: Node, x: relax.Expr) -> relax.Expr:
    """Average pooling of a float tensor of the shape of the node's first input."""
    attributes = node.attributes
    ceil_mode, counted = (bool(attributes.get(name, 0)) for name in ("ceil_mode", "count_include_pad"))
    return _pool(node, x, "avg", _window(node), ceil_mode, counted)


def lp_pool(node: Node) -> relax.Expr:
    """The p-norm of each window."""
    window, x = _window(node), node.expr(0)
    ceil_mode = bool(node.attributes.get("ceil_mode", 0))

    def window_sum(powers: relax.Expr) -> relax.Expr:
        mean = node.emit(_pool(node, powers, "avg", window, ceil_mode, True, whole_windows=True))
        return relax.op.multiply(mean, as_expr(np.array(prod(window.kernel), dtype_of(x))))

    return _norm(node, x, window_sum)


def _norm(node: Node, x: relax.Expr, total: Callable[[relax.Expr], relax.Expr]) -> relax.Expr:
    p = node.attributes.get("p", 2)
    if not 1 <= p <= _LARGEST_P:
        raise node.error(f"has p {p}; supported are 1 to {_LARGEST_P}")
    dtype = dtype_of(x)
    magnitude = node.emit(relax.op.abs(x))
    if p == 1:
        return total(magnitude)
    if p == 2:
        return relax.op.sqrt(node.emit(total(node.emit(relax.op.multiply(x, x)))))
    powers = magnitude
    for _ in range(p - 1):
        powers = node.emit(relax.op.multiply(powers, magnitude))
    return relax.op.power(node.emit(total(powers)), as_expr(np.array(1 / p, dtype)))


def _window(node: Node) -> Window:
    rank = rank_of(node.expr(0))
    if not 3 <= rank <= 5:
        raise node.error(f"has an input with {rank} dimensions; supported are 3, 4 and 5")
    window = Window.of(node, node.attribute("kernel_shape"))
    sizes = shape_of(node.expr(0))[2:]
    if min(window.outputs(sizes)) < 1 and not node.attributes.get("ceil_mode", 0):
        raise node.error(
            f"has windows of {list(window.spans)} pixels on an input of shape {[*sizes]}; use a larger input"
        )
    return window


def _pool(
    node: Node,
    x: relax.Expr,
    kind: str,
    window: Window,
    ceil_mode: bool,
    counted: bool = False,
    whole_windows: bool = False,
) -> relax.Expr:
    """A pooling of x.

    Args:
        counted: Whether an average counts the padding; what ``ceil_mode`` adds at the end never counts.
        whole_windows: An average counts every tap, wherever it lies.
    """
    shape, rank = shape_of(x), rank_of(x)
    outputs = window.outputs(shape[2:], ceil_mode)
    if rank == 3:
        x, window, rank = node.emit(relax.op.reshape(x, (*shape[:2], 1, shape[2]))), window.two_dimensional(), 4
    sizes, axes = shape_of(x)[2:], rank - 2
    wanted = outputs if axes == len(outputs) else (1, *outputs)
    padding = window.padding
    rounded_up = [
        -(-(size + padding[axis] + padding[axis + axes] - span) // stride) + 1
        for axis, (size, stride, span) in enumerate(zip(sizes, window.strides, window.spans, strict=True))
    ]
    if ceil_mode and (wanted != tuple(rounded_up) or whole_windows):
        # TVM would add windows that begin in the padding; more padding at the end expresses the others
        if counted and not whole_windows:
            widths = [0, 0, 0, 0]
            for axis in range(axes):
                widths += [padding[axis], padding[axis + axes]]
            x, padding, counted = node.emit(relax.op.nn.pad(x, widths)), (0,) * 2 * axes, False
        ends = [
            max((count - 1) * stride + span - size - before, 0)
            for count, stride, span, size, before in zip(
                wanted, window.strides, window.spans, shape_of(x)[2:], padding, strict=False
            )
        ]
        padding, ceil_mode = (*padding[:axes], *ends), False
    operator = _POOLS[kind][rank]
    y = operator(x, window.kernel, window.strides, padding, window.dilation, ceil_mode, counted)
    return relax.op.reshape(node.emit(y), (*shape[:2], *outputs)) if len(shape) == 3 else y


def _image_axes(x: relax.Expr) -> list[int]:
    return list(range(2, rank_of(x)))


def global_average_pool(node: Node) -> relax.Expr:
    """The mean of each feature map."""
    x = node.expr(0)
    if rank_of(x) == 4:
        return relax.op.nn.adaptive_avg_pool2d(x, (1, 1))
    return relax.op.mean(x, _image_axes(x), keepdims=True)


def global_max_pool(node: Node) -> relax.Expr:
    """The maximum of each feature map, as a pooling whose window is the whole map: so NaN counts as in poolings."""
    x = node.expr(0)
    pools = {3: relax.op.nn.max_pool1d, 4: relax.op.nn.max_pool2d, 5: relax.op.nn.max_pool3d}
    extent = shape_of(x)
    if len(extent) in pools:
        return pools[len(extent)](x, extent[2:])
    return relax.op.max(x, _image_axes(x), keepdims=True)


def global_lp_pool(node: Node) -> relax.Expr:
    """The p-norm of each feature map."""
    x = node.expr(0)
    return _norm(node, x, lambda powers: relax.op.sum(powers, _image_axes(x), keepdims=True))


CONVERTERS: dict[str, Converter] = {
    "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool,
    "GlobalLpPool": global_lp_pool,
    "GlobalMaxPool": global_max_pool,
    "LpPool": lp_pool,
    "MaxPool": max_pool,
}
