"""The quantisers of QONNX: BipolarQuant, Quant (also called IntQuant), Trunc.

Source: https://github.com/fastmachinelearning/qonnx/tree/main/docs/qonnx-custom-ops, and the executor of that package,
whose order of operations is kept, so that results are equal bit for bit.
"""

from __future__ import annotations

import numpy as np
from onnx import helper

from .comparison import chosen
from .dialect_node import DialectNode, Operand
from .rounding import rounded

_MANTISSA_OF_POWER = 0.5


def bipolar_quant(node: DialectNode) -> str:
    """``BipolarQuant(x, scale)``: ``scale`` where x >= 0, otherwise ``-scale``."""
    x, scale = node.input(0), node.operand(1)
    dtype = _element_type("", scale)
    return _two_valued(node, _in_type(node, x, dtype), np.array(0, dtype), scale, dtype)


def quant(node: DialectNode) -> str:
    """``Quant(x, scale, zero_point, bit_width)``: x / scale + zero_point, limited, rounded, and taken back.

    A signed quantiser of one bit has the values -1 and +1 instead of the two smallest integers.
    """
    x, scale, zero_point, bits = node.input(0), node.operand(1), node.operand(2), _bit_width(node, 3)
    signed, narrow = node.flag("signed", 1), node.flag("narrow", 1)
    mode = node.attribute("rounding_mode", "ROUND")
    dtype = _element_type(mode, scale, zero_point)
    y = _shifted(node, _divided(node, _in_type(node, x, dtype), scale, dtype), zero_point, dtype)
    if signed and bits.size == 1 and bits == 1:
        return _two_valued(node, y, zero_point, scale, dtype)
    y = rounded(node, _limited(node, y, signed, narrow, bits, dtype), mode, dtype)
    y = _shifted(node, y, zero_point, dtype, back=True)
    return _in_float32(node, _scaled(node, y, scale, dtype), dtype)


def trunc(node: DialectNode) -> str:
    """``Trunc``: drops the low bits of a quantised tensor, in both versions of the operator.

    Version 1 reads x, scale, zero point, the bit width before and after, and keeps the scale. Version 2 reads the scale
    after it as well, and limits the result.
    """
    if len(node.proto.input) not in (5, 6):
        raise node.error(f"has {len(node.proto.input)} inputs; version 1 has 5, version 2 has 6: export it again")
    second = len(node.proto.input) == 6
    x, scale, zero_point = node.input(0), node.operand(1), node.operand(2)
    mode = node.attribute("rounding_mode", "FLOOR")
    dtype = _element_type(mode, scale, zero_point)
    after = node.constant(4, "output scale").astype(dtype) if second else scale
    with np.errstate(all="ignore"):
        if second:
            step = 2 ** np.round(np.log2(after / node.constant(1, "scale").astype(dtype)))
        else:
            step = np.exp2(_bit_width(node, 3) - _bit_width(node, 4))
    step = np.asarray(step).astype(dtype)
    y = _shifted(node, _divided(node, _in_type(node, x, dtype), scale, dtype), zero_point, dtype)
    y = _divided(node, rounded(node, y, "ROUND", dtype), step, dtype)
    if second:
        y = _limited(node, y, node.flag("signed", 1), node.flag("narrow", 0), _bit_width(node, 5), dtype)
        zero_point = node.constant(2, "zero point").astype(dtype) / step
    y = _shifted(node, rounded(node, y, mode, dtype), zero_point, dtype, back=True)
    return _in_float32(node, _scaled(node, y, after, dtype), dtype)


def float_quant(node: DialectNode) -> str:
    """``FloatQuant`` is refused: rounding to a small float has no form in standard operators."""
    raise node.error("quantises to small floating point numbers, which is not supported; use an integer quantiser")


def _bit_width(node: DialectNode, index: int) -> np.ndarray:
    bits = node.constant(index, "bit width")
    if not (bits > 0).all() or not (bits <= 64).all():
        raise node.error(f"has the bit width {bits.ravel()[:4].tolist()}; expected 1 to 64")
    return bits


def _element_type(mode: str, *operands: Operand) -> np.dtype:
    """The element type that arithmetic on float32 and these constants has in numpy, and so in QONNX's executor.

    Keras's exports have scales of type double or int64. If they are powers of two, float32 gives the same numbers
    (but for denormal x and scales above 1), unless the rounding mode adds a half.
    """
    constants = [value for value in operands if isinstance(value, np.ndarray)]
    if any(value.dtype == np.float16 for value in constants):
        return np.dtype(np.float16)
    scale, *others = constants or [np.array(1, np.float32)]
    powers = (np.frexp(np.asarray(scale, np.float64))[0] == _MANTISSA_OF_POWER).all()
    if powers and all((value == 0).all() for value in others) and mode.upper() not in ("HALF_UP", "HALF_DOWN"):
        return np.dtype(np.float32)
    return np.result_type(np.float32, *(value.dtype for value in constants))


def _in_type(node: DialectNode, x: str, dtype: np.dtype) -> str:
    if dtype != np.float64:
        return x
    return node.emit("Cast", x, part="wide", to=helper.np_dtype_to_tensor_dtype(dtype))


def _in_float32(node: DialectNode, x: str, dtype: np.dtype) -> str:
    if dtype != np.float64:
        return x
    return node.emit("Cast", x, part="narrow", to=helper.np_dtype_to_tensor_dtype(np.dtype(np.float32)))


def _is(operand: Operand, number: float) -> bool:
    return isinstance(operand, np.ndarray) and bool((operand == number).all())


def _typed(operand: Operand, dtype: np.dtype) -> Operand:
    return operand if isinstance(operand, str) else operand.astype(dtype)


def _divided(node: DialectNode, x: str, scale: Operand, dtype: np.dtype) -> str:
    return x if _is(scale, 1) else node.emit("Div", x, _typed(scale, dtype), part="divided")


def _scaled(node: DialectNode, x: str, scale: Operand, dtype: np.dtype) -> str:
    return x if _is(scale, 1) else node.emit("Mul", x, _typed(scale, dtype), part="scaled")


def _shifted(node: DialectNode, x: str, zero_point: Operand, dtype: np.dtype, back: bool = False) -> str:
    if _is(zero_point, 0):
        return x
    return node.emit("Sub" if back else "Add", x, _typed(zero_point, dtype), part="shifted_back" if back else "shifted")


def _two_valued(node: DialectNode, x: str, zero_point: Operand, scale: Operand, dtype: np.dtype) -> str:
    """``(sign(x) - zero_point) * scale`` with sign(0) = 1; two numbers if scale and zero point are numbers."""
    zero, one = np.array(0, dtype), np.array(1, dtype)
    numbers = [value for value in (zero_point, scale) if isinstance(value, np.ndarray) and value.size == 1]
    if len(numbers) == 2:
        shift, factor = (value.astype(dtype) for value in numbers)
        result = np.float32 if dtype == np.float64 else dtype
        hi, lo = (np.asarray((value - shift) * factor).astype(result) for value in (one, -one))
        return chosen(node, x, zero, hi, lo, "chosen")
    y = _shifted(node, chosen(node, x, zero, one, -one, "sign"), zero_point, dtype, back=True)
    return _in_float32(node, _scaled(node, y, scale, dtype), dtype)


def _limited(node: DialectNode, x: str, signed: bool, narrow: bool, bits: np.ndarray, dtype: np.dtype) -> str:
    """Limits x to the integers of a bit width."""
    bits = bits.astype(np.result_type(np.float32, bits.dtype))
    if signed:
        least, most = -(2 ** (bits - 1)) + narrow, 2 ** (bits - 1) - 1
    else:
        least, most = 0 * bits, 2**bits - 1 - narrow
    low, high = (np.asarray(limit).astype(dtype) for limit in (least, most))
    if low.size > 1 and signed and (bits == 1).any():
        raise node.error("has some bit widths of 1 and others that are larger, signed; use one bit width")
    if low.size == 1 and node.opset >= (11 if dtype == np.float32 else 12):  # onnxruntime has no older ones
        return node.emit("Clip", x, low, high, part="limited")
    if low.size == 1 and dtype == np.float32:
        return node.emit("Clip", x, part="limited", min=float(low), max=float(high))
    return node.emit("Min", node.emit("Max", x, low, part="limited_below"), high, part="limited")
