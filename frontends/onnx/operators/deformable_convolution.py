"""Deformable convolution: samples of the input at moved taps, then an ordinary convolution of one pixel."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, as_expr, dtype_of, rank_of, shape_of
from ..window_attributes import Window, check_channels
from .convolutions import biased
from .images import safe_numbers


def deform_conv(node: Node) -> relax.Expr:
    """DeformConv on images. An offset that is no number counts as 0."""
    x, weight, offset, attributes = node.expr(0), node.required(1), node.expr(2), node.attributes
    shape, groups, moved = shape_of(weight), attributes.get("group", 1), attributes.get("offset_group", 1)
    if rank_of(x) != 4:
        raise node.error(f"has an input with {rank_of(x)} dimensions; supported are 4")
    kernel = tuple(attributes.get("kernel_shape", shape[2:]))
    if kernel != shape[2:]:
        raise node.error(f"has kernel_shape {list(kernel)}, but weights of shape {list(shape)}")
    check_channels(node, x, shape, groups)
    window = Window.of(node, kernel)
    batch, channels, height, width = shape_of(x)
    outputs, taps = window.outputs((height, width)), prod(kernel)
    wanted = (batch, moved * taps * 2, *outputs)
    if channels % moved or shape_of(offset) != wanted:
        raise node.error(
            f"has offsets of shape {list(shape_of(offset))} in {moved} group(s) of {channels} channels; "
            f"expected {list(wanted)}, and groups that divide the channels"
        )
    dtype = dtype_of(x)
    offset = safe_numbers(node, offset, 0.0)
    offset = node.emit(relax.op.reshape(offset, (batch * moved, taps, 2, *outputs)))
    # positions from -1 to 1, first those of columns, as grid_sample reads them
    places = [
        (2 * (np.arange(count) * stride - before)[:, None] + 2 * np.arange(size) * step)
        for count, stride, before, size, step in zip(
            outputs, window.strides, window.padding[:2], kernel, window.dilation, strict=True
        )
    ]
    rows = np.broadcast_to(places[0].T[:, None, :, None], (*kernel, *outputs))
    columns = np.broadcast_to(places[1].T[None, :, None, :], (*kernel, *outputs))
    base = np.stack([rows, columns]).reshape(2, taps, *outputs).swapaxes(0, 1)[None]
    sizes = np.array([height, width]).reshape(1, 1, 2, 1, 1)
    grid = node.emit(relax.op.multiply(offset, as_expr((2 / sizes).astype(dtype))))
    grid = node.emit(relax.op.add(grid, as_expr(((base + 1) / sizes - 1).astype(dtype))))
    grid = node.emit(relax.op.clip(grid, -1e4, 1e4))
    swapped = node.emit(relax.op.flip(grid, 2))
    swapped = node.emit(relax.op.permute_dims(swapped, [0, 2, 1, 3, 4]))
    swapped = node.emit(relax.op.reshape(swapped, (batch * moved, 2, taps * outputs[0], outputs[1])))
    image = node.emit(relax.op.reshape(x, (batch * moved, channels // moved, height, width)))
    samples = node.emit(
        relax.op.image.grid_sample(
            image, swapped, method="bilinear", layout="NCHW", padding_mode="zeros", align_corners=False
        )
    )
    samples = node.emit(relax.op.reshape(samples, (batch, moved, channels // moved, taps, *outputs)))
    mask = node.value(4)
    if mask is not None:
        mask = node.emit(relax.op.reshape(node.expr(4), (batch, moved, 1, taps, *outputs)))
        samples = node.emit(relax.op.multiply(samples, mask))
    samples = node.emit(relax.op.reshape(samples, (batch, channels * taps, *outputs)))
    y = relax.op.nn.conv2d(samples, as_expr(_flat(node, weight)), groups=groups)
    return biased(node, y, node.value(3))


def _flat(node: Node, weight: Value) -> Value:
    """Weights [outputs, inputs, height, width] as [outputs, inputs * taps, 1, 1]."""
    shape = shape_of(weight)
    flat = (shape[0], prod(shape[1:]), 1, 1)
    return weight.reshape(flat) if isinstance(weight, np.ndarray) else node.emit(relax.op.reshape(weight, flat))


CONVERTERS: dict[str, Converter] = {
    "DeformConv": deform_conv,
}
