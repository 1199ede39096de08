"""Random nodes of operators that move elements."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .case import Case, Draw, Frozen


def _longs(values: object) -> Frozen:
    return Frozen(np.asarray(values, np.int64))


def reshape(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("Reshape"))
    sizes = list(d.rng.permutation(x.shape)) + [1] * d.size(0, 2)
    if d.chance():
        sizes[d.size(0, len(sizes) - 1)] = -1
    elif d.chance():
        sizes = [0, *x.shape[1:]]
    return d.case("Reshape", [x, _longs(sizes)], allowzero=0 if d.opset >= 14 and d.chance() else None)


def flatten(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("Flatten"))
    return d.case("Flatten", [x], axis=d.pick([None, d.front_axis(x.ndim), x.ndim]))


def squeeze(d: Draw) -> Case:
    shape = [1 if d.chance() else dim for dim in d.shape(1, 5)]
    ones = [axis for axis, dim in enumerate(shape) if dim == 1]
    x = d.values(shape, d.dtype("Squeeze"))
    if not ones or d.chance(0.3):
        return d.case("Squeeze", [x])
    axes = [ones[i] for i in d.axes(len(ones)) if i >= 0] or ones
    axes = [axis - len(shape) if d.opset >= 11 and d.chance(0.3) else axis for axis in axes]
    return d.case("Squeeze", [x], axes=axes) if d.opset < 13 else d.case("Squeeze", [x, _longs(axes)])


def unsqueeze(d: Draw) -> Case:
    x = d.values(d.shape(0, 3), d.dtype("Unsqueeze"))
    count = d.size(1, 2)
    axes = d.axes(x.ndim + count, count)[:count]
    axes = axes if len({axis % (x.ndim + count) for axis in axes}) == count else list(range(count))
    return d.case("Unsqueeze", [x], axes=axes) if d.opset < 13 else d.case("Unsqueeze", [x, _longs(axes)])


def transpose(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("Transpose"))
    return d.case("Transpose", [x], perm=d.pick([None, d.rng.permutation(x.ndim).tolist()]))


def expand(d: Draw) -> Case:
    shape = d.shape(1)
    target = d.broadcast(shape) if d.chance(0.3) else shape
    return d.case("Expand", [d.values(d.broadcast(shape), d.dtype("Expand")), _longs(target)])


def tile(d: Draw) -> Case:
    x = d.values(d.shape(1, 3), d.dtype("Tile"))
    return d.case("Tile", [x, _longs([d.size(1, 3) for _ in x.shape])])


def split(d: Draw) -> Case:
    shape = list(d.shape(1, 4, 7))
    axis = d.axis(len(shape)) if d.opset >= 11 else d.size(0, len(shape) - 1)
    pieces = d.size(1, 4)
    dtype = d.dtype("Split")
    if d.chance():
        sizes = [d.size(1, 3) for _ in range(pieces)]
        shape[axis] = sum(sizes)
        x = d.values(shape, dtype)
        if d.opset < 13:
            return d.case("Split", [x], pieces, axis=axis, split=sizes)
        return d.case("Split", [x, _longs(sizes)], pieces, axis=axis)
    if d.opset < 18 or d.chance():
        shape[axis] = pieces * d.size(1, 2)
    x = d.values(shape, dtype)
    return d.case("Split", [x], pieces, axis=axis, num_outputs=pieces if d.opset >= 18 else None)


def concat(d: Draw) -> Case:
    shape, dtype = list(d.shape(1)), d.dtype("Concat")
    axis = d.axis(len(shape)) if d.opset >= 11 else d.size(0, len(shape) - 1)
    pieces = []
    for _ in range(d.size(1, 3)):
        shape[axis] = d.size(1, 3)
        pieces.append(d.values(shape, dtype))
    return d.case("Concat", pieces, axis=axis)


def slice_(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("Slice"))
    axes = d.axes(x.ndim)
    shown = [x.shape[axis] for axis in axes]
    starts, ends = ([d.size(-size - 2, size + 2) for size in shown] for _ in range(2))
    if d.opset < 10:
        return d.case("Slice", [x], starts=starts, ends=ends, axes=axes)
    starts = [d.pick([s, -(2**63) + 5, 2**63 - 1]) if d.chance(0.1) else s for s in starts]
    ends = [d.pick([s, -(2**63) + 5, 2**63 - 1]) if d.chance(0.3) else s for s in ends]
    steps = _longs([d.pick([-3, -2, -1, 1, 2, 3]) for _ in axes]) if d.chance(0.7) else None
    return d.case("Slice", [x, _longs(starts), _longs(ends), _longs(axes), steps])


def pad(d: Draw) -> Case:
    dtype = d.dtype("Pad")
    x = d.values(d.shape(1, 4), dtype)
    modes = ["constant", "constant", "edge", "reflect"] + (["wrap"] if d.opset >= 19 else [])
    mode = d.pick(modes)
    axes = d.axes(x.ndim) if d.opset >= 18 and d.chance() else None
    shown = [x.shape[axis] for axis in (range(x.ndim) if axes is None else axes)]
    most = [max(size - 1, 0) if mode == "reflect" else 3 for size in shown]
    amounts = [d.size(0, limit) for limit in most * 2]
    if d.chance(0.3) and mode == "constant":
        amounts = [-1 if d.chance(0.3) and shown[i % len(shown)] > 2 else each for i, each in enumerate(amounts)]
    if d.opset < 11:
        return d.case("Pad", [x], mode=mode, pads=amounts, value=d.pick([None, 1.5]))
    fill = Frozen(d.values((), dtype, special=0.1)) if mode == "constant" and d.chance() else None
    return d.case("Pad", [x, _longs(amounts), fill, None if axes is None else _longs(axes)], mode=mode)


def gather(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("Gather"))
    axis = d.axis(x.ndim) if d.opset >= 11 else d.size(0, x.ndim - 1)
    picks = _indices(d, x.shape[axis], d.shape(0, 2))
    return d.case("Gather", [x, picks], axis=axis)


def _indices(d: Draw, size: int, shape: tuple[int, ...]) -> np.ndarray:
    return d.rng.integers(-size if d.opset >= 11 else 0, size, shape).astype(d.pick(["int64", "int32"]))


def gather_elements(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("GatherElements"))
    axis = d.axis(x.ndim)
    shape = tuple(d.size(1, 4) if i == axis % x.ndim else d.size(1, dim) for i, dim in enumerate(x.shape))
    return d.case("GatherElements", [x, _indices(d, x.shape[axis], shape)], axis=axis)


def gather_nd(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("GatherND"))
    batch = d.size(0, x.ndim - 1) if d.opset >= 12 else 0
    depth = d.size(1, x.ndim - batch)
    lead = x.shape[:batch] + d.shape(0, 2)
    columns = [d.rng.integers(-s if d.opset >= 11 else 0, s, lead) for s in x.shape[batch : batch + depth]]
    return d.case("GatherND", [x, np.stack(columns, -1).astype(np.int64)], batch_dims=batch if d.opset >= 12 else None)


def _scatter_elements(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        dtype = d.dtype(operator)
        x = d.values(d.shape(1), dtype, special=0)
        axis = d.axis(x.ndim) if d.opset >= 11 else d.size(0, x.ndim - 1)
        kinds = [None] + (["add", "mul"] if d.opset >= 16 else []) + (["max", "min"] if d.opset >= 18 else [])
        reduction = d.pick(kinds) if dtype != "bool" else None
        shape = [d.size(1, dim) for dim in x.shape]
        order = np.stack([d.rng.permutation(x.shape[axis])[: shape[axis]] for _ in range(64)])
        indices = np.moveaxis(
            np.stack([order[i % 64] for i in range(int(np.prod(shape)) // shape[axis])]).reshape(
                *(s for i, s in enumerate(shape) if i != axis % x.ndim), shape[axis]
            ),
            -1,
            axis,
        )
        if reduction is not None:
            indices = d.rng.integers(0, x.shape[axis], shape)
        if d.opset >= 11:
            indices = np.where(d.rng.random(shape) < 0.3, indices - x.shape[axis], indices)
        updates = d.values(shape, dtype, special=0)
        kind = d.pick(["int32", "int64"])
        return d.case(operator, [x, indices.astype(kind), updates], axis=axis, reduction=reduction)

    return draw


def scatter_nd(d: Draw) -> Case:
    dtype = d.dtype("ScatterND")
    x = d.values(d.shape(1), dtype, special=0)
    depth = d.size(1, x.ndim)
    places = np.stack([axis.reshape(-1) for axis in np.indices(x.shape[:depth])], -1)
    kinds = [None] + (["add", "mul"] if d.opset >= 16 else []) + (["max", "min"] if d.opset >= 18 else [])
    reduction = d.pick(kinds) if dtype != "bool" else None
    count = d.size(1, len(places))
    chosen = d.rng.permutation(len(places))[:count] if reduction is None else d.rng.integers(0, len(places), count)
    indices = places[chosen]
    if d.opset >= 13 and d.chance():
        indices = np.where(d.rng.random(indices.shape) < 0.3, indices - np.array(x.shape[:depth]), indices)
    updates = d.values((count, *x.shape[depth:]), dtype, special=0)
    return d.case("ScatterND", [x, indices.astype(np.int64), updates], reduction=reduction)


def one_hot(d: Draw) -> Case:
    depth, rank = d.size(1, 6), d.size(0, 3)
    dtype = d.pick(["int64", "int32", "float32", "uint8"])
    low = 0 if dtype.startswith("u") else -depth - 2
    indices = d.rng.integers(low, depth + 2, d.shape(rank, rank)).astype(dtype)
    values = d.values((2,), d.pick(["float32", "int64", "int32", "bool"]))
    return d.case("OneHot", [indices, _longs(depth), values], axis=d.pick([None, d.axis(rank + 1)]))


def compress(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("Compress"))
    axis = d.pick([None, d.axis(x.ndim) if d.opset >= 11 else d.size(0, x.ndim - 1)])
    count = x.size if axis is None else x.shape[axis]
    kept = d.rng.random(d.size(1, count)) < 0.7
    kept[0] = True
    return d.case("Compress", [x, Frozen(kept)], axis=axis)


def reverse_sequence(d: Draw) -> Case:
    x = d.values(d.shape(2), d.dtype("ReverseSequence"))
    batch = d.size(0, 1)
    lengths = d.rng.integers(0, x.shape[1 - batch] + 1, x.shape[batch])
    return d.case("ReverseSequence", [x, lengths.astype(np.int64)], batch_axis=batch, time_axis=1 - batch)


def trilu(d: Draw) -> Case:
    x = d.values(d.shape(2), d.dtype("Trilu"))
    return d.case("Trilu", [x, _longs(d.size(-4, 4)) if d.chance(0.7) else None], upper=d.pick([None, 0, 1]))


def eye_like(d: Draw) -> Case:
    x = d.values(d.shape(2, 2), d.pick(["float32", "int64", "float64"]))
    return d.case("EyeLike", [x], k=d.pick([None, d.size(-3, 3)]), dtype=d.pick([None, 1, 7]))


def shape(d: Draw) -> Case:
    x = d.values(d.shape(0), d.dtype("Shape"))
    limits = {name: d.size(-4, 4) for name in ("start", "end") if d.opset >= 15 and d.chance()}
    return d.case("Shape", [x], **limits)


def size(d: Draw) -> Case:
    return d.case("Size", [d.values(d.shape(0), d.dtype("Size"))])


def depth_to_space(d: Draw) -> Case:
    block = d.size(1, 3)
    x = d.values((d.size(1, 2), block * block * d.size(1, 2), d.size(), d.size()))
    return d.case("DepthToSpace", [x], blocksize=block, mode=d.pick([None, "CRD"]) if d.opset >= 11 else None)


DRAWS: dict[str, Callable[[Draw], Case]] = {
    "Compress": compress,
    "Concat": concat,
    "DepthToSpace": depth_to_space,
    "Expand": expand,
    "EyeLike": eye_like,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "GatherND": gather_nd,
    "OneHot": one_hot,
    "Pad": pad,
    "Reshape": reshape,
    "ReverseSequence": reverse_sequence,
    "Scatter": _scatter_elements("Scatter"),
    "ScatterElements": _scatter_elements("ScatterElements"),
    "ScatterND": scatter_nd,
    "Shape": shape,
    "Size": size,
    "Slice": slice_,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Trilu": trilu,
    "Unsqueeze": unsqueeze,
}
"""By operator, how a node is drawn."""
