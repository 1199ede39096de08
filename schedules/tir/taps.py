"""Loop bounds for sliding windows: the taps inside the image, and runs of output columns with equal windows."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.tirx.script import builder as T

from ..shapes import Conv2dShape
from .vectors import Index


def taps_inside(start: Index, kernel: int, dilation: int, low: int, high: int) -> tuple[Index, Index]:
    """The taps [first, end) with positions in [low, high), for a window that starts at position ``start``."""
    first, end = (low - start + dilation - 1) // dilation, (high - start + dilation - 1) // dilation
    if isinstance(start, int):
        first = max(first, 0)
        return first, max(min(end, kernel), first)
    first = tirx.max(first, 0)
    return first, tirx.max(tirx.min(end, kernel), first)


def check_windows(shape: Conv2dShape) -> None:
    """Check that no window of a pooling is entirely in the padding.

    Raises:
        ValueError: If a window is entirely in the padding.
    """
    classes = shape.border_classes()
    if not classes.valid.any(axis=(1, 2)).all():
        raise ValueError(
            f"a pooling window of {shape.kernel} with padding {shape.padding} lies outside the"
            f" {shape.height}x{shape.width} input; use less padding"
        )


def for_columns(shape: Conv2dShape, emit: Callable[[Index, Index], None]) -> None:
    """Call ``emit(x, left)`` for all output columns, where ``left`` is the leftmost column of the window of column x.

    ``left`` is an int for windows that extend outside the image. The other columns share one loop.
    """
    for start, _, count in column_spans(shape, 1):
        left = start * shape.strides[1] - shape.padding[1]
        if count == 1:
            emit(start, left)
        else:
            with T.serial(0, count) as x:
                emit(start + x, left + x * shape.strides[1])


def column_spans(shape: Conv2dShape, pixels: int) -> list[tuple[int, int, int]]:
    """Cut a row of outputs into tiles.

    Returns:
        Runs of tiles with equal code: (first column, columns per tile, number of tiles). A tile with a window that
        extends past the border, and a narrower last tile, is a run of its own, whose columns are constants.
    """
    inside: list[tuple[int, int, int]] = []
    alone: list[tuple[int, int, int]] = []
    for start in range(0, shape.out_width, pixels):
        size = min(pixels, shape.out_width - start)
        left = start * shape.strides[1] - shape.padding[1]
        right = left + (size - 1) * shape.strides[1] + (shape.kernel[1] - 1) * shape.dilation[1]
        fits = left >= 0 and right < shape.width and size == pixels
        (inside if fits else alone).append((start, size, 1))
    if inside:
        alone.append((inside[0][0], pixels, len(inside)))
    return sorted(alone)
