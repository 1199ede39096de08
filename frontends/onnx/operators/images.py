"""Operators that move pixels: blocks to channels and back, columns to images, crops, grids of positions."""

from __future__ import annotations

from itertools import chain, product
from math import prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, as_expr, dtype_of, rank_of, shape_of

_GRID_MODES = {
    "linear": "bilinear",
    "bilinear": "bilinear",
    "nearest": "nearest",
    "cubic": "bicubic",
    "bicubic": "bicubic",
}
_FAR = 1e4  # in units of half an image: no pixel is near


def depth_to_space(node: Node) -> relax.Expr:
    """Groups of channels to blocks of pixels."""
    block, mode, (batch, channels, height, width) = _blocks(node)
    if channels % (block * block):
        raise node.error(f"has {channels} channels, which blocks of {block} x {block} do not divide")
    rest = channels // (block * block)
    if mode == "DCR":
        split, order = (batch, block, block, rest, height, width), [0, 3, 4, 1, 5, 2]
    else:
        split, order = (batch, rest, block, block, height, width), [0, 1, 4, 2, 5, 3]
    y = node.emit(relax.op.permute_dims(node.emit(relax.op.reshape(node.expr(0), split)), order))
    return relax.op.reshape(y, (batch, rest, height * block, width * block))


def space_to_depth(node: Node) -> relax.Expr:
    """Blocks of pixels to groups of channels."""
    block, mode, (batch, channels, height, width) = _blocks(node)
    if height % block or width % block:
        raise node.error(f"has an image of {height} x {width}, which blocks of {block} x {block} do not divide")
    split = (batch, channels, height // block, block, width // block, block)
    order = [0, 3, 5, 1, 2, 4] if mode == "DCR" else [0, 1, 3, 5, 2, 4]
    y = node.emit(relax.op.permute_dims(node.emit(relax.op.reshape(node.expr(0), split)), order))
    return relax.op.reshape(y, (batch, channels * block * block, height // block, width // block))


def _blocks(node: Node) -> tuple[int, str, tuple[int, int, int, int]]:
    shape, block, mode = shape_of(node.expr(0)), node.attribute("blocksize"), node.attributes.get("mode", "DCR")
    if len(shape) != 4 or block < 1 or mode not in ("DCR", "CRD"):
        raise node.error(
            f"has an input of shape {list(shape)}, blocksize {block} and mode {mode!r}; "
            "expected 4 dimensions, a positive blocksize, and the mode DCR or CRD"
        )
    return block, mode, shape


def col2im(node: Node) -> relax.Expr:
    """Sums the columns of all windows into images: each tap is spread over its positions, then all are added."""
    x, attributes = node.expr(0), node.attributes
    image, block = (tuple(int(size) for size in node.constant(index)) for index in (1, 2))
    axes = len(image)
    strides, dilations = (tuple(attributes.get(name, (1,) * axes)) for name in ("strides", "dilations"))
    pads = tuple(attributes.get("pads", (0,) * 2 * axes))
    batch, columns, positions = shape_of(x) if rank_of(x) == 3 else (0, 0, 0)
    counts = [
        (image[axis] + pads[axis] + pads[axis + axes] - (block[axis] - 1) * dilations[axis] - 1) // strides[axis] + 1
        for axis in range(axes)
    ]
    if columns % prod(block) or prod(counts) != positions or min(counts) < 1:
        raise node.error(
            f"has an input of shape {list(shape_of(x))}; images of {list(image)} in blocks of {list(block)} need "
            f"[N, a multiple of {prod(block)}, {prod(counts)}]"
        )
    channels = columns // prod(block)
    x = node.emit(relax.op.reshape(x, (batch, channels, prod(block), *counts)))
    total: relax.Expr | None = None
    for tap, place in enumerate(product(*map(range, block))):
        y = node.emit(relax.op.strided_slice(x, [2], [tap], [tap + 1]))
        y = node.emit(relax.op.reshape(y, (batch, channels, *chain.from_iterable((count, 1) for count in counts))))
        widths = [0] * 4 + list(chain.from_iterable((0, 0, 0, stride - 1) for stride in strides))
        y = node.emit(relax.op.nn.pad(y, widths))
        sizes = [count * stride for count, stride in zip(counts, strides, strict=True)]
        y = node.emit(relax.op.reshape(y, (batch, channels, *sizes)))
        starts = [index * dilations[axis] - pads[axis] for axis, index in enumerate(place)]
        y = _placed(node, y, starts, image)
        total = y if total is None else node.emit(relax.op.add(total, y))
    return total


def _placed(node: Node, y: relax.Var, starts: list[int], sizes: tuple[int, ...]) -> relax.Var:
    """An image put on zeros of the given sizes, from pixel ``starts`` on, which may be negative."""
    given = shape_of(y)[2:]
    first = [max(-start, 0) for start in starts]
    last = [min(size - start, have) for size, start, have in zip(sizes, starts, given, strict=True)]
    axes = [axis + 2 for axis in range(len(sizes))]
    if first != [0] * len(sizes) or last != list(given):
        y = node.emit(relax.op.strided_slice(y, axes, first, last))
    before = [max(start, 0) for start in starts]
    after = [size - start - (end - begin) for size, start, begin, end in zip(sizes, before, first, last, strict=True)]
    widths = [0] * 4 + list(chain.from_iterable(zip(before, after, strict=True)))
    return node.emit(relax.op.nn.pad(y, widths)) if any(widths) else y


def center_crop_pad(node: Node) -> relax.Expr:
    """Crops or pads some axes to given sizes; an odd pixel is cropped or padded at the end."""
    x = node.expr(0)
    shape = shape_of(x)
    wanted = [int(size) for size in node.constant(1)]
    axes = [axis % len(shape) for axis in node.attributes.get("axes", range(len(shape)))]
    if len(axes) != len(wanted) or min(wanted, default=1) < 1:
        raise node.error(f"has the shape {wanted} for axes {axes}; expected one positive number for each")
    cropped = [axis for axis, size in zip(axes, wanted, strict=True) if size < shape[axis]]
    sizes = dict(zip(axes, wanted, strict=True))
    if cropped:
        starts = [(shape[axis] - sizes[axis]) // 2 for axis in cropped]
        ends = [start + sizes[axis] for start, axis in zip(starts, cropped, strict=True)]
        x = node.emit(relax.op.strided_slice(x, cropped, starts, ends))
    widths = [0] * 2 * len(shape)
    for axis, size in sizes.items():
        missing = max(size - shape[axis], 0)
        widths[2 * axis], widths[2 * axis + 1] = missing // 2, missing - missing // 2
    return relax.op.nn.pad(x, widths) if any(widths) else x


def affine_grid(node: Node) -> relax.Expr:
    """The positions of an image's pixels, from -1 to 1 along each axis, under an affine map of each sample."""
    theta, size = node.expr(0), [int(number) for number in node.constant(1)]
    sizes = size[2:]
    axes = len(sizes)
    if axes not in (2, 3) or shape_of(theta) != (size[0], axes, axes + 1):
        raise node.error(
            f"has a theta of shape {list(shape_of(theta))} for the size {size}; "
            "expected [N, 2, 3] for 4 numbers or [N, 3, 4] for 5"
        )
    lines = []
    for count in sizes:
        if node.attributes.get("align_corners", 0):
            line = np.linspace(-1, 1, count) if count > 1 else np.ones(1)  # onnxruntime's choice
        else:
            line = (2 * np.arange(count) + 1) / count - 1
        lines.append(line)
    grid = np.stack([*reversed(np.meshgrid(*lines, indexing="ij")), np.ones(sizes)]).reshape(axes + 1, -1)
    dtype = dtype_of(theta)
    y = node.emit(relax.op.matmul(theta, as_expr(grid.astype(dtype))))
    return relax.op.reshape(node.emit(relax.op.permute_dims(y, [0, 2, 1])), (size[0], *sizes, axes))


def grid_sample(node: Node) -> relax.Expr:
    """Samples of images at given positions. A position that is no number counts as the image's beginning."""
    attributes = node.attributes
    mode, padding = attributes.get("mode", "linear"), attributes.get("padding_mode", "zeros")
    rank = rank_of(node.expr(0))
    if rank not in (4, 5) or rank_of(node.expr(1)) != rank:
        raise node.error(f"has an input with {rank} dimensions; supported are 4 and 5, with as many of the grid")
    if mode not in _GRID_MODES or padding not in ("zeros", "border", "reflection"):
        raise node.error(f"has the unknown mode {mode!r} or padding_mode {padding!r}")
    if rank == 5 and _GRID_MODES[mode] == "bicubic":
        raise node.error(f"has mode {mode!r} on volumes, which is not supported; use linear or nearest")
    grid = safe_numbers(node, node.expr(1), -1.0)
    if padding != "reflection":
        grid = node.emit(relax.op.clip(grid, -_FAR, _FAR))
    grid = node.emit(relax.op.permute_dims(grid, [0, rank - 1, *range(1, rank - 1)]))
    return relax.op.image.grid_sample(
        node.expr(0),
        grid,
        method=_GRID_MODES[mode],
        layout="NCHW" if rank == 4 else "NCDHW",
        padding_mode=padding,
        align_corners=bool(attributes.get("align_corners", 0)),
    )


def safe_numbers(node: Node, x: relax.Expr, replacement: float) -> relax.Var:
    """Finite numbers as they are, so that no memory address is computed from another."""
    finite = node.emit(relax.op.isfinite(x))
    return node.emit(relax.op.where(finite, x, relax.const(replacement, dtype_of(x))))


CONVERTERS: dict[str, Converter] = {
    "AffineGrid": affine_grid,
    "CenterCropPad": center_crop_pad,
    "Col2Im": col2im,
    "DepthToSpace": depth_to_space,
    "GridSample": grid_sample,
    "SpaceToDepth": space_to_depth,
}
