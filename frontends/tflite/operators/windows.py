"""The padding of a window that slides over images."""

from __future__ import annotations

import tflite

from ..node import Node


def padding(
    node: Node, scheme: int, sizes: tuple[int, ...], window: tuple[int, ...], strides: tuple[int, ...]
) -> list[int]:
    """The pixels to add before each axis, then after each, as in ONNX.

    With SAME, an image of ``n`` pixels gives ``ceil(n / stride)``; an odd pixel goes to the end.

    Args:
        node: The operator, for its options and messages.
        scheme: The number of SAME or VALID in the schema.
        sizes: Pixels of the image along each axis.
        window: Pixels that the window spans along each axis, dilation included.
        strides: Its steps along each axis.

    Raises:
        ModelError: If the scheme is not known, or the window is larger than the image without padding.
    """
    if scheme == tflite.Padding.VALID:
        for size, span in zip(sizes, window, strict=True):
            if size < span:
                raise node.error(f"slides a window of {list(window)} pixels over images of {list(sizes)}")
        return [0] * 2 * len(sizes)
    if scheme != tflite.Padding.SAME:
        raise node.error(f"has the padding number {scheme}, which is not known")
    total = [
        max((-(-size // stride) - 1) * stride + span - size, 0)
        for size, span, stride in zip(sizes, window, strides, strict=True)
    ]
    return [pixels // 2 for pixels in total] + [pixels - pixels // 2 for pixels in total]


def spans(kernel: tuple[int, ...], dilation: tuple[int, ...]) -> tuple[int, ...]:
    """The pixels that a window of ``kernel`` taps covers along each axis."""
    return tuple((taps - 1) * distance + 1 for taps, distance in zip(kernel, dilation, strict=True))
