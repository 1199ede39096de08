"""Where the maxima of a pooling are, and the way back: MaxPool's second output, and MaxUnpool."""

from __future__ import annotations

from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, as_expr, dtype_of, shape_of
from ..window_attributes import Window


def max_with_positions(node: Node, window: Window, outputs: tuple[int, ...], column_major: bool) -> relax.Tuple:
    """The maximum of each window, and the index of its first place in the flattened input, int64.

    One axis after the other is reduced, the last one first, so that the first place in row-major order wins. With
    ``column_major`` the indices count the last two axes of the image the other way round.
    """
    x = node.expr(0)
    shape, dtype = shape_of(x), dtype_of(x)
    sizes, axes = shape[2:], len(outputs)
    lowest = -np.inf if dtype.startswith("float") else np.iinfo(dtype).min
    widths, extents = [0, 0, 0, 0], []
    for axis, size in enumerate(sizes):
        before = window.padding[axis]
        extents.append((outputs[axis] - 1) * window.strides[axis] + window.spans[axis])
        widths += [before, max(extents[axis] - size - before, 0)]
    maxima = node.emit(relax.op.nn.pad(x, widths, pad_value=float(lowest))) if any(widths) else x
    positions: Value = _positions(sizes, column_major)
    positions = np.pad(positions, [(0, 0), (0, 0), *zip(widths[4::2], widths[5::2], strict=True)], constant_values=-1)
    for axis in reversed(range(2, axes + 2)):
        step, stride, count = window.dilation[axis - 2], window.strides[axis - 2], outputs[axis - 2]
        best: relax.Expr | None = None
        for tap in range(window.kernel[axis - 2]):
            first = tap * step
            value = node.emit(_every(maxima, axis, first, count, stride))
            index = _every(positions, axis, first, count, stride)
            index = index if isinstance(index, np.ndarray) else node.emit(index)
            if best is None:
                best, place = value, index
                continue
            larger = node.emit(relax.op.greater(value, best))
            best = node.emit(relax.op.where(larger, value, best))
            place = node.emit(relax.op.where(larger, as_expr(index), as_expr(place)))
        maxima, positions = best, place
    start = np.arange(shape[0] * shape[1], dtype=np.int64) * prod(sizes)
    return relax.Tuple([maxima, relax.op.add(as_expr(positions), as_expr(start.reshape(*shape[:2], *(1,) * axes)))])


def _positions(sizes: tuple[int, ...], column_major: bool) -> np.ndarray:
    """The index of each pixel in its map: int64 [1, 1, ...]."""
    order = sizes[::-1] if column_major else sizes
    positions = np.arange(prod(sizes), dtype=np.int64).reshape(order)
    return (positions.T if column_major else positions).reshape(1, 1, *sizes)


def _every(value: Value, axis: int, first: int, count: int, stride: int) -> Value:
    last = first + (count - 1) * stride + 1
    if isinstance(value, np.ndarray):
        return value[(slice(None),) * axis + (slice(first, last, stride),)]
    return relax.op.strided_slice(value, [axis], [first], [last], [stride])


def max_unpool(node: Node) -> relax.Expr:
    """Puts values back to the places that MaxPool returned, and zeros elsewhere.

    The indices count in the tensor that the attributes give; a larger ``output_shape`` adds zeros at the ends. Indices
    outside of it wrap around, so that they cannot touch other memory.
    """
    x, places = node.expr(0), node.expr(1)
    shape = shape_of(x)
    window = Window.of(node, node.attribute("kernel_shape"))
    axes = len(window.kernel)
    sizes = [
        (size - 1) * stride - window.padding[axis] - window.padding[axis + axes] + taps
        for axis, (size, stride, taps) in enumerate(zip(shape[2:], window.strides, window.kernel, strict=True))
    ]
    inferred = (*shape[:2], *sizes)
    wanted = inferred if node.value(2) is None else tuple(int(size) for size in node.constant(2))
    if len(wanted) != len(inferred) or any(new < old for new, old in zip(wanted, inferred, strict=True)):
        raise node.error(
            f"has output_shape {list(wanted)}; expected at least {list(inferred)}, which its attributes give"
        )
    zeros = node.emit(relax.op.zeros((prod(inferred),), dtype_of(x)))
    flat_places, flat = (node.emit(relax.op.reshape(value, (prod(shape),))) for value in (places, x))
    flat_places = node.emit(relax.op.floor_mod(flat_places, relax.const(prod(inferred), "int64")))
    scattered = node.emit(relax.op.scatter_elements(zeros, flat_places, flat, axis=0))
    y = relax.op.reshape(scattered, inferred)
    if wanted == inferred:
        return y
    widths = [width for new, old in zip(wanted, inferred, strict=True) for width in (0, new - old)]
    return relax.op.nn.pad(node.emit(y), widths)


CONVERTERS: dict[str, Converter] = {
    "MaxUnpool": max_unpool,
}
