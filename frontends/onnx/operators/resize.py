"""Resize and Upsample, axis by axis: with static shapes, each axis is a constant linear map.

The reference for positions, and for the rounding of integers, is onnxruntime. Two things follow ONNX where onnxruntime
does not: ``align_corners`` with scales that give no whole size uses the given scale, and all axes can be interpolated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
from tvm import relax

from ..node import Converter, Node, as_expr, dtype_of, shape_of
from .interpolation import AxisMap, coordinates, nearest, weighted

_UNROLLED = 4  # taps; more are gathered and summed
_FRACTION_BITS = 22  # of the weights for images of uint8


@dataclass(frozen=True)
class _Axis:
    """What happens to one axis.

    Attributes:
        axis: Its number.
        inputs, outputs: Sizes.
        scale: The given scale, or the ratio of the sizes.
        length: The resized length, which need not be whole.
        roi: Start and end of the region of interest.
    """

    axis: int
    inputs: int
    outputs: int
    scale: float
    length: float
    roi: tuple[float, float]


def resize(node: Node) -> relax.Expr:
    """Resize of operator sets 10 to 19; scales, sizes and the region of interest must be constant."""
    if node.opset < 11:
        return _resize(node, _scaled(node, node.constant(1), None), "asymmetric", "simple")
    given = _region(node)
    scales, sizes = _optional(node, 2), _optional(node, 3)
    if scales is not None and sizes is None:
        axes = _scaled(node, scales, given)
    elif sizes is not None and scales is None:
        axes = _sized(node, sizes, given)
    else:
        raise node.error("needs either scales or sizes")
    attributes = node.attributes
    return _resize(
        node,
        axes,
        attributes.get("coordinate_transformation_mode", "half_pixel"),
        attributes.get("nearest_mode", "round_prefer_floor"),
    )


def upsample(node: Node) -> relax.Expr:
    """Upsample of operator sets 7 and 9; the scales must be constant."""
    scales = np.asarray(node.attribute("scales"), np.float32) if node.opset < 9 else node.constant(1)
    return _resize(node, _scaled(node, scales, None), "asymmetric", "simple")


def _optional(node: Node, index: int) -> np.ndarray | None:
    """A constant input; one without elements counts as omitted, as operator sets before 13 want it."""
    value = None if node.value(index) is None else node.constant(index)
    return None if value is None or value.size == 0 else value


def _axes_of(node: Node) -> list[int]:
    rank = len(shape_of(node.expr(0)))
    axes = [int(axis) for axis in node.attributes.get("axes", range(rank))]
    if any(not -rank <= axis < rank for axis in axes) or len({axis % rank for axis in axes}) != len(axes):
        raise node.error(f"has axes {axes}; expected different axes of an input with {rank} dimensions")
    return [axis % rank for axis in axes]


def _region(node: Node) -> np.ndarray | None:
    if node.attributes.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        return None
    roi, count = _optional(node, 1), len(_axes_of(node))
    if roi is None or roi.size != 2 * count:
        raise node.error(
            f"crops with a region of interest of {0 if roi is None else roi.size} numbers, not {2 * count}"
        )
    return roi.astype(np.float32).reshape(2, count)


def _scaled(node: Node, scales: np.ndarray, roi: np.ndarray | None) -> list[_Axis]:
    axes = _numbered(node, scales, "scales")
    if not np.all(np.isfinite(scales)) or scales.min() <= 0:
        raise node.error(f"has scales {scales.tolist()}; expected positive numbers")
    found = []
    for index, (axis, size) in enumerate(axes):
        scale = np.float32(scales[index])
        outputs = int(scale * np.float32(size))
        length = outputs if float(scale).is_integer() else float(scale) * size
        found.append(_Axis(axis, size, outputs, float(scale), length, _roi_of(roi, index)))
    return _checked(node, found)


def _sized(node: Node, sizes: np.ndarray, roi: np.ndarray | None) -> list[_Axis]:
    axes = _numbered(node, sizes, "sizes")
    wanted = [int(size) for size in sizes]
    scales = [np.float32(new) / np.float32(old) for new, (_, old) in zip(wanted, axes, strict=True)]
    policy = node.attributes.get("keep_aspect_ratio_policy", "stretch")
    if policy in ("not_larger", "not_smaller"):
        scale = min(scales) if policy == "not_larger" else max(scales)
        scales = [scale] * len(axes)
        wanted = [int(float(scale) * old + 0.5) for _, old in axes]
    elif policy != "stretch":
        raise node.error(
            f"has the unknown keep_aspect_ratio_policy {policy!r}; expected stretch, not_larger or not_smaller"
        )
    return _checked(
        node,
        [
            _Axis(axis, old, new, float(scale), new, _roi_of(roi, index))
            for index, ((axis, old), new, scale) in enumerate(zip(axes, wanted, scales, strict=True))
        ],
    )


def _numbered(node: Node, values: np.ndarray, name: str) -> list[tuple[int, int]]:
    axes, shape = _axes_of(node), shape_of(node.expr(0))
    if values.shape != (len(axes),):
        raise node.error(f"has {name} of shape {list(values.shape)}; expected one number for each of {len(axes)} axes")
    return [(axis, shape[axis]) for axis in axes]


def _roi_of(roi: np.ndarray | None, index: int) -> tuple[float, float]:
    return (0.0, 1.0) if roi is None else (float(roi[0, index]), float(roi[1, index]))


def _checked(node: Node, axes: list[_Axis]) -> list[_Axis]:
    for axis in axes:
        if axis.outputs < 1:
            raise node.error(f"resizes axis {axis.axis} from {axis.inputs} to {axis.outputs}; expected at least 1")
    return axes


def _resize(node: Node, axes: list[_Axis], transformation: str, rounding: str) -> relax.Expr:
    attributes, x = node.attributes, node.expr(0)
    mode, fill = attributes.get("mode", "nearest"), attributes.get("extrapolation_value", 0.0)
    antialias, dtype = bool(attributes.get("antialias", 0)), dtype_of(x)
    if antialias and (mode == "nearest" or (dtype.startswith(("int", "uint")) and dtype != "uint8")):
        raise node.error(
            f"has antialias with mode {mode!r} and values of {dtype}, which is not supported; "
            "expected mode linear or cubic, and floats or uint8"
        )
    if _suits_resize2d(node, axes, mode, transformation):
        size = {axis.axis: axis.outputs for axis in axes}
        alpha = attributes.get("cubic_coeff_a", -0.75)
        return relax.op.image.resize2d(
            x,
            (size.get(2, shape_of(x)[2]), size.get(3, shape_of(x)[3])),
            method="cubic" if mode == "cubic" else "linear",
            coordinate_transformation_mode=transformation,
            cubic_alpha=alpha,
        )
    maps = {axis.axis: _axis_map(node, axis, mode, transformation, rounding) for axis in axes}
    maps = {axis: found for axis, found in maps.items() if not found.is_identity(shape_of(x)[axis])}
    if mode == "nearest":
        for axis in _order(maps, shape_of(x)):
            x = _select(node, x, maps[axis], axis, fill)
        return x
    if dtype in ("float32", "float64"):
        return _interpolated(node, x, maps, fill)
    if antialias:
        return relax.op.astype(_antialiased_bytes(node, x, maps, fill), dtype)
    y = node.emit(relax.op.astype(x, "float32"))
    if mode == "linear" and dtype != "float16":
        # in onnxruntime's order; astype drops the fraction
        return relax.op.astype(_interpolate_at_once(node, y, maps, fill), dtype)
    y = _interpolated(node, y, maps, fill)
    if dtype != "float16":
        limits = np.iinfo(dtype)
        y = node.emit(relax.op.clip(node.emit(relax.op.round(y)), float(limits.min), float(limits.max)))
    return relax.op.astype(y, dtype)


def _suits_resize2d(node: Node, axes: list[_Axis], mode: str, transformation: str) -> bool:
    """Whether TVM's operator, which is faster, is right: for images of float32 whose sizes are what the scales give."""
    x, attributes = node.expr(0), node.attributes
    if len(shape_of(x)) != 4 or dtype_of(x) != "float32" or mode not in ("linear", "cubic"):
        return False
    if attributes.get("antialias", 0) or attributes.get("exclude_outside", 0):
        return False
    if transformation not in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"):
        return False
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    moved = [axis for axis in axes if axis.outputs != axis.inputs or axis.scale != 1]
    return all(axis.axis >= 2 and axis.length == axis.outputs > 1 and axis.inputs > 1 for axis in moved)


def _axis_map(node: Node, axis: _Axis, mode: str, transformation: str, rounding: str) -> AxisMap:
    attributes = node.attributes
    try:
        x = coordinates(transformation, axis.inputs, axis.outputs, axis.scale, axis.length, axis.roi)
    except ValueError:
        raise node.error(f"has the unknown coordinate_transformation_mode {transformation!r}") from None
    if mode == "nearest":
        try:
            found = nearest(x, rounding, axis.inputs, axis.scale < 1)
        except ValueError:
            raise node.error(f"has the unknown nearest_mode {rounding!r}") from None
    elif mode in ("linear", "cubic", "bilinear"):
        cubic = attributes.get("cubic_coeff_a", -0.75) if mode == "cubic" else None
        scale = axis.scale if attributes.get("antialias", 0) else 1.0
        found = weighted(x, axis.inputs, cubic, scale, bool(attributes.get("exclude_outside", 0)))
    else:
        raise node.error(f"has the unknown mode {mode!r}; expected nearest, linear or cubic")
    if transformation == "tf_crop_and_resize":
        return AxisMap(found.indices, found.weights, (x < 0) | (x > axis.inputs - 1))
    return found


def _order(maps: dict[int, AxisMap], shape: Sequence[int]) -> list[int]:
    """The axes, those that shrink first, so that little is computed in between."""
    return sorted(maps, key=lambda axis: len(maps[axis].indices) / shape[axis])


def _interpolated(node: Node, x: relax.Expr, maps: dict[int, AxisMap], fill: float) -> relax.Expr:
    for axis in _order(maps, shape_of(x)):
        x = _interpolate(node, x, maps[axis], axis, fill)
    return x


def _select(node: Node, x: relax.Expr, found: AxisMap, axis: int, fill: float) -> relax.Var:
    y = node.emit(relax.op.take(x, as_expr(found.indices[:, 0].astype(np.int32)), axis, mode="clip"))
    return _filled(node, y, found, axis, fill)


def _interpolate(node: Node, x: relax.Expr, found: AxisMap, axis: int, fill: float) -> relax.Var:
    """The linear map along one axis of a tensor of floats."""
    if found.is_selection:
        return _select(node, x, found, axis, fill)
    rank, (outputs, taps), dtype = len(shape_of(x)), found.indices.shape, dtype_of(x)
    weights = found.weights.astype(dtype)
    if taps <= _UNROLLED:
        terms = [
            node.emit(
                relax.op.multiply(
                    node.emit(relax.op.take(x, as_expr(found.indices[:, tap].astype(np.int32)), axis, mode="clip")),
                    as_expr(weights[:, tap].reshape(_along(axis, rank, (outputs,)))),
                )
            )
            for tap in range(taps)
        ]
        return _filled(node, _total(node, terms), found, axis, fill)
    shape = shape_of(x)
    gathered = node.emit(relax.op.take(x, as_expr(found.indices.reshape(-1)), axis, mode="clip"))
    windows = node.emit(relax.op.reshape(gathered, (*shape[:axis], outputs, taps, *shape[axis + 1 :])))
    products = node.emit(relax.op.multiply(windows, as_expr(weights.reshape(_along(axis, rank, (outputs, taps))))))
    return _filled(node, node.emit(relax.op.sum(products, axis + 1)), found, axis, fill)


def _interpolate_at_once(node: Node, x: relax.Expr, maps: dict[int, AxisMap], fill: float) -> relax.Expr:
    """All axes with products of weights, so that sums are rounded to integers as onnxruntime rounds them."""
    if not maps:
        return x
    rank, axes, terms = len(shape_of(x)), sorted(maps), []
    for taps in product(*(range(maps[axis].indices.shape[1]) for axis in axes)):
        y, weights = x, np.ones((1,) * rank, np.float32)
        for axis, tap in zip(axes, taps, strict=True):
            found = maps[axis]
            y = node.emit(relax.op.take(y, as_expr(found.indices[:, tap].astype(np.int32)), axis, mode="clip"))
            weights = weights * found.weights[:, tap].reshape(_along(axis, rank, (-1,)))
        terms.append(node.emit(relax.op.multiply(y, as_expr(weights))))
    y = _total(node, terms)
    for axis in axes:
        y = _filled(node, y, maps[axis], axis, fill)
    return y


def _antialiased_bytes(node: Node, x: relax.Expr, maps: dict[int, AxisMap], fill: float) -> relax.Expr:
    """As in Pillow: weights of 22 bits after the point; each axis is rounded, the last one first."""
    y, half = node.emit(relax.op.astype(x, "int32")), relax.const(1 << _FRACTION_BITS >> 1, "int32")
    for axis in sorted(maps, reverse=True):
        y = _interpolate(node, y, maps[axis].fixed_point(_FRACTION_BITS), axis, fill)
        y = node.emit(relax.op.right_shift(node.emit(relax.op.add(y, half)), relax.const(_FRACTION_BITS, "int32")))
        y = node.emit(relax.op.clip(y, 0, 255))
    return y


def _total(node: Node, terms: list[relax.Var]) -> relax.Var:
    return reduce(lambda left, right: node.emit(relax.op.add(left, right)), terms)


def _filled(node: Node, y: relax.Var, found: AxisMap, axis: int, fill: float) -> relax.Var:
    if not found.outside.any():
        return y
    mask = as_expr(found.outside.reshape(_along(axis, len(shape_of(y)), (-1,))))
    return node.emit(relax.op.where(mask, relax.const(fill, dtype_of(y)), y))


def _along(axis: int, rank: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    """A shape that broadcasts over all axes but this one."""
    return (*(1,) * axis, *sizes, *(1,) * (rank - axis - 1))


CONVERTERS: dict[str, Converter] = {
    "Resize": resize,
    "Upsample": upsample,
}
