"""The attributes that convolutions and poolings share, with explicit padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import relax

from .node import Node, rank_of, shape_of


def check_channels(node: Node, x: relax.Expr, weight_shape: tuple[int, ...], groups: int) -> None:
    """Checks that the input of a convolution fits its weights [outputs, inputs of a group, ...].

    Raises:
        ModelError: If not; the message has both shapes.
    """
    outputs, group_inputs = weight_shape[:2]
    if rank_of(x) != len(weight_shape) or shape_of(x)[1] != group_inputs * groups or outputs % groups:
        raise node.error(
            f"convolves an input of shape {list(shape_of(x))} with weights of shape {list(weight_shape)} in {groups} "
            f"group(s); expected {group_inputs * groups} input channels and output channels divisible by {groups}"
        )


@dataclass(frozen=True)
class Window:
    """A sliding window over the image axes.

    Attributes:
        kernel: Taps along each axis.
        strides: Steps along each axis.
        padding: Pixels before each axis, then pixels after each axis: (top, left, bottom, right) in two dimensions.
        dilation: Distances of the taps along each axis.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]

    @staticmethod
    def of(node: Node, kernel: Sequence[int]) -> Window:
        """Reads the attributes of a node whose first input is an NC... tensor, and resolves ``auto_pad``.

        Raises:
            ModelError: If the attributes do not fit the input or each other.
        """
        attributes, kernel = node.attributes, tuple(kernel)
        sizes = shape_of(node.required(0))[2:]
        rank = len(sizes)
        if len(kernel) != rank or min(kernel, default=0) < 1:
            raise node.error(
                f"has a kernel of shape {list(kernel)} on an input of shape {list(shape_of(node.required(0)))}; "
                f"expected {rank} positive numbers"
            )
        strides = tuple(attributes.get("strides", (1,) * rank))
        dilation = tuple(attributes.get("dilations", (1,) * rank))
        padding = tuple(attributes.get("pads", (0,) * 2 * rank))
        counts = (len(strides), len(dilation), len(padding))
        if counts != (rank, rank, 2 * rank) or min(*strides, *dilation) < 1 or min(padding) < 0:
            raise node.error(
                f"has strides {list(strides)}, dilations {list(dilation)} and pads {list(padding)}; "
                f"expected {rank} and {rank} positive numbers and {2 * rank} that are not negative"
            )
        mode = attributes.get("auto_pad", "NOTSET")
        if mode == "VALID":
            padding = (0,) * 2 * rank
        elif mode in ("SAME_UPPER", "SAME_LOWER"):
            totals = [
                max((-(-size // stride) - 1) * stride + (taps - 1) * step + 1 - size, 0)
                for size, stride, taps, step in zip(sizes, strides, kernel, dilation, strict=True)
            ]
            # an odd pixel goes to the end (UPPER) or to the beginning (LOWER)
            before = [(total + (mode == "SAME_LOWER")) // 2 for total in totals]
            padding = (*before, *(total - first for total, first in zip(totals, before, strict=True)))
        elif mode != "NOTSET":
            raise node.error(f"has the unknown auto_pad {mode!r}; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
        return Window(kernel, strides, padding, dilation)

    @property
    def spans(self) -> tuple[int, ...]:
        """Pixels from the first to the last tap along each axis."""
        return tuple((taps - 1) * step + 1 for taps, step in zip(self.kernel, self.dilation, strict=True))

    def outputs(self, sizes: Sequence[int], ceil_mode: bool = False) -> tuple[int, ...]:
        """The number of windows along each axis.

        With ``ceil_mode`` the last window may reach beyond the padding, but must not begin in the padding at the end.
        """
        rank, found = len(sizes), []
        for axis, (size, stride, span) in enumerate(zip(sizes, self.strides, self.spans, strict=True)):
            before, after = self.padding[axis], self.padding[axis + rank]
            room = size + before + after - span
            count = (-(-room // stride) if ceil_mode else room // stride) + 1
            if ceil_mode and (count - 1) * stride >= size + before:
                count -= 1
            found.append(count)
        return tuple(found)

    def two_dimensional(self) -> Window:
        """A window over one axis as one over rows of one pixel; any other as it is."""
        if len(self.kernel) != 1:
            return self
        (kernel,), (stride,), (before, after), (dilation,) = self.kernel, self.strides, self.padding, self.dilation
        return Window((1, kernel), (1, stride), (0, before, 0, after), (1, dilation))
