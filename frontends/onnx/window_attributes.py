"""The attributes that convolutions and poolings share, with explicit padding."""

from __future__ import annotations

from dataclasses import dataclass

from tvm import relax

from .node import Node, rank_of, shape_of


def check_channels(node: Node, x: relax.Expr, weight_shape: tuple[int, ...], groups: int) -> None:
    """Checks that the input of a 2-D convolution fits its OIHW weights.

    Raises:
        ModelError: If not; the message has both shapes.
    """
    outputs, group_inputs = weight_shape[:2]
    if rank_of(x) != 4 or shape_of(x)[1] != group_inputs * groups or outputs % groups:
        raise node.error(
            f"convolves an input of shape {list(shape_of(x))} with weights of shape {list(weight_shape)} in {groups} "
            f"group(s); expected {group_inputs * groups} input channels and output channels divisible by {groups}"
        )


@dataclass(frozen=True)
class Window2d:
    """A two-dimensional sliding window.

    Attributes:
        kernel: Taps (vertical, horizontal).
        strides: (vertical, horizontal).
        padding: (top, left, bottom, right), in pixels.
        dilation: (vertical, horizontal).
    """

    kernel: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: tuple[int, int]

    @staticmethod
    def of(node: Node, kernel: tuple[int, int]) -> Window2d:
        """Reads the attributes of a node whose first input is an NCHW tensor, and resolves ``auto_pad``."""
        attributes = node.attributes
        strides = tuple(attributes.get("strides", (1, 1)))
        dilation = tuple(attributes.get("dilations", (1, 1)))
        mode = attributes.get("auto_pad", "NOTSET")
        if mode == "NOTSET":
            padding = tuple(attributes.get("pads", (0, 0, 0, 0)))
        elif mode == "VALID":
            padding = (0, 0, 0, 0)
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            sizes = shape_of(node.required(0))[2:]
            totals = [
                max((-(-size // stride) - 1) * stride + (taps - 1) * step + 1 - size, 0)
                for size, stride, taps, step in zip(sizes, strides, kernel, dilation, strict=True)
            ]
            # an odd pixel goes to the end (UPPER) or to the beginning (LOWER)
            before = [(total + (mode == "SAME_LOWER")) // 2 for total in totals]
            padding = (*before, totals[0] - before[0], totals[1] - before[1])
        else:
            raise node.error(f"has the unknown auto_pad {mode!r}; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
        counts = (len(strides), len(dilation), len(padding))
        if counts != (2, 2, 4) or min(*strides, *dilation) < 1 or min(padding) < 0:
            raise node.error(
                f"has strides {list(strides)}, dilations {list(dilation)} and pads {list(padding)}; "
                "expected 2 and 2 positive numbers and 4 that are not negative"
            )
        return Window2d((kernel[0], kernel[1]), strides, padding, dilation)
