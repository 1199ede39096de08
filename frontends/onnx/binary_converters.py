"""Converters of the ai.sbnn operators to ordinary Relax operators.

docs/ai.sbnn.md is the specification. The float32 operations have the order of the function bodies in opset.py, so the
imported module computes the same numbers as onnxruntime.
"""

from __future__ import annotations

import numpy as np
from tvm import relax

from sbnn_tvm.algebra.coding import SparseArray
from sbnn_tvm.algebra.domain import MOST_BITS

from . import decoder_operators, opset
from .node import Converter, Node, aligned, as_expr, per_channel, rank_of, shape_of
from .window_attributes import Window, check_channels


def binarize(node: Node) -> relax.Expr:
    """``hi if x > threshold else lo``."""
    x = node.expr(0)
    rank = rank_of(x)
    low, high = (np.float32(node.attributes.get(name, value)) for name, value in (("lo", -1.0), ("hi", 1.0)))
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise node.error(f"has lo {low:g} and hi {high:g}; expected two finite values lo < hi")
    above = node.emit(relax.op.greater(x, node.aligned(1, rank)))
    return relax.op.where(above, aligned(np.array(high), rank), aligned(np.array(low), rank))


def quantize(node: Node) -> relax.Expr:
    """``lo + step * q``, where q is the number of thresholds, along their last axis, that x exceeds."""
    x, thresholds = node.expr(0), node.constant(1)
    low, step = (np.float32(node.attributes.get(name, value)) for name, value in (("lo", 0.0), ("step", 1.0)))
    count, shape = thresholds.shape[-1] if thresholds.ndim else 0, shape_of(x)
    bits = count.bit_length()
    if thresholds.dtype != np.float32 or count != (1 << bits) - 1 or not 1 <= bits <= MOST_BITS:
        raise node.error(
            f"has thresholds that are {thresholds.dtype} {list(thresholds.shape)}; "
            f"expected float32 with 1, 3, 7 or 15 of them along the last axis"
        )
    if not (np.diff(thresholds, axis=-1) >= 0).all() or np.isnan(thresholds).any():
        raise node.error("has thresholds that do not ascend along the last axis")
    if not (np.isfinite(low) and step > 0 and np.isfinite(low + step * np.float32(count))):
        raise node.error(f"has lo {low:g} and step {step:g}; expected a finite lo and a positive, finite step")
    if len(shape) < thresholds.ndim - 1 or any(
        size not in (1, extent) for size, extent in zip(thresholds.shape[-2::-1], shape[::-1], strict=False)
    ):
        raise node.error(f"has thresholds {list(thresholds.shape)} that do not broadcast to its input {list(shape)}")
    if count == 1:
        above = node.emit(relax.op.greater(x, aligned(thresholds[..., 0], len(shape))))
        return relax.op.where(above, aligned(np.array(step + low), len(shape)), aligned(np.array(low), len(shape)))
    column = node.emit(relax.op.expand_dims(x, -1))
    above = node.emit(relax.op.greater(column, aligned(thresholds, len(shape) + 1)))
    counted = node.emit(relax.op.where(above, relax.const(np.float32(1)), relax.const(np.float32(0))))
    y = relax.op.sum(counted, axis=-1)
    if step != 1:
        y = relax.op.multiply(node.emit(y), relax.const(step))
    return relax.op.add(node.emit(y), relax.const(low)) if low else y


def binary_conv2d(node: Node) -> relax.Expr:
    """``scale * conv(x, signs) + offset * conv(x, ones)``, for weights ``scale * sign + offset``."""
    attributes = node.attributes
    x = node.expr(0)
    shape = tuple(node.attribute("weight_shape"))
    groups = attributes.get("group", 1)
    if len(shape) != 4 or min(shape) < 1 or groups < 1:
        raise node.error(
            f"has weight_shape {list(shape)} and group {groups}; expected 4 positive numbers and a positive group"
        )
    signs = _signs(node, shape)
    scale, offset = _affine(node, shape[0])
    check_channels(node, x, shape, groups)
    window = Window.of(node, shape[2:])
    padding = window.padding
    pad_value = attributes.get("pad_value", 0)
    if pad_value not in (-1, 0, 1):
        raise node.error(f"has pad_value {pad_value}; expected -1, 0 or 1")
    if pad_value and any(padding):
        top, left, bottom, right = padding
        widths = [0, 0, 0, 0, top, bottom, left, right]
        x = node.emit(relax.op.nn.pad(x, widths, pad_mode="constant", pad_value=float(pad_value)))
        padding = (0, 0, 0, 0)

    def convolve(kernel: np.ndarray) -> relax.Expr:
        return relax.op.nn.conv2d(x, as_expr(kernel), window.strides, padding, window.dilation, groups)

    y = convolve(signs)
    if (scale != 1).any():
        y = relax.op.multiply(node.emit(y), per_channel(scale, 4))
    if not offset.any():
        return y
    y = node.emit(y)
    # without groups, all output channels share one window sum
    window_sum = node.emit(convolve(np.ones((1 if groups == 1 else shape[0], *shape[1:]), np.float32)))
    return relax.op.add(y, node.emit(relax.op.multiply(window_sum, per_channel(offset, 4))))


def binary_linear(node: Node) -> relax.Expr:
    """``scale * (x @ signs) + offset * sum(x)``, for weights ``scale * sign + offset``."""
    x = node.expr(0)
    features = node.attribute("in_features")
    rows = node.constant(1).shape[0]
    if shape_of(x)[-1] != features:
        raise node.error(f"has in_features {features}, but an input of shape {list(shape_of(x))}")
    signs = _signs(node, (rows, features))
    scale, offset = _affine(node, rows)
    rank = rank_of(x)
    y = relax.op.matmul(x, as_expr(signs.T))
    if (scale != 1).any():
        y = relax.op.multiply(node.emit(y), aligned(scale, rank))
    if not offset.any():
        return y
    y = node.emit(y)
    row_sum = node.emit(relax.op.sum(x, axis=-1, keepdims=True))
    return relax.op.add(y, node.emit(relax.op.multiply(row_sum, aligned(offset, rank))))


def decode(node: Node) -> relax.Expr:
    """The decoded weights, a constant."""
    operator = node.proto.op_type
    inputs = [node.constant(index) for index in range(len(opset.function(operator).input))]
    try:
        coding = decoder_operators.coding_of(operator, inputs, node.attributes)
        values = coding.decode()
        return as_expr(values if isinstance(coding, SparseArray) else opset.pack_bits(values))
    except KeyError as error:
        raise node.error(f"lacks the attribute {error}") from None
    except ValueError as error:
        raise node.error(f"has wrong weights: {error}") from None


def _signs(node: Node, shape: tuple[int, ...]) -> np.ndarray:
    """The packed weights as float32 -1 and +1."""
    try:
        bits = opset.unpack_bits(node.constant(1), shape)
    except ValueError as error:
        raise node.error(f"has wrong weights: {error}") from error
    signs = bits.astype(np.float32)
    signs *= 2
    signs -= 1
    return signs


def _affine(node: Node, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Scale and offset, float32 [channels] each."""
    scale, offset = node.constant(2), node.constant(3)
    for name, value in (("scale", scale), ("offset", offset)):
        if value.shape != (channels,) or value.dtype != np.float32 or not np.isfinite(value).all():
            raise node.error(
                f"has {name} that is {value.dtype} {list(value.shape)}; expected float32 [{channels}], all finite"
            )
    return scale, offset


BINARY_CONVERTERS: dict[str, Converter] = {
    "Binarize": binarize,
    "Quantize": quantize,
    "BinaryConv2d": binary_conv2d,
    "BinaryLinear": binary_linear,
    **dict.fromkeys(decoder_operators.DECODER_OPERATORS, decode),
}
"""Converters by operator name, for the ai.sbnn domain, version 1."""
