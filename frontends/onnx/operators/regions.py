"""Pooling of regions of interest.

Regions are data, so they may be anything. Numbers that are not finite count as 0, and an index that no sample has
counts as the nearest one, so that no other memory is read.
"""

from __future__ import annotations

from functools import reduce

import numpy as np
from tvm import relax

from ..node import Converter, Node, as_expr, dtype_of, shape_of
from .images import safe_numbers


def roi_align(node: Node) -> relax.Expr:
    """RoiAlign of operator sets 10 and newer.

    In mode max, each sample is the largest of its four weighted pixels, as ONNX and onnxruntime define it.
    """
    x, attributes = node.expr(0), node.attributes
    mode, ratio = attributes.get("mode", "avg"), attributes.get("sampling_ratio", 0)
    default = "half_pixel" if node.opset >= 16 else "output_half_pixel"
    transformation = attributes.get("coordinate_transformation_mode", default)
    if mode not in ("avg", "max") or transformation not in ("half_pixel", "output_half_pixel") or ratio < 0:
        raise node.error(
            f"has mode {mode!r}, coordinate_transformation_mode {transformation!r} and sampling_ratio {ratio}; "
            "expected avg or max, half_pixel or output_half_pixel, and a number that is not negative"
        )
    size = (attributes.get("output_height", 1), attributes.get("output_width", 1))
    scale, half_pixel = attributes.get("spatial_scale", 1.0), transformation == "half_pixel"
    regions = safe_numbers(node, node.expr(1), 0.0)
    batch = node.emit(relax.op.clip(node.expr(2), 0, shape_of(x)[0] - 1))
    if mode == "max":
        if ratio == 0:
            raise node.error(
                "has mode 'max' and sampling_ratio 0, where the number of samples depends on the regions, which is not "
                "supported; set a sampling_ratio"
            )
        return _largest_samples(node, x, regions, batch, size, scale, ratio, half_pixel)
    count, dtype = shape_of(regions)[0], dtype_of(regions)
    empty: relax.Expr | None = None
    if half_pixel:
        first, last = (node.emit(relax.op.strided_slice(regions, [1], [start], [start + 2])) for start in (0, 2))
        if ratio == 0:  # regions without area have no samples
            flat = node.emit(relax.op.less_equal(last, first))
            flat = node.emit(relax.op.max(node.emit(relax.op.astype(flat, "int8")), axis=1))
            empty = node.emit(
                relax.op.equal(node.emit(relax.op.reshape(flat, (count, 1, 1, 1))), relax.const(1, "int8"))
            )
            above = node.emit(relax.op.add(first, relax.const(1.0, dtype)))
            last = node.emit(relax.op.where(node.emit(relax.op.less_equal(last, first)), above, last))
            regions = node.emit(relax.op.concat([first, last], axis=1))
        regions = node.emit(relax.op.subtract(regions, relax.const(0.5 / scale, dtype)))
    indices = node.emit(relax.op.reshape(node.emit(relax.op.astype(batch, dtype)), (count, 1)))
    y = relax.op.vision.roi_align(
        x,
        node.emit(relax.op.concat([indices, regions], axis=1)),
        size,
        scale,
        sample_ratio=ratio,
        aligned=half_pixel,
        layout="NCHW",
        mode="avg",
    )
    return y if empty is None else relax.op.where(empty, relax.const(0.0, dtype), node.emit(y))


def _largest_samples(
    node: Node,
    x: relax.Expr,
    regions: relax.Expr,
    batch: relax.Expr,
    size: tuple[int, int],
    scale: float,
    ratio: int,
    half_pixel: bool,
) -> relax.Expr:
    samples, channels, height, width = shape_of(x)
    count = shape_of(regions)[0]
    rows = _positions(node, regions, 1, height, size[0], scale, ratio, half_pixel)
    columns = _positions(node, regions, 0, width, size[1], scale, ratio, half_pixel)
    pixels = node.emit(relax.op.permute_dims(x, [0, 2, 3, 1]))
    pixels = node.emit(relax.op.reshape(pixels, (samples * height * width, channels)))
    batch = node.emit(relax.op.reshape(node.emit(relax.op.astype(batch, "int32")), (count, 1, 1)))
    start = node.emit(relax.op.multiply(batch, relax.const(height * width, "int32")))
    taps = []
    for row, row_weight in rows:
        row_start = node.emit(relax.op.reshape(row, (count, size[0] * ratio, 1)))
        row_start = node.emit(relax.op.multiply(row_start, relax.const(width, "int32")))
        row_start = node.emit(relax.op.add(row_start, start))
        row_weight = node.emit(relax.op.reshape(row_weight, (count, size[0] * ratio, 1, 1)))
        for column, column_weight in columns:
            column = node.emit(relax.op.reshape(column, (count, 1, size[1] * ratio)))
            index = node.emit(relax.op.add(row_start, column))
            column_weight = node.emit(relax.op.reshape(column_weight, (count, 1, size[1] * ratio, 1)))
            weight = node.emit(relax.op.multiply(row_weight, column_weight))
            taps.append(node.emit(relax.op.multiply(node.emit(relax.op.take(pixels, index, 0, mode="clip")), weight)))
    y = reduce(lambda left, right: node.emit(relax.op.maximum(left, right)), taps)
    y = node.emit(relax.op.reshape(y, (count, size[0], ratio, size[1], ratio, channels)))
    return relax.op.permute_dims(node.emit(relax.op.max(y, [2, 4])), [0, 3, 1, 2])


def _positions(
    node: Node, regions: relax.Expr, first: int, extent: int, bins: int, scale: float, ratio: int, half_pixel: bool
) -> list[tuple[relax.Var, relax.Var]]:
    """Along one axis, the pixels on both sides of each sample, int32 [regions, bins * ratio], and their weights."""
    dtype = dtype_of(regions)

    def number(value: float) -> relax.Expr:
        return relax.const(value, dtype)

    offset = number(0.5 if half_pixel else 0.0)
    start, end = (
        node.emit(
            relax.op.subtract(
                node.emit(
                    relax.op.multiply(
                        node.emit(relax.op.strided_slice(regions, [1], [column], [column + 1])), number(scale)
                    )
                ),
                offset,
            )
        )
        for column in (first, first + 2)
    )
    length = node.emit(relax.op.subtract(end, start))
    if not half_pixel:
        length = node.emit(relax.op.maximum(length, number(1.0)))
    width = node.emit(relax.op.divide(length, number(bins)))
    steps = np.arange(bins)[:, None] + (np.arange(ratio) + 0.5) / ratio
    at = node.emit(relax.op.multiply(width, as_expr(steps.reshape(1, -1).astype(dtype))))
    at = node.emit(relax.op.add(start, at))
    below, beyond = node.emit(relax.op.less(at, number(-1.0))), node.emit(relax.op.greater(at, number(extent)))
    outside = node.emit(relax.op.logical_or(below, beyond))
    at = node.emit(relax.op.clip(at, 0, extent - 1))
    lower = node.emit(relax.op.floor(at))
    above = node.emit(relax.op.subtract(at, lower))
    found = []
    for index, weight in (
        (lower, node.emit(relax.op.subtract(number(1.0), above))),
        (node.emit(relax.op.minimum(node.emit(relax.op.add(lower, number(1.0))), number(extent - 1))), above),
    ):
        weight = node.emit(relax.op.where(outside, number(0.0), weight))
        found.append((node.emit(relax.op.astype(index, "int32")), weight))
    return found


def max_roi_pool(node: Node) -> relax.Expr:
    """The maximum in each bin of each region."""
    x, attributes = node.expr(0), node.attributes
    regions = safe_numbers(node, node.expr(1), 0.0)
    indices = node.emit(relax.op.strided_slice(regions, [1], [0], [1]))
    indices = node.emit(relax.op.clip(indices, 0, shape_of(x)[0] - 1))
    corners = node.emit(relax.op.strided_slice(regions, [1], [1], [5]))
    regions = node.emit(relax.op.concat([indices, corners], axis=1))
    size = tuple(node.attribute("pooled_shape"))
    return relax.op.vision.roi_pool(x, regions, size, attributes.get("spatial_scale", 1.0), layout="NCHW")


CONVERTERS: dict[str, Converter] = {
    "MaxRoiPool": max_roi_pool,
    "RoiAlign": roi_align,
}
