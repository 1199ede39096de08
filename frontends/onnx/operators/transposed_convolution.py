"""Transposed convolution, as ordinary convolutions whose results are interleaved.

With stride s, the outputs at the positions r, r + s, r + 2s ... (phase r) are a convolution of the input with every
s-th weight, in reverse order. So no multiplication with an inserted zero remains, and the kernels for convolutions do
the work. A phase has a convolution of its own with exactly its weights: two-valued ones stay so. Phases that read the
same pixels, and all phases of few channels, are the channels of one convolution; the latter has zeros where phases have
fewer weights than others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product
from math import gcd, prod

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, as_expr, rank_of, shape_of
from ..window_attributes import Window
from .convolutions import biased, rows, slide
from .quantization import known


def conv_transpose(node: Node) -> relax.Expr:
    """ConvTranspose over one to three axes."""
    x, groups = node.expr(0), node.attributes.get("group", 1)
    weight, bias = (None if value is None else known(node, value) for value in (node.required(1), node.value(2)))
    assert weight is not None
    shape, inputs = shape_of(weight), shape_of(x)
    if not 3 <= rank_of(x) <= 5 or len(shape) != len(inputs) or shape[0] != inputs[1] or inputs[1] % groups:
        raise node.error(
            f"convolves an input of shape {list(inputs)} with weights of shape {list(shape)} in {groups} group(s); "
            f"expected 3 to 5 dimensions, and weights for each input channel"
        )
    kernel = tuple(node.attributes.get("kernel_shape", shape[2:]))
    if kernel != shape[2:]:
        raise node.error(f"has kernel_shape {list(kernel)}, but weights of shape {list(shape)}")
    strides, dilations, before, outputs = _geometry(node, inputs[2:], kernel)
    axes = len(kernel)
    if axes == 1:  # one row of a map
        x, weight = as_expr(rows(node, x)), rows(node, weight)
        strides, dilations, before, outputs = (1, *strides), (1, *dilations), [0, *before], [1, *outputs]
    phases = None
    if isinstance(weight, np.ndarray) and len(strides) == 2 and shape[1] * groups >= _FEWEST_CHANNELS:
        phases = _Phases.of(weight.shape[2:], shape_of(x)[2:], strides, dilations, before, outputs)
    if isinstance(weight, np.ndarray) and phases is not None:
        y = _cropped(node, _of_phases(node, x, weight, bias, groups, phases), [0, 0], outputs)
        return y if len(kernel) == 2 else relax.op.reshape(node.emit(y), (inputs[0], shape[1] * groups, outputs[-1]))
    weight, taps = _phase_weights(node, weight, groups, strides, dilations)
    axes = len(taps)
    padding = tuple(count - 1 for count in taps) * 2
    window = Window(taps, (1,) * axes, padding, (1,) * axes)
    y = node.emit(slide(node, x, weight, window, groups))
    computed = [size * stride for size, stride in zip(shape_of(y)[2:], strides, strict=True)]
    early = all(start + count <= size for start, count, size in zip(before, outputs, computed, strict=True))
    if isinstance(bias, np.ndarray) and early:  # then it joins the convolution
        of_phases = np.repeat(bias.reshape(groups, 1, -1), prod(strides), axis=1)
        y, bias = node.emit(biased(node, y, of_phases.reshape(-1))), None
    y = _interleaved(node, y, groups, shape[1], strides)
    y = _cropped(node, y, before, outputs)
    if len(kernel) < axes:
        y = relax.op.reshape(node.emit(y), (inputs[0], shape[1] * groups, outputs[-1]))
    return biased(node, y, bias)


_FEWEST_CHANNELS = 16
"""With fewer output channels, one convolution of all phases uses vectors better, in spite of zeros."""


@dataclass(frozen=True)
class _Axis:
    """One phase along one axis: output q of it is the sum of ``weight[taps[i]] * x[q + first + i * step]``.

    Attributes:
        taps: The weights, in the order of the pixels that they multiply.
        first: The first pixel for output 0.
        step: Distance of pixels.
    """

    taps: tuple[int, ...]
    first: int
    step: int


@dataclass(frozen=True)
class _Phases:
    """The phases of a transposed convolution over two axes.

    Attributes:
        axes: The phases along each axis.
        sizes: Number of outputs of a phase along each axis.
    """

    axes: tuple[tuple[_Axis, ...], ...]
    sizes: tuple[int, ...]

    @classmethod
    def of(
        cls,
        kernel: Sequence[int],
        sizes: Sequence[int],
        strides: Sequence[int],
        dilations: Sequence[int],
        before: Sequence[int],
        outputs: Sequence[int],
    ) -> _Phases | None:
        """The phases; None if one has no weights, or reads less than the whole image."""
        axes = []
        counts = tuple(-(-output // stride) for output, stride in zip(outputs, strides, strict=True))
        for along, (taps, stride, step) in enumerate(zip(kernel, strides, dilations, strict=True)):
            phases = []
            for phase in range(stride):
                shift = phase + before[along]
                own = [tap for tap in reversed(range(taps)) if (shift - tap * step) % stride == 0]
                if not own:
                    return None
                first, last = ((shift - tap * step) // stride for tap in (own[0], own[-1]))
                if first > 0 or counts[along] - 1 + last < sizes[along] - 1:
                    return None
                phases.append(_Axis(tuple(own), first, step // gcd(step, stride)))
            axes.append(tuple(phases))
        return cls(tuple(axes), counts)

    @property
    def alike(self) -> bool:
        """Whether all phases multiply the same pixels."""
        return all(len({(len(each.taps), each.first, each.step) for each in axis}) == 1 for axis in self.axes)

    def window(self, phase: tuple[_Axis, _Axis], sizes: Sequence[int]) -> Window:
        """The window of a phase on images of these sizes."""
        starts = [-each.first for each in phase]
        ends = [
            count - size + (len(each.taps) - 1) * each.step + each.first
            for each, count, size in zip(phase, self.sizes, sizes, strict=True)
        ]
        taps = len(phase[0].taps), len(phase[1].taps)
        return Window(taps, (1, 1), (*starts, *ends), (phase[0].step, phase[1].step))


def _of_phases(
    node: Node, x: relax.Expr, weight: np.ndarray, bias: Value | None, groups: int, phases: _Phases
) -> relax.Var:
    """The interleaved phases [N, C, ...], of weights [inputs, outputs of a group, rows, columns]."""
    inputs, channels = weight.shape[0], weight.shape[1] * groups
    grouped = weight.reshape(groups, inputs // groups, *weight.shape[1:]).swapaxes(1, 2)
    weight = grouped.reshape(channels, inputs // groups, *weight.shape[2:])
    order = list(product(phases.axes[0], phases.axes[1]))
    weights = [np.ascontiguousarray(weight[:, :, list(rows.taps)][..., list(columns.taps)]) for rows, columns in order]
    if phases.alike and groups == 1:
        weights, order = [np.concatenate(weights)], order[:1]
    parts = []
    for each, phase in zip(weights, order, strict=True):
        y = node.emit(slide(node, x, each, phases.window(phase, shape_of(x)[2:]), groups))
        if isinstance(bias, np.ndarray):
            y = node.emit(biased(node, y, np.tile(bias, len(each) // channels)))
        parts.append(y)
    y = parts[0] if len(parts) == 1 else node.emit(relax.op.concat(parts, 1))
    y = _interleaved(node, y, 1, channels, [len(axis) for axis in phases.axes])
    return y if isinstance(bias, np.ndarray) else node.emit(biased(node, y, bias))


def _geometry(
    node: Node, sizes: Sequence[int], kernel: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...], list[int], list[int]]:
    """Strides, dilations, the pixels to drop before each axis, and the size of the output along each axis."""
    attributes, axes = node.attributes, len(sizes)
    strides, dilations = (tuple(attributes.get(name, (1,) * axes)) for name in ("strides", "dilations"))
    extra = tuple(attributes.get("output_padding", (0,) * axes))
    pads = tuple(attributes.get("pads", (0,) * 2 * axes))
    wanted = attributes.get("output_shape")
    mode = attributes.get("auto_pad", "NOTSET")
    counts = (len(strides), len(dilations), len(extra), len(pads), len(wanted or kernel))
    if counts != (axes, axes, axes, 2 * axes, axes) or min(*strides, *dilations) < 1 or min(*extra, *pads) < 0:
        raise node.error(
            f"has strides {list(strides)}, dilations {list(dilations)}, output_padding {list(extra)}, "
            f"pads {list(pads)} and output_shape {wanted}; expected {axes} numbers each, and {2 * axes} pads, "
            "none of them negative"
        )
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        raise node.error(f"has the unknown auto_pad {mode!r}; expected NOTSET, VALID, SAME_UPPER or SAME_LOWER")
    before, outputs = [], []
    for axis, size in enumerate(sizes):
        full = strides[axis] * (size - 1) + extra[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        if wanted is not None or mode.startswith("SAME"):
            output = size * strides[axis] if wanted is None else wanted[axis]
            total = full - output
            # an odd pixel is dropped at the end (UPPER), or at the beginning
            first = total // 2 if mode == "SAME_UPPER" else total - total // 2
            before.append(max(first, 0) if total > 0 else 0)
            outputs.append(output)
        else:
            start, end = (0, 0) if mode == "VALID" else (pads[axis], pads[axis + axes])
            before.append(start)
            outputs.append(full - start - end)
    if min(outputs) < 1:
        raise node.error(f"has an output of {outputs} pixels; expected at least 1, from a larger input or less padding")
    return strides, dilations, before, outputs


def _phase_weights(
    node: Node, weight: Value, groups: int, strides: Sequence[int], dilations: Sequence[int]
) -> tuple[Value, tuple[int, ...]]:
    """Weights [inputs, outputs of a group, ...] as those of a convolution: [phases * outputs, inputs of a group, ...].

    Also returns the number of taps along each axis.
    """
    shape = shape_of(weight)
    inputs, outputs, axes = shape[0], shape[1], len(strides)
    # dilation: zeros between the taps; then zeros at the end, up to a multiple of the stride
    spread = [size for kernel in shape[2:] for size in (kernel, 1)]
    weight = _reshape(node, weight, (inputs, outputs, *spread))
    weight = _pad(node, weight, [0, 0, *chain.from_iterable((0, step - 1) for step in dilations)])
    sizes = [kernel * step for kernel, step in zip(shape[2:], dilations, strict=True)]
    weight = _reshape(node, weight, (inputs, outputs, *sizes))
    taps = tuple(-(-size // stride) for size, stride in zip(sizes, strides, strict=True))
    ends = [count * stride - size for count, stride, size in zip(taps, strides, sizes, strict=True)]
    weight = _pad(node, weight, [0, 0, *ends])
    split = chain.from_iterable(zip(taps, strides, strict=True))
    weight = _reshape(node, weight, (groups, inputs // groups, outputs, *split))
    positions, phases = range(3, 3 + 2 * axes, 2), range(4, 4 + 2 * axes, 2)
    weight = _transpose(node, weight, (0, *phases, 2, 1, *positions))
    weight = _reshape(node, weight, (groups * outputs * prod(strides), inputs // groups, *taps))
    return _flip(node, weight, range(2, 2 + axes)), taps


def _interleaved(node: Node, y: relax.Var, groups: int, channels: int, strides: Sequence[int]) -> relax.Var:
    """Phases that are channels [N, groups * phases * channels of a group, ...] to pixels [N, C, ...].

    The channels of a phase are neighbours, so that a copy with channels last moves all of them at once.
    """
    axes = len(strides)
    if prod(strides) == 1:
        return y
    batch, _, *sizes = shape_of(y)
    y = node.emit(relax.op.reshape(y, (batch, groups, *strides, channels, *sizes)))
    order = chain.from_iterable((3 + axes + axis, 2 + axis) for axis in range(axes))
    y = node.emit(relax.op.permute_dims(y, [0, 1, 2 + axes, *order]))
    sizes = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    return node.emit(relax.op.reshape(y, (batch, groups * channels, *sizes)))


def _cropped(node: Node, y: relax.Var, before: Sequence[int], outputs: Sequence[int]) -> relax.Expr:
    """The pixels from ``before`` on; zeros where the input has no influence."""
    sizes = shape_of(y)[2:]
    ends = [min(start + count, size) for start, count, size in zip(before, outputs, sizes, strict=True)]
    axes = [
        axis
        for axis, (start, end, size) in enumerate(zip(before, ends, sizes, strict=True))
        if (start, end) != (0, size)
    ]
    if axes:
        y = node.emit(
            relax.op.strided_slice(
                y, [axis + 2 for axis in axes], [before[axis] for axis in axes], [ends[axis] for axis in axes]
            )
        )
    missing = [count - size for count, size in zip(outputs, shape_of(y)[2:], strict=True)]
    if not any(missing):
        return y
    return node.emit(relax.op.nn.pad(y, [0, 0, 0, 0, *chain.from_iterable((0, count) for count in missing)]))


def _reshape(node: Node, value: Value, shape: Sequence[int]) -> Value:
    if isinstance(value, np.ndarray):
        return value.reshape(shape)
    return node.emit(relax.op.reshape(value, shape))


def _pad(node: Node, value: Value, ends: Sequence[int]) -> Value:
    """Zeros at the ends; the shape may have pairs of axes, of which the second is padded."""
    rank = rank_of(value)
    ends = [*ends, *(0,) * (rank - len(ends))]
    if not any(ends):
        return value
    if isinstance(value, np.ndarray):
        return np.pad(value, [(0, end) for end in ends])
    return node.emit(relax.op.nn.pad(value, list(chain.from_iterable((0, end) for end in ends))))


def _transpose(node: Node, value: Value, order: Sequence[int]) -> Value:
    if isinstance(value, np.ndarray):
        return value.transpose(order)
    return node.emit(relax.op.permute_dims(value, list(order)))


def _flip(node: Node, value: Value, axes: Sequence[int]) -> Value:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(np.flip(value, tuple(axes)))
    for axis in axes:
        value = node.emit(relax.op.flip(value, axis))
    return value


CONVERTERS: dict[str, Converter] = {
    "ConvTranspose": conv_transpose,
}
