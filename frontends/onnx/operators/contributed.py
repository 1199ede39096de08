"""onnxruntime's own operators on quantised values, in its domain ``com.microsoft``: its quantiser's QOperator format.

Each is composed such that its codes equal those of onnxruntime 1.31 on x86 with AVX2, which evaluates
some of them in another order than the standard operators would: a zero point may be added before the rounding, and
QLinearAdd uses fused multiply-adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from tvm import relax

from ..node import Converter, Node, Value, as_expr, dtype_of, rank_of, shape_of
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
    """``a * a_ratio + (b * b_ratio + shift)``, rounded; each product and sum is one fused multiply-add."""
    dtype = _check_bytes(node, 0)
    a, b = node.aligned(0, rank_of(node.required(3))), node.aligned(3, rank_of(node.required(0)))
    a_scale, a_zero, b_scale, b_zero, scale, zero = (_parameter(node, index, dtype) for index in (1, 2, 4, 5, 6, 7))
    a_ratio, b_ratio = computed(node, "divide", a_scale, scale), computed(node, "divide", b_scale, scale)
    if _is_scalar_in_spans(shape_of(a), shape_of(b)):  # onnxruntime exchanges the operands
        a, a_ratio, a_zero, b, b_ratio, b_zero = b, b_ratio, b_zero, a, a_ratio, a_zero
    origin = _fused(node, a_ratio, a_zero, computed(node, "multiply", b_ratio, cast(node, b_zero, "float32")))
    shift = computed(node, "subtract", cast(node, zero, "float32"), origin)
    total = _fused(node, a, a_ratio, _fused(node, b, b_ratio, shift))
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
    a = centred(node, node.aligned(0, rank_of(node.required(3))), a_zero)
    b = centred(node, node.aligned(3, rank_of(node.required(0))), b_zero)
    ratio = computed(node, "divide", computed(node, "multiply", a_scale, b_scale), scale)
    product = cast(node, node.emit(relax.op.multiply(a, b)), "float32")
    value = computed(node, "multiply", product, ratio)
    return saturated(node, as_expr(computed(node, "add", value, cast(node, zero, "float32"))), None, dtype)


def qlinear_average_pool(node: Node) -> relax.Expr:
    """The average of dequantised numbers, divided by the scale; the zero point is added before the rounding."""
    dtype = _check_bytes(node, 0)
    pooled = node.emit(averaged(node, _dequantised(node, 0, 1, dtype)))
    value = computed(node, "divide", pooled, _parameter(node, 3, dtype))
    zero = cast(node, _parameter(node, 4, dtype), "float32")
    return saturated(node, as_expr(computed(node, "add", value, zero)), None, dtype)


def qlinear_global_average_pool(node: Node) -> relax.Expr:
    """The sum of a channel as an integer, scaled by ``x_scale / (y_scale * pixels)``, rounded."""
    dtype = _check_bytes(node, 0)
    x_scale, x_zero, y_scale, y_zero = (_parameter(node, index, dtype) for index in (1, 2, 3, 4))
    x = centred(node, node.expr(0), x_zero)
    first = 1 if node.attributes.get("channels_last", 0) else 2
    axes = list(range(first, first + rank_of(x) - 2))
    pixels = np.array(math.prod(shape_of(x)[axis] for axis in axes), np.float32)
    factor = computed(node, "divide", x_scale, computed(node, "multiply", y_scale, pixels))
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
    x = _dequantised(node, 0, 1, dtype)
    zero, alpha = (relax.const(value, "float32") for value in (0.0, node.attributes.get("alpha", 0.01)))
    scaled = node.emit(relax.op.multiply(x, alpha))
    y = node.emit(relax.op.where(node.emit(relax.op.greater_equal(x, zero)), x, scaled))
    value = computed(node, "divide", y, _parameter(node, 3, dtype))
    return saturated(node, as_expr(value), _parameter(node, 4, dtype), dtype)


def qlinear_sigmoid(node: Node) -> relax.Expr:
    """A table with the sigmoid of each code."""
    dtype = _check_bytes(node, 0)

    def sigmoid(codes: np.ndarray) -> np.ndarray:
        scale, zero = _constants(node, 1, dtype)
        y_scale, y_zero = _constants(node, 3, dtype)
        x = (codes - np.int32(zero)).astype(np.float32) * scale
        with np.errstate(over="ignore"):
            value = (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32) / y_scale
        return np.clip(np.rint(value) + np.float32(y_zero), *_limits(dtype)).astype(dtype)

    return _looked_up(node, node.expr(0), sigmoid)


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


def _looked_up(node: Node, x: relax.Expr, function: Callable[[np.ndarray], np.ndarray]) -> relax.Expr:
    """A function of the codes of 8 bits, by a table of all of them."""
    least, largest = _limits(dtype_of(x))
    table = function(np.arange(least, largest + 1, dtype=np.int32))
    index = node.emit(relax.op.subtract(as_expr(cast(node, x, "int32")), relax.const(least, "int32")))
    return relax.op.take(as_expr(table), index, 0, mode="clip")


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
