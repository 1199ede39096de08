"""Random nodes of elementwise operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import helper

from .case import Case, Draw, Frozen

UNARY = (
    *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Ceil", "Cos", "Cosh", "Erf", "Exp", "Floor", "IsNaN"),
    *("HardSwish", "Log", "Reciprocal", "Round", "Sigmoid", "Sin", "Sinh", "Softsign", "Sqrt", "Tan", "Tanh", "Neg"),
    *("Not", "Sign", "Relu", "Softplus", "Mish", "BitwiseNot", "Identity"),
)
BINARY = (
    *("Add", "Sub", "Mul", "And", "Or", "Xor", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"),
    *("BitwiseAnd", "BitwiseOr", "BitwiseXor"),
)
PARAMETERS = {
    "LeakyRelu": ("alpha",),
    "Elu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "Celu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "ThresholdedRelu": ("alpha",),
    "Shrink": ("bias", "lambd"),
}


def _unary(operator: str) -> Callable[[Draw], Case]:
    return lambda d: d.case(operator, [d.values(d.shape(0), d.dtype(operator))])


def _binary(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        shape, dtype = d.shape(0), d.dtype(operator)
        return d.case(operator, _two(d, d.values(shape, dtype), d.values(d.broadcast(shape), dtype)))

    return draw


def _two(d: Draw, first: np.ndarray, second: np.ndarray) -> list[np.ndarray]:
    return [first, second] if d.chance() else [second, first]


def _parametric(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        values = {name: d.real(0.05, 2) for name in PARAMETERS[operator] if d.chance()}
        return d.case(operator, [d.values(d.shape(0), d.dtype(operator))], **values)

    return draw


def gelu(d: Draw) -> Case:
    return d.case("Gelu", [d.values(d.shape(0), d.dtype("Gelu"))], approximate=d.pick([None, "none", "tanh"]))


def is_inf(d: Draw) -> Case:
    attributes = {f"detect_{sign}": d.size(0, 1) for sign in ("positive", "negative") if d.chance()}
    return d.case("IsInf", [d.values(d.shape(0), d.dtype("IsInf"), special=1)], **attributes)


def divide(d: Draw) -> Case:
    shape, dtype = d.shape(0), d.dtype("Div")
    divisor = d.values(d.broadcast(shape), dtype)
    if not dtype.startswith("float"):
        divisor = np.where(divisor == 0, 3, divisor).astype(dtype)
    return d.case("Div", [d.values(shape, dtype), divisor])


def modulo(d: Draw) -> Case:
    shape, dtype = d.shape(0), d.dtype("Mod")
    fmod = 1 if dtype.startswith("float") else d.pick([None, 0, 1])
    divisor = d.values(d.broadcast(shape), dtype)
    if not dtype.startswith("float"):
        divisor = np.where(divisor == 0, 3, divisor).astype(dtype)
    return d.case("Mod", [d.values(shape, dtype), divisor], fmod=fmod)


def power(d: Draw) -> Case:
    shape, dtype = d.shape(0), d.dtype("Pow")
    other = d.dtype("Pow", 1) if d.opset >= 12 else dtype
    whole = not dtype.startswith("float")
    base, exponent = d.values(shape, dtype), d.values(d.broadcast(shape), other)
    if whole:
        exponent = np.abs(np.round(np.nan_to_num(exponent, nan=1, posinf=2, neginf=3))).astype(other) % 5
    return d.case("Pow", [base, exponent.astype(other)])


def bit_shift(d: Draw) -> Case:
    shape, dtype = d.shape(0), d.dtype("BitShift")
    amount = d.rng.integers(0, np.iinfo(dtype).bits + 2, d.broadcast(shape)).astype(dtype)
    amount = np.minimum(amount, np.iinfo(dtype).bits - 1).astype(dtype)
    x = d.rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)
    return d.case("BitShift", [x, amount], direction=d.pick(["LEFT", "RIGHT"]))


def prelu(d: Draw) -> Case:
    shape, dtype = d.shape(1), d.dtype("PRelu")
    return d.case("PRelu", [d.values(shape, dtype), d.values(d.broadcast(shape), dtype, special=0)])


def where(d: Draw) -> Case:
    shape, dtype = d.shape(0), d.dtype("Where", 1)
    values = [d.values(s, k) for s, k in ((d.broadcast(shape), "bool"), (shape, dtype), (d.broadcast(shape), dtype))]
    return d.case("Where", values)


def _variadic(operator: str) -> Callable[[Draw], Case]:
    def draw(d: Draw) -> Case:
        shape, dtype = d.shape(0), d.dtype(operator)
        return d.case(operator, [d.values(d.broadcast(shape), dtype) for _ in range(d.size(1, 4))])

    return draw


def clip(d: Draw) -> Case:
    dtype = d.dtype("Clip")
    x = d.values(d.shape(0), dtype, special=0)  # with one bound, onnxruntime clips infinities to the largest number
    if d.opset < 11:
        return d.case("Clip", [x], **{name: d.real(-2, 2) for name in ("min", "max") if d.chance(0.7)})
    bounds = [d.values((), dtype, special=0) if d.chance(0.7) else None for _ in range(2)]
    return d.case("Clip", [x, *bounds])


def cast(d: Draw) -> Case:
    source, target = d.dtype("Cast"), d.dtype("Cast")
    x = d.values(d.shape(0), source, special=0.3 if target.startswith("float") or target == "bool" else 0)
    if target.startswith("u"):
        x = np.abs(x) if x.dtype != bool else x
    return d.case("Cast", [x], to=helper.np_dtype_to_tensor_dtype(np.dtype(target)))


def cast_like(d: Draw) -> Case:
    x = np.abs(d.values(d.shape(0), "float32", special=0))
    return d.case("CastLike", [x, d.values((2,), d.dtype("CastLike", 1))])


def dropout(d: Draw) -> Case:
    x = d.values(d.shape(1), d.dtype("Dropout"))
    outputs = d.size(1, 2)
    if d.opset < 12:
        return d.case("Dropout", [x], outputs, ratio=d.pick([None, 0.25]))
    ratio = Frozen(np.float32(0.3)) if d.chance() else None
    return d.case("Dropout", [x, ratio, Frozen(np.array(False)) if d.chance() else None], outputs)


DRAWS: dict[str, Callable[[Draw], Case]] = {
    **{operator: _unary(operator) for operator in UNARY},
    **{operator: _binary(operator) for operator in BINARY},
    **{operator: _parametric(operator) for operator in PARAMETERS},
    **{operator: _variadic(operator) for operator in ("Max", "Mean", "Min", "Sum")},
    "BitShift": bit_shift,
    "Cast": cast,
    "CastLike": cast_like,
    "Clip": clip,
    "Div": divide,
    "Dropout": dropout,
    "Gelu": gelu,
    "IsInf": is_inf,
    "Mod": modulo,
    "PRelu": prelu,
    "Pow": power,
    "Where": where,
}
"""By operator, how a node is drawn."""
