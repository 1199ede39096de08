"""onnxruntime's own operators on quantised values, in its domain ``com.microsoft``: its quantiser's QOperator format.

Each is composed such that its codes equal those of onnxruntime 1.31 on x86 with AVX2, which evaluates
some of them in another order than the standard operators would: a zero point may be added before the rounding, and
QLinearAdd uses fused multiply-adds.
"""

from __future__ import annotations

import math

import numpy as np
from tvm import relax

from sbnn_tvm.schedules.tir.functions import ULPS

from ..node import Converter, Node, Value, as_expr, dtype_of, rank_of, shape_of
from .equal_codes import equal_mean, equal_sum
from .integer_products import integer_product
from .pooling import averaged
from .quantization import (
    along,
    cast,
    centred,
    computed,
    dequantize_linear,
    dynamically_quantized,
    number,
    quantize_linear,
    saturated,
)

DOMAIN = "com.microsoft"
_CODES = 256


def qlinear_add(node: Node) -> relax.Expr:
    """``a * a_ratio + (b * b_ratio + shift)``, rounded; each product and sum is one fused multiply-add.

    Plain multiplications and additions in float32 take their place, which kernels compute, if they give the same code
    for each pair of codes.
    """
    dtype = _check_bytes(node, 0)
    a, b = node.aligned(0, rank_of(node.required(3))), node.aligned(3, rank_of(node.required(0)))
    a_scale, a_zero, b_scale, b_zero, scale, zero = (_parameter(node, index, dtype) for index in (1, 2, 4, 5, 6, 7))
    a_ratio, b_ratio = computed(node, "divide", a_scale, scale), computed(node, "divide", b_scale, scale)
    if _is_scalar_in_spans(shape_of(a), shape_of(b)):  # onnxruntime exchanges the operands
        a, a_ratio, a_zero, b, b_ratio, b_zero = b, b_ratio, b_zero, a, a_ratio, a_zero
    origin = _fused(node, a_ratio, a_zero, computed(node, "multiply", b_ratio, cast(node, b_zero, "float32")))
    shift = computed(node, "subtract", cast(node, zero, "float32"), origin)
    equal = equal_sum(dtype, a_ratio, b_ratio, shift)
    if equal is None:
        total = _fused(node, a, a_ratio, _fused(node, b, b_ratio, shift))
        return saturated(node, as_expr(total), None, dtype)
    left, right = (
        computed(node, "multiply", cast(node, each, "float32"), ratio) for each, ratio in ((a, a_ratio), (b, b_ratio))
    )
    total = computed(node, "add", left, computed(node, "add", right, equal))
    return saturated(node, as_expr(total), None, dtype)


def _is_scalar_in_spans(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether the first of two operands has one element in each run of elements that onnxruntime computes at once."""
    rank = max(len(shape), len(other))
    sizes = zip((1,) * (rank - len(shape)) + shape, (1,) * (rank - len(other)) + other, strict=True)
    last = next((pair for pair in reversed(list(sizes)) if pair != (1, 1)), (2, 2))
    return last[0] == 1


def _fused(node: Node, x: Value, factor: Value, addend: Value) -> Value:
    """``x * factor + addend`` with one rounding to float32: x has few bits, so that float64 holds product and sum."""
    x, factor, addend = (cast(node, value, "float64") for value in (x, factor, addend))
    return cast(node, computed(node, "add", computed(node, "multiply", x, factor), addend), "float32")


def qlinear_mul(node: Node) -> relax.Expr:
    """``(a - a_zero) * (b - b_zero) * ratio + zero``, rounded."""
    dtype = _check_bytes(node, 0)
    a_scale, a_zero, b_scale, b_zero, scale, zero = (_parameter(node, index, dtype) for index in (1, 2, 4, 5, 6, 7))
    a = cast(node, centred(node, node.aligned(0, rank_of(node.required(3))), a_zero), "float32")
    b = cast(node, centred(node, node.aligned(3, rank_of(node.required(0))), b_zero), "float32")
    ratio = computed(node, "divide", computed(node, "multiply", a_scale, b_scale), scale)
    value = computed(node, "multiply", computed(node, "multiply", a, b), ratio)  # the first product is exact
    return saturated(node, as_expr(computed(node, "add", value, cast(node, zero, "float32"))), None, dtype)


def qlinear_average_pool(node: Node) -> relax.Expr:
    """The average of dequantised numbers, divided by the scale; the zero point is added before the rounding."""
    dtype = _check_bytes(node, 0)
    pooled = node.emit(averaged(node, _dequantised(node, 0, 1, dtype)))
    value = computed(node, "divide", pooled, _parameter(node, 3, dtype))
    zero = cast(node, _parameter(node, 4, dtype), "float32")
    return saturated(node, as_expr(computed(node, "add", value, zero)), None, dtype)


def qlinear_global_average_pool(node: Node) -> relax.Expr:
    """The sum of a channel as an integer, scaled by ``x_scale / (y_scale * pixels)``, rounded.

    A mean, which kernels compute, takes the place of the sum if it gives the same code for each sum.
    """
    dtype = _check_bytes(node, 0)
    x_scale, x_zero, y_scale, y_zero = (_parameter(node, index, dtype) for index in (1, 2, 3, 4))
    x = centred(node, node.expr(0), x_zero)
    first = 1 if node.attributes.get("channels_last", 0) else 2
    axes = list(range(first, first + rank_of(x) - 2))
    pixels = np.array(math.prod(shape_of(x)[axis] for axis in axes), np.float32)
    factor = computed(node, "divide", x_scale, computed(node, "multiply", y_scale, pixels))
    equal = equal_mean(dtype, x_zero, int(pixels), factor, y_zero) if axes == [2, 3] else None
    if equal is not None:
        mean = node.emit(relax.op.nn.adaptive_avg_pool2d(as_expr(cast(node, x, "float32")), (1, 1)))
        return saturated(node, as_expr(computed(node, "multiply", mean, equal)), y_zero, dtype)
    total = cast(node, node.emit(relax.op.sum(x, axes, keepdims=True)), "float32")
    return saturated(node, as_expr(computed(node, "multiply", total, factor)), y_zero, dtype)


def qlinear_concat(node: Node) -> relax.Expr:
    """The inputs as codes of the output, one after the other."""
    count = len(node.inputs)
    if count < 5 or (count - 2) % 3:
        raise node.error(f"has {count} inputs; expected a scale and a zero point, and three for each tensor")
    dtype = dtype_of(node.required(1))
    parts = [_requantised(node, index, index + 1, 0, dtype) for index in range(2, count, 3)]
    return relax.op.concat(parts, node.attribute("axis"))


def qlinear_where(node: Node) -> relax.Expr:
    """``condition ? x : y``, both as codes of the output."""
    dtype = _check_bytes(node, 1)
    x, y = _requantised(node, 1, 2, 7, dtype), _requantised(node, 4, 5, 7, dtype)
    return relax.op.where(node.expr(0), x, y)


def _requantised(node: Node, index: int, scale: int, target: int, dtype: str) -> relax.Expr:
    """Input ``index``, whose scale is input ``scale``, as codes with the scale that is input ``target``."""
    value = computed(node, "divide", _dequantised(node, index, scale, dtype), _parameter(node, target, dtype))
    return node.emit(saturated(node, as_expr(value), _parameter(node, target + 1, dtype), dtype))


def qlinear_leaky_relu(node: Node) -> relax.Expr:
    """``x < 0 ? alpha * x : x`` of dequantised numbers."""
    dtype = _check_bytes(node, 0)
    y = node.emit(relax.op.nn.leakyrelu(_dequantised(node, 0, 1, dtype), node.attributes.get("alpha", 0.01)))
    value = computed(node, "divide", y, _parameter(node, 3, dtype))
    return saturated(node, as_expr(value), _parameter(node, 4, dtype), dtype)


def qlinear_sigmoid(node: Node) -> relax.Expr:
    """A table with the sigmoid of each code; the function itself where its error changes no code."""
    dtype = _check_bytes(node, 0)
    scale, zero = _constants(node, 1, dtype)
    y_scale, y_zero = _constants(node, 3, dtype)

    def quantised(value: np.ndarray) -> np.ndarray:
        return np.clip(np.rint(value.astype(np.float32) / y_scale) + np.float32(y_zero), *_limits(dtype)).astype(dtype)

    codes = np.arange(_limits(dtype)[0], _limits(dtype)[1] + 1, dtype=np.int32)
    with np.errstate(over="ignore"):
        exact = 1 / (1 + np.exp(-((codes - np.int32(zero)).astype(np.float32) * scale).astype(np.float64)))
    table, error = quantised(exact), (ULPS["sigmoid"] + 1) * float(np.finfo(np.float32).eps)
    if all(np.array_equal(quantised(exact * (1 + sign * error)), table) for sign in (-1, 1)):
        value = node.emit(relax.op.sigmoid(_dequantised(node, 0, 1, dtype)))
        quotient = computed(node, "divide", value, _parameter(node, 3, dtype))
        return saturated(node, as_expr(quotient), _parameter(node, 4, dtype), dtype)
    index = node.emit(
        relax.op.subtract(as_expr(cast(node, node.expr(0), "int32")), relax.const(int(codes[0]), "int32"))
    )
    return relax.op.take(as_expr(table), index, 0, mode="clip")


def qlinear_softmax(node: Node) -> relax.Expr:
    """Powers of e from a table, their sum along the axis, and ``power * (1 / y_scale) / sum``, rounded."""
    dtype, axis = _check_bytes(node, 0), node.attributes.get("axis", -1)
    x, shape = node.expr(0), shape_of(node.expr(0))
    if not -len(shape) <= axis < len(shape):
        raise node.error(f"has axis {axis}; its input has {len(shape)} dimensions")
    axis %= len(shape)
    axes = list(range(axis, len(shape))) if node.attribute("opset") < 13 else [axis]
    x_scale, (y_scale, y_zero) = np.float64(_constants(node, 1, dtype)[0]), _constants(node, 3, dtype)
    # The largest power is as far below the largest float32 as keeps the sum finite.
    count = math.prod(shape[each] for each in axes)
    room = max(0.0, math.log(np.float32(np.finfo(np.float32).max) / np.float32(count)) - 5) / x_scale
    powers = np.exp((np.arange(_CODES) - (_CODES - 1) + room) * x_scale).astype(np.float32)
    x = node.emit(relax.op.astype(x, "int32"))
    largest = node.emit(relax.op.max(x, axes, keepdims=True))
    below = node.emit(relax.op.subtract(x, largest))
    index = node.emit(relax.op.add(below, relax.const(_CODES - 1, "int32")))
    power = node.emit(relax.op.take(as_expr(powers), index, 0, mode="clip"))
    total = node.emit(relax.op.sum(power, axes, keepdims=True))
    scaled = node.emit(relax.op.multiply(power, relax.const(float(np.floor(np.float32(1) / y_scale)), "float32")))
    y = node.emit(relax.op.round(node.emit(relax.op.divide(scaled, total))))
    y = node.emit(relax.op.add(node.emit(relax.op.astype(y, "int32")), relax.const(int(y_zero), "int32")))
    return relax.op.astype(node.emit(relax.op.minimum(y, relax.const(_limits(dtype)[1], "int32"))), dtype)


def qgemm(node: Node) -> relax.Expr:
    """``alpha * a_scale * b_scale * ((a - a_zero) @ (b - b_zero) + c)``, quantised if there is an output scale."""
    a, b, c = node.expr(0), node.required(3), node.value(6)
    if node.attributes.get("transA", 0):
        a = node.emit(relax.op.permute_dims(a))
    if node.attributes.get("transB", 0):
        b = b.T if isinstance(b, np.ndarray) else node.emit(relax.op.permute_dims(b))
    b_scale, b_zero = (along(node, node.value(index), 1, 2) for index in (4, 5))
    total = node.emit(integer_product(node, a, b, number(node, node.value(2)), b_zero))
    if c is not None:
        total = node.emit(relax.op.add(total, node.aligned(6, 2)))
    alpha = np.array(node.attributes.get("alpha", 1.0), np.float32)
    scale = computed(node, "multiply", _required(number(node, node.value(1)), node, 1), alpha)
    factor = computed(node, "multiply", scale, _required(b_scale, node, 4))
    if node.value(7) is not None:
        factor = computed(node, "divide", factor, _required(number(node, node.value(7)), node, 7))
    y = computed(node, "multiply", cast(node, total, "float32"), factor)
    if node.value(8) is None:
        return as_expr(y)
    return saturated(node, as_expr(y), number(node, node.value(8)), dtype_of(node.required(8)))


def matmul_integer_to_float(node: Node) -> relax.Expr:
    """``(a - a_zero) @ (b - b_zero) * (a_scale * b_scale) + bias``."""
    a_zero = number(node, node.value(4))
    return _product(node, node.expr(0), _required(number(node, node.value(2)), node, 2), a_zero, 3, 5, 6)


def dynamic_quantize_matmul(node: Node) -> relax.Expr:
    """The same with an ``a`` that is quantised by its range at run time."""
    codes, scale, zero = dynamically_quantized(node, node.expr(0))
    return _product(node, codes, scale, zero, 2, 3, 4)


def matmul_n_bits(node: Node) -> relax.Expr:
    """``a @ weights.T + bias``: weights of 2, 4 or 8 bits, with a scale and a zero point for each block of a row.

    A row of ``K`` weights is divided into blocks of ``block_size``, the last of which is filled up. Bytes hold the
    first weight in their lowest bits.
    """
    columns, rows, bits, block = (node.attribute(name) for name in ("K", "N", "bits", "block_size"))
    node.ignore("accuracy_level", "weight_prepacked")
    if bits not in (2, 4, 8) or block < 1 or node.value(4) is not None:
        raise node.error("is supported with 2, 4 or 8 bits, whole blocks and no group indices only")
    blocks = -(-columns // block)
    packed, scales = node.constant(1), node.constant(2)
    if packed.dtype != np.uint8 or packed.size * 8 != rows * blocks * block * bits or scales.size != rows * blocks:
        raise node.error(
            f"has weights of shape {list(packed.shape)} and {scales.size} scales; expected {rows} rows of {blocks} "
            f"blocks of {block} numbers of {bits} bits"
        )
    codes = _unpacked(packed.reshape(rows, -1), bits).reshape(rows, blocks, block)
    middle = np.array(1 << (bits - 1), np.float32)
    zeros = middle if node.value(3) is None else _zero_points(node, rows, blocks, bits)
    weights = (codes.astype(np.float32) - zeros) * scales.astype(np.float32).reshape(rows, blocks, 1)
    matrix = np.ascontiguousarray(weights.reshape(rows, -1)[:, :columns].T)
    y = node.emit(relax.op.matmul(node.expr(0), as_expr(matrix)))
    return y if node.value(5) is None else relax.op.add(y, node.aligned(5, rank_of(y)))


def _zero_points(node: Node, rows: int, blocks: int, bits: int) -> np.ndarray:
    """The zero points of blocks, float32 [rows, blocks, 1]; as bytes they are packed by rows."""
    given = node.constant(3)
    if given.dtype == np.uint8 and given.size == rows * -(-blocks * bits // 8):
        given = _unpacked(given.reshape(rows, -1), bits)[:, :blocks]
    if given.size != rows * blocks:
        raise node.error(f"has {given.size} zero points; expected {blocks} for each of {rows} rows")
    return given.reshape(rows, blocks, 1).astype(np.float32)


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """The numbers of a few bits in bytes [rows, n], lowest bits first: uint8 [rows, 8 * n / bits]."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    return (packed[:, :, None] >> shifts & np.uint8((1 << bits) - 1)).reshape(len(packed), -1)


def _product(
    node: Node, a: relax.Expr, a_scale: Value, a_zero: Value | None, b_scale: int, b_zero: int, bias: int
) -> relax.Expr:
    """The product with input 1; scale, zero point and bias of it are inputs with the given numbers."""
    scale = _required(_of_columns(node, node.value(b_scale)), node, b_scale)
    total = node.emit(integer_product(node, a, node.required(1), a_zero, _of_columns(node, node.value(b_zero))))
    factor = computed(node, "multiply", a_scale, scale)
    y = computed(node, "multiply", cast(node, total, "float32"), factor)
    return as_expr(y) if node.value(bias) is None else relax.op.add(as_expr(y), node.aligned(bias, rank_of(y)))


def _of_columns(node: Node, value: Value | None) -> Value | None:
    """One number, or one per column, which broadcasts as it is."""
    return number(node, value) if value is not None and math.prod(shape_of(value)) == 1 else value


def _dequantised(node: Node, index: int, scale: int, dtype: str) -> relax.Expr:
    """``(input - zero_point) * scale``: input ``index``, and inputs ``scale`` and ``scale + 1``."""
    centre = cast(node, centred(node, node.required(index), _parameter(node, scale + 1, dtype)), "float32")
    return as_expr(computed(node, "multiply", centre, _parameter(node, scale, dtype)))


def _parameter(node: Node, index: int, dtype: str) -> Value:
    """A scale or zero point, which is one number; an omitted zero point is 0."""
    value = number(node, node.value(index))
    return np.zeros((), dtype) if value is None else value


def _constants(node: Node, index: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """A scale and, next to it, a zero point, which must be constants."""
    scale, zero = (_parameter(node, each, dtype) for each in (index, index + 1))
    if not isinstance(scale, np.ndarray) or not isinstance(zero, np.ndarray):
        raise node.error("needs constant scales and zero points, but they are computed at run time")
    return scale, zero


def _required(value: Value | None, node: Node, index: int) -> Value:
    if value is None:
        raise node.error(f"lacks input {index}")
    return value


def _limits(dtype: str) -> tuple[int, int]:
    return int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)


def _check_bytes(node: Node, index: int) -> str:
    """The type of an input, which must be int8 or uint8."""
    dtype = dtype_of(node.required(index))
    if dtype not in ("int8", "uint8"):
        raise node.error(f"computes with {dtype}, which is not supported; supported are int8 and uint8")
    return dtype


CONVERTERS: dict[str, Converter] = {
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeMatMul": dynamic_quantize_matmul,
    "MatMulIntegerToFloat": matmul_integer_to_float,
    "MatMulNBits": matmul_n_bits,
    "QGemm": qgemm,
    "QLinearAdd": qlinear_add,
    "QLinearAveragePool": qlinear_average_pool,
    "QLinearConcat": qlinear_concat,
    "QLinearGlobalAveragePool": qlinear_global_average_pool,
    "QLinearLeakyRelu": qlinear_leaky_relu,
    "QLinearMul": qlinear_mul,
    "QLinearSigmoid": qlinear_sigmoid,
    "QLinearSoftmax": qlinear_softmax,
    "QLinearWhere": qlinear_where,
    "QuantizeLinear": quantize_linear,
}
"""Converters by operator name, for the domain of onnxruntime's own operators."""
