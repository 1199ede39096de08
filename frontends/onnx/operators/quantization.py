"""Quantisation to integers of 8 and 16 bits and back: plain compositions, rounded as onnxruntime rounds them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper
from tvm import relax
from tvm.ir import Call, GenericConst, Op

from ..node import Converter, Node, Value, as_expr, dtype_of, rank_of, shape_of

_INTEGERS = ("int8", "uint8", "int16", "uint16")


def quantize_linear(node: Node) -> relax.Expr:
    """``saturate(round(x / scale) + zero_point)``, halves to even; a NaN becomes the smallest number."""
    x, scale, zero_point = node.expr(0), node.required(1), node.value(2)
    node.ignore("saturate", *(() if zero_point is None else ("output_dtype",)))
    dtype = _element_type(node, "output_dtype") or "uint8" if zero_point is None else dtype_of(zero_point)
    if dtype not in _INTEGERS:
        raise node.error(f"quantises to {dtype}, which is not supported; supported are {', '.join(_INTEGERS)}")
    precision = _element_type(node, "precision") or dtype_of(scale)
    if precision not in ("float16", "float32", "float64"):
        raise node.error(f"divides in {precision}, which is not supported; expected float16, float32 or float64")
    if precision == "float16" and dtype_of(scale) != "float16":
        raise node.error("divides in float16, which onnxruntime does not; leave out its precision")
    quotient = node.emit(
        relax.op.divide(cast(node, x, precision), as_expr(cast(node, _spread(node, scale), precision)))
    )
    return saturated(node, quotient, None if zero_point is None else _spread(node, zero_point), dtype)


def saturated(node: Node, quotient: relax.Expr, zero_point: Value | None, dtype: str) -> relax.Expr:
    """A float tensor rounded, shifted by a zero point that broadcasts, and limited to an integer type."""
    y = node.emit(relax.op.round(quotient if dtype_of(quotient) != "float16" else cast(node, quotient, "float32")))
    if zero_point is not None and not (isinstance(zero_point, np.ndarray) and not zero_point.any()):
        y = node.emit(relax.op.add(y, as_expr(cast(node, zero_point, dtype_of(y)))))
    limits = np.iinfo(dtype)
    low, high = (relax.const(float(limit), dtype_of(y)) for limit in (limits.min, limits.max))
    y = node.emit(relax.op.where(node.emit(relax.op.greater(y, low)), y, low))
    return relax.op.astype(node.emit(relax.op.minimum(y, high)), dtype)


def dequantize_linear(node: Node) -> relax.Expr:
    """``(x - zero_point) * scale``; the difference is exact."""
    x, scale, zero_point = node.expr(0), node.required(1), node.value(2)
    if dtype_of(x) not in (*_INTEGERS, "int32"):
        raise node.error(f"has values of {dtype_of(x)}; supported are int32, {', '.join(_INTEGERS)}")
    dtype = _element_type(node, "output_dtype") or dtype_of(scale)
    y = centred(node, x, None if zero_point is None else _spread(node, zero_point))
    wide = "float64" if dtype_of(scale) == "float64" else "float32"
    y = node.emit(relax.op.astype(y, wide))
    y = relax.op.multiply(y, as_expr(cast(node, _spread(node, scale), wide)))
    return y if wide == dtype else relax.op.astype(node.emit(y), dtype)


def centred(node: Node, x: Value, zero_point: Value | None) -> relax.Expr:
    """``x - zero_point`` in int32."""
    y = as_expr(cast(node, x, "int32"))
    if zero_point is None or (isinstance(zero_point, np.ndarray) and not zero_point.any()):
        return y
    return node.emit(relax.op.subtract(y, as_expr(cast(node, zero_point, "int32"))))


def cast(node: Node, value: Value, dtype: str) -> Value:
    """A value in another element type."""
    if dtype_of(value) == dtype:
        return value
    return value.astype(dtype) if isinstance(value, np.ndarray) else node.emit(relax.op.astype(value, dtype))


def _element_type(node: Node, name: str) -> str:
    number = node.attributes.get(name, 0)
    if not number:
        return ""
    try:
        return helper.tensor_dtype_to_np_dtype(number).name
    except KeyError:
        raise node.error(f"has the {name} {number}, which is no element type of ONNX") from None


def _spread(node: Node, value: Value) -> Value:
    """A scale or zero point in a shape that broadcasts over the first input."""
    shape, given = shape_of(node.expr(0)), shape_of(value)
    block = node.attributes.get("block_size", 0)
    count = int(np.prod(given))
    if count == 1 and not block:
        node.ignore("axis")
        return reshaped(node, value, ())
    axis = node.attributes.get("axis", 1)
    if not -len(shape) <= axis < len(shape):
        raise node.error(f"has axis {axis}; its input has {len(shape)} dimensions")
    axis %= len(shape)
    if block:
        expected = [*shape[:axis], -(-shape[axis] // block), *shape[axis + 1 :]]
        if list(given) != expected:
            raise node.error(f"has scales or zero points of shape {list(given)}; blocks of {block} need {expected}")
        if isinstance(value, np.ndarray):
            return np.repeat(value, block, axis).take(range(shape[axis]), axis)
        value = node.emit(relax.op.repeat(value, block, axis))
        return node.emit(relax.op.strided_slice(value, [axis], [0], [shape[axis]]))
    if given != (shape[axis],):
        raise node.error(f"has scales or zero points of shape {list(given)}; axis {axis} needs [{shape[axis]}]")
    spread = (1,) * axis + given + (1,) * (len(shape) - axis - 1)
    return reshaped(node, value, spread)


def dynamic_quantize_linear(node: Node) -> relax.Tuple:
    """Quantisation to uint8 by the range of the input."""
    return relax.Tuple(dynamically_quantized(node, node.expr(0)))


def dynamically_quantized(node: Node, x: relax.Expr) -> tuple[relax.Expr, relax.Expr, relax.Expr]:
    """Codes of uint8, their scale and their zero point, by the range of a tensor, which is made to include 0."""
    axes = list(range(rank_of(x)))
    zero, levels, one = (relax.const(value, "float32") for value in (0.0, 255.0, 1.0))
    high = node.emit(relax.op.maximum(node.emit(relax.op.max(x, axes)), zero))
    low = node.emit(relax.op.minimum(node.emit(relax.op.min(x, axes)), zero))
    extent = node.emit(relax.op.subtract(high, low))
    scale = node.emit(relax.op.divide(extent, levels))
    scale = node.emit(relax.op.where(node.emit(relax.op.equal(extent, zero)), one, scale))
    shift = node.emit(relax.op.divide(node.emit(relax.op.subtract(zero, low)), scale))
    zero_point = node.emit(saturated(node, shift, None, "uint8"))
    y = node.emit(saturated(node, node.emit(relax.op.divide(x, scale)), zero_point, "uint8"))
    return y, scale, zero_point


def number(node: Node, value: Value | None) -> Value | None:
    """A scale or zero point that must be one number, without dimensions."""
    if value is None:
        return None
    if int(np.prod(shape_of(value))) != 1:
        raise node.error(f"has a scale or zero point of shape {list(shape_of(value))}, where one number is expected")
    return reshaped(node, value, ())


def along(node: Node, value: Value | None, axis: int, rank: int) -> Value | None:
    """A number, or a vector along one of several axes."""
    if value is None:
        return None
    count = int(np.prod(shape_of(value)))
    return reshaped(node, value, (1,) * axis + (count,) + (1,) * (rank - axis - 1) if count > 1 else ())


def reshaped(node: Node, value: Value, shape: tuple[int, ...]) -> Value:
    """A value in another shape."""
    if shape_of(value) == shape:
        return value
    return value.reshape(shape) if isinstance(value, np.ndarray) else node.emit(relax.op.reshape(value, shape))


def computed(node: Node, operator: str, x: Value, y: Value) -> Value:
    """An elementwise operator of two values of one type, by its name in numpy and in Relax; of constants at once."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        with np.errstate(all="ignore"):  # a quotient may be infinite
            return np.asarray(getattr(np, operator)(x, y))
    return node.emit(getattr(relax.op, operator)(as_expr(x), as_expr(y)))


_KNOWN: dict[str, Callable[..., np.ndarray]] = {
    "relax.astype": np.asarray,
    "relax.multiply": np.multiply,
    "relax.subtract": np.subtract,
}


def known(node: Node, value: Value) -> Value:
    """The numbers of a dequantised constant, in the arithmetic of ``dequantize_linear``; any other value as it is."""
    if not isinstance(value, relax.Var):
        return value
    call = node.bound(value)
    if not isinstance(call, Call) or not isinstance(call.op, Op) or str(call.op.name) not in _KNOWN:
        return value
    read = [arg.value.numpy() if isinstance(arg, GenericConst) else known(node, arg) for arg in call.args]
    if not all(isinstance(each, np.ndarray) for each in read):
        return value
    with np.errstate(all="ignore"):
        return np.asarray(_KNOWN[str(call.op.name)](*read), dtype_of(value))


CONVERTERS: dict[str, Converter] = {
    "DequantizeLinear": dequantize_linear,
    "DynamicQuantizeLinear": dynamic_quantize_linear,
    "QuantizeLinear": quantize_linear,
}
