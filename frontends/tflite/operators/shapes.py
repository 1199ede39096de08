"""Operators that move elements: reshapes, transposes, slices, splits, concatenations, paddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import tflite

from ..node import Converter, Node
from ..tensor_types import dtype_of
from ..values import CHANNELS_FIRST, Value
from .activation import activated
from .elementwise import aligned


def _reshape(node: Node) -> Value:
    x = node.required(0)
    shape = node.integers(1) if node.value(1) is not None else tuple(node.operator.options.get("NewShape", ()))
    if shape.count(-1) == 1:
        known = -math.prod(shape)
        if known > 0 and math.prod(x.shape) % known == 0:
            shape = tuple(math.prod(x.shape) // known if size == -1 else size for size in shape)
    return node.graph.reshaped(x, shape)


def _squeeze(node: Node) -> Value:
    x = node.required(0)
    dims = [node.axis(number, x.rank) for number in node.operator.options.get("SqueezeDims", ())]
    gone = dims or [axis for axis, size in enumerate(x.shape) if size == 1]
    return node.graph.reshaped(x, [size for axis, size in enumerate(x.shape) if axis not in gone])


def _expand_dims(node: Node) -> Value:
    x = node.required(0)
    numbers = node.integers(1)
    if len(numbers) != 1:
        raise node.error(f"needs one axis, but has {list(numbers)}")
    shape = list(x.shape)
    shape.insert(node.axis(numbers[0], x.rank + 1), 1)
    return node.graph.reshaped(x, shape)


def _transpose(node: Node) -> Value:
    """Moves nothing: the order of axes says how the result is stored."""
    x, perm = node.required(0), node.integers(1)
    if sorted(perm) != list(range(x.rank)):
        raise node.error(f"permutes the axes {list(x.shape)} by {list(perm)}, which is no permutation of them")
    shape = tuple(x.shape[axis] for axis in perm)
    if x.array is not None:
        return node.graph.constant(x.array.transpose(perm), x.name)
    return Value(x.name, x.dtype, shape, tuple(perm.index(axis) for axis in x.order))


def _concatenation(node: Node) -> Value:
    values = [node.required(index) for index in range(len(node.inputs))]
    if not values or len({value.rank for value in values}) != 1:
        raise node.error(f"joins tensors of shapes {[list(value.shape) for value in values]}")
    axis = node.axis(node.option("Axis"), values[0].rank)
    operands, order = aligned(node, values)
    return activated(node, node.graph.add("Concat", *operands, order=order, axis=order.index(axis)))


def _pack(node: Node) -> Value:
    values = [node.required(index) for index in range(len(node.inputs))]
    if not values or len({value.shape for value in values}) != 1:
        raise node.error(f"joins tensors of shapes {[list(value.shape) for value in values]}")
    shape = list(values[0].shape)
    axis = node.axis(node.option("Axis"), len(shape) + 1)
    shape.insert(axis, 1)
    return node.graph.add("Concat", *(node.graph.reshaped(value, shape) for value in values), axis=axis)


def _unpack(node: Node) -> list[Value]:
    x = node.required(0)
    axis = node.axis(node.option("Axis"), x.rank)
    parts = _parts(node, x, axis, [1] * x.shape[axis])
    return [node.graph.reshaped(part, (*x.shape[:axis], *x.shape[axis + 1 :])) for part in parts]


def _split(node: Node) -> list[Value]:
    numbers, x = node.integers(0), node.required(1)
    axis = node.axis(numbers[0] if len(numbers) == 1 else x.rank, x.rank)
    count = len(node.computed)
    if x.shape[axis] % count:
        raise node.error(f"splits {x.shape[axis]} indices into {count} equal parts")
    return _parts(node, x, axis, [x.shape[axis] // count] * count)


def _split_v(node: Node) -> list[Value]:
    x, sizes, numbers = node.required(0), list(node.integers(1)), node.integers(2)
    axis = node.axis(numbers[0] if len(numbers) == 1 else x.rank, x.rank)
    if sizes.count(-1) == 1:
        sizes[sizes.index(-1)] = x.shape[axis] - sum(sizes) - 1
    if sum(sizes) != x.shape[axis] or min(sizes, default=-1) < 0:
        raise node.error(f"splits {x.shape[axis]} indices into parts of {sizes}")
    return _parts(node, x, axis, sizes)


def _parts(node: Node, x: Value, axis: int, sizes: Sequence[int]) -> list[Value]:
    if len(sizes) != len(node.computed):
        raise node.error(f"splits a tensor into {len(sizes)} parts, but has {len(node.computed)} outputs")
    lengths = node.graph.constant(np.array(sizes, np.int64))
    stored = x.stored_axis(axis)
    return list(node.graph.add_several("Split", x, lengths, count=len(sizes), order=x.order, axis=stored))


def _slice(node: Node) -> Value:
    x, begin, size = node.required(0), node.integers(1), node.integers(2)
    if len(begin) != x.rank or len(size) != x.rank:
        raise node.error(f"slices a tensor of shape {list(x.shape)} from {list(begin)} by {list(size)}")
    bounds = list(zip(begin, size, x.shape, strict=True))
    ends = [whole if length == -1 else start + length for start, length, whole in bounds]
    if any(not 0 <= start <= end <= whole for (start, _, whole), end in zip(bounds, ends, strict=True)):
        raise node.error(f"slices a tensor of shape {list(x.shape)} from {list(begin)} by {list(size)}")
    return _sliced(node, x, begin, ends, [1] * x.rank)


def _strided_slice(node: Node) -> Value:
    x = node.required(0)
    begin, end, step = (node.integers(index) for index in (1, 2, 3))
    if node.option("EllipsisMask", 0) or node.option("NewAxisMask", 0) or node.option("Offset", 0):
        raise node.error("slices with an ellipsis, new axes or offsets, which is not supported")
    if not len(begin) == len(end) == len(step) <= x.rank or 0 in step:
        raise node.error(f"slices a tensor of shape {list(x.shape)} from {list(begin)} to {list(end)} by {list(step)}")
    shrinks = [axis for axis in range(len(begin)) if node.option("ShrinkAxisMask", 0) >> axis & 1]
    starts, stops, steps = [0] * x.rank, list(x.shape), [1] * x.rank
    for axis, distance in enumerate(step):
        if axis in shrinks:
            index = node.axis(begin[axis], x.shape[axis])
            starts[axis], stops[axis] = index, index + 1
            continue
        low = None if node.option("BeginMask", 0) >> axis & 1 else begin[axis]
        high = None if node.option("EndMask", 0) >> axis & 1 else end[axis]
        starts[axis], stops[axis], steps[axis] = slice(low, high, distance).indices(x.shape[axis])
    result = _sliced(node, x, starts, stops, steps)
    if not shrinks:
        return result
    return node.graph.reshaped(result, [size for axis, size in enumerate(result.shape) if axis not in shrinks])


def _sliced(node: Node, x: Value, starts: Sequence[int], stops: Sequence[int], steps: Sequence[int]) -> Value:
    """Slices with all bounds inside the tensor, on the axes where something is left out."""
    cut = [axis for axis in range(x.rank) if (starts[axis], stops[axis], steps[axis]) != (0, x.shape[axis], 1)]
    if not cut:
        return x
    least = np.iinfo(np.int64).min  # ONNX counts an end of -1 from the last; slice.indices means "before the first"
    numbers = (
        [starts[axis] for axis in cut],
        [least if stops[axis] < 0 else stops[axis] for axis in cut],
        [x.stored_axis(axis) for axis in cut],
        [steps[axis] for axis in cut],
    )
    return node.graph.add("Slice", x, *(node.graph.constant(np.array(n, np.int64)) for n in numbers), order=x.order)


def _pad(node: Node) -> Value:
    if len(node.inputs) < 3:
        return padded(node, "constant")
    value = node.constant(2)
    if value.size != 1:
        raise node.error(f"pads with {value.size} numbers; expected one")
    return padded(node, "constant", value.reshape(()))


def _mirror_pad(node: Node) -> Value:
    if node.option("Mode", 0) != tflite.MirrorPadMode.REFLECT:
        raise node.error("repeats the pixels at the edge (mode SYMMETRIC), which is not supported; use REFLECT")
    return padded(node, "reflect")


def padded(node: Node, mode: str, value: np.ndarray | None = None) -> Value:
    """Adds elements around a tensor, as its input 1 says: ``value`` or, by default, 0."""
    x, sides = node.required(0), node.constant(1)
    if sides.shape != (x.rank, 2) or sides.dtype.kind != "i" or sides.min(initial=0) < 0:
        raise node.error(f"pads a tensor of shape {list(x.shape)} by {sides.tolist()}")
    pads = node.graph.constant(np.concatenate([sides[list(x.order), 0], sides[list(x.order), 1]]).astype(np.int64))
    constant = [] if value is None else [node.graph.constant(value)]
    return node.graph.add("Pad", x, pads, *constant, order=x.order, mode=mode)


def _gather(node: Node) -> Value:
    x, indices = node.in_file_order(0), node.in_file_order(1)
    if node.option("BatchDims", 0):
        raise node.error("gathers by batch, which is not supported")
    return node.graph.add("Gather", x, indices, axis=node.axis(node.option("Axis", 0), x.rank))


def _tile(node: Node) -> Value:
    x, counts = node.required(0), node.integers(1)
    if len(counts) != x.rank or min(counts, default=1) < 1:
        raise node.error(f"repeats a tensor of shape {list(x.shape)} by {list(counts)}")
    repeats = node.graph.constant(np.array([counts[axis] for axis in x.order], np.int64))
    return node.graph.add("Tile", x, repeats, order=x.order)


def _broadcast_to(node: Node) -> Value:
    return node.graph.add("Expand", node.in_file_order(0), node.graph.constant(np.array(node.integers(1), np.int64)))


def _fill(node: Node) -> Value:
    sizes, value = node.integers(0), node.required(1)
    return node.graph.add("Expand", value, node.graph.constant(np.array(sizes, np.int64)))


def _shape(node: Node) -> Value:
    return node.graph.constant(np.array(node.required(0).shape, dtype_of(node.computed[0], node.graph.where)))


def _depth_to_space(op_type: str) -> Converter:
    """Blocks of pixels from channels or back; both have the channel as the fastest axis of a block."""

    def convert(node: Node) -> Value:
        return node.graph.add(
            op_type, node.images_of_any_type(0), order=CHANNELS_FIRST, blocksize=node.positive("BlockSize")
        )

    return convert


CONVERTERS: dict[str, Converter] = {
    "BROADCAST_TO": _broadcast_to,
    "CONCATENATION": _concatenation,
    "DEPTH_TO_SPACE": _depth_to_space("DepthToSpace"),
    "EXPAND_DIMS": _expand_dims,
    "FILL": _fill,
    "GATHER": _gather,
    "MIRROR_PAD": _mirror_pad,
    "PACK": _pack,
    "PAD": _pad,
    "PADV2": _pad,
    "RESHAPE": _reshape,
    "SHAPE": _shape,
    "SLICE": _slice,
    "SPACE_TO_DEPTH": _depth_to_space("SpaceToDepth"),
    "SPLIT": _split,
    "SPLIT_V": _split_v,
    "SQUEEZE": _squeeze,
    "STRIDED_SLICE": _strided_slice,
    "TILE": _tile,
    "TRANSPOSE": _transpose,
    "UNPACK": _unpack,
}
"""Converters by operator name."""
