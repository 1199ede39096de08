"""The operators of Larq Compute Engine: binary convolutions and poolings on packed words of 32 bits.

Bit 1 stands for -1. Channel ``c`` is bit ``c % 32`` of word ``c // 32``. Here the bits become float32 -1 and +1 in
standard operators, which the compiler recognises as binary by their values.

References:
    Bannink et al., "Larq Compute Engine", MLSys 2021, arXiv 2011.09398; its source, ``core/bconv2d``.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tflite

from ..node import Converter, Node
from ..values import CHANNELS_FIRST, Value
from .activation import clipped
from .convolutions import convolved
from .windows import padding, spans

WORD = 32
"""Bits of a word."""

_KIND = tflite.ActivationFunctionType


def _quantize(node: Node) -> Value:
    """The sign of a float32 number, +1 at 0 and for NaN; of a bool, +1 if it is true."""
    x = node.required(0)
    signs = [node.graph.constant(np.array(sign, np.float32)) for sign in (-1, 1)]
    if x.dtype == "bool":
        bits = node.graph.add("Where", x, *reversed(signs), order=x.order)
    else:
        zero = node.graph.constant(np.array(0, np.float32))
        below = node.graph.add("Less", node.floats(0), zero, order=x.order)
        bits = node.graph.add("Where", below, *signs, order=x.order)
    return replace(bits, packed=True)


def _dequantize(node: Node) -> Value:
    x = replace(_packed(node), packed=False)
    kind = node.computed[0].dtype
    if kind == "FLOAT32":
        return x
    if kind == "BOOL":
        return node.graph.add("Greater", x, node.graph.constant(np.array(0, np.float32)), order=x.order)
    raise node.error(f"unpacks bits to {kind}, where only FLOAT32 and BOOL are supported; convert it as float32")


def _bmaxpool(node: Node) -> Value:
    x = node.graph.reordered(_packed(node), CHANNELS_FIRST)
    kernel = node.positive("filter_height"), node.positive("filter_width")
    strides = node.positive("stride_height"), node.positive("stride_width")
    pads = padding(node, node.option("padding"), x.shape[1:3], kernel, strides)
    pooled = node.graph.add("MaxPool", x, order=CHANNELS_FIRST, kernel_shape=kernel, strides=strides, pads=pads)
    return replace(pooled, packed=True)


def _bconv2d(node: Node) -> Value:
    """``sum(signs)`` over each window, clamped by the activation, scaled and shifted; or compared with thresholds."""
    x = node.graph.reordered(_packed(node), CHANNELS_FIRST)
    channels = node.positive("channels_in")
    if channels != x.shape[3]:
        raise node.error(f"expects {channels} channels, but its input has {x.shape[3]}")
    weights, groups = _weights(node, channels)
    outputs, group_channels, *kernel = weights.shape
    dots = _convolve_signs(node, x, weights, groups)
    taps = group_channels * kernel[0] * kernel[1]
    kind = node.computed[0].dtype
    if kind == "INT32":
        return _compared(node, dots, taps, outputs)
    if kind != "FLOAT32":
        raise node.error(f"computes {kind}, where only FLOAT32 and packed bits are supported; convert it as float32")
    return _scaled(node, _clamped(node, dots), taps)


def _packed(node: Node) -> Value:
    x = node.required(0)
    if not x.packed:
        name = node.file_name_of(0)
        raise node.error(f"needs bits that LceQuantize or LceBconv2d packed, but {name!r} holds {x.dtype}")
    return x


def _weights(node: Node, channels: int) -> tuple[np.ndarray, int]:
    """Signs [outputs, channels of a group, rows, columns], and the number of groups."""
    packed = node.constant(1)
    if packed.dtype != np.int32 or packed.ndim != 4 or not packed.size:
        raise node.error(f"has {packed.dtype} weights of shape {list(packed.shape)}; expected int32 with four axes")
    outputs, *_, words = packed.shape
    all_words = -(-channels // WORD)
    groups = all_words // words if all_words % words == 0 else 0
    whole_words = groups == 1 or (groups > 1 and channels % groups == 0 and channels // groups == words * WORD)
    if not whole_words or outputs % groups:
        raise node.error(f"has weights of shape {list(packed.shape)}, which do not fit {channels} channels")
    little = np.ascontiguousarray(packed.astype("<i4")).view(np.uint8)
    bits = np.unpackbits(little, axis=-1, bitorder="little")[..., : channels // groups]
    return np.where(bits, np.float32(-1), np.float32(1)).transpose(0, 3, 1, 2), groups


def _convolve_signs(node: Node, x: Value, weights: np.ndarray, groups: int) -> Value:
    kernel = weights.shape[2:]
    strides = node.positive("stride_height"), node.positive("stride_width")
    dilation = node.positive("dilation_height_factor"), node.positive("dilation_width_factor")
    pads = padding(node, node.option("padding"), x.shape[1:3], spans(kernel, dilation), strides)
    value = node.option("pad_values")
    if value not in (0, 1):
        raise node.error(f"pads with {value}; expected 0 or 1")
    if value == 1 and any(pads):
        sides = node.graph.constant(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64))
        x = node.graph.add("Pad", x, sides, node.graph.constant(np.array(1, np.float32)), order=CHANNELS_FIRST)
        pads = [0] * 4
    return convolved(node, x, weights, strides=strides, dilations=dilation, pads=pads, group=groups)


def _clamped(node: Node, dots: Value) -> Value:
    kind = node.option("fused_activation_function")
    if kind == _KIND.NONE:
        return dots
    if kind == _KIND.RELU:
        return node.graph.add("Relu", dots, order=dots.order)
    if kind in (_KIND.RELU_N1_TO_1, _KIND.RELU6):
        return clipped(node, dots, *((-1, 1) if kind == _KIND.RELU_N1_TO_1 else (0, 6)))
    raise node.error(f"has the fused activation number {kind}, which is not supported")


def _scaled(node: Node, dots: Value, taps: int) -> Value:
    """``dots * scale + bias``, rounded as Larq rounds it: of the number ``n`` of differing signs, ``-2 * n`` is scaled.

    The other part, ``taps * scale``, is added to the bias before it is rounded. So the results are Larq's to the last
    bit, but for pixels at a border that is padded with 0, and for ARM, where Larq rounds once less.
    """
    outputs = dots.shape[3]
    scale, bias = node.per_channel(2, outputs), node.per_channel(3, outputs)
    with np.errstate(all="ignore"):  # a scale may be infinite
        shift = (bias.astype(np.float64) + taps * scale.astype(np.float64)).astype(np.float32)
    steps = (
        ("Sub", np.array(taps, np.float32), None),
        ("Mul", scale.reshape(1, outputs, 1, 1), node.name_of(2)),
        ("Add", shift.reshape(1, outputs, 1, 1), node.name_of(3)),
    )
    result = dots
    for op_type, numbers, name in steps:
        result = node.graph.add(op_type, result, node.graph.constant(numbers, name), order=CHANNELS_FIRST)
    return result


def _compared(node: Node, dots: Value, taps: int, outputs: int) -> Value:
    """Bits of thresholds on the number of differing signs: more than the threshold gives -1.

    Of ``taps`` signs, ``(taps - dot) / 2`` differ; the activation is part of the thresholds already.
    """
    thresholds = node.constant(4)
    if thresholds.dtype != np.int32 or thresholds.shape != (outputs,):
        raise node.error(
            f"needs {outputs} int32 thresholds, but has {thresholds.dtype} of shape {list(thresholds.shape)}"
        )
    least = np.clip(taps - 2 * thresholds.astype(np.int64), -taps - 1, taps + 1)  # the others are never reached
    bound = node.graph.constant(least.astype(np.float32).reshape(1, outputs, 1, 1), node.name_of(4))
    reached = node.graph.add("GreaterOrEqual", dots, bound, order=dots.order)
    signs = [node.graph.constant(np.array(sign, np.float32)) for sign in (1, -1)]
    return replace(node.graph.add("Where", reached, *signs, order=dots.order), packed=True)


CONVERTERS: dict[str, Converter] = {
    "LceBMaxPool2d": _bmaxpool,
    "LceBconv2d": _bconv2d,
    "LceDequantize": _dequantize,
    "LceQuantize": _quantize,
}
"""Converters by operator name."""
