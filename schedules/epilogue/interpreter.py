"""A numpy interpreter for epilogues: the reference for the code that writer.py emits."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from ..isa import Isa
from ..layouts.words import pack_codes
from ..shapes import BorderClasses
from ..tir.functions import Function
from . import program as epilogue


def evaluate(
    program: epilogue.Program,
    result: np.ndarray,
    tensors: Sequence[np.ndarray],
    isa: Isa | None = None,
    classes: BorderClasses | None = None,
) -> list[np.ndarray]:
    """Interpret a program, rounding to float32 after every step. Functions are computed in float64.

    Args:
        program: Steps and outputs.
        result: The anchor's result, float32 [N, H, W, C] or [N, C].
        tensors: The tensor operands, in the order of their indices.
        isa: The instruction set, which gives the word size. Required for packed outputs.
        classes: The border classes. Required for Border operands.

    Returns:
        The outputs: float32 or integers of the result's shape, or packed codes (words.packed_shape).

    Raises:
        ValueError: If ``isa`` or ``classes`` is required and None.
    """
    values = [np.asarray(result, np.float32)]

    def fetch(operand: epilogue.Operand) -> np.ndarray:
        match operand:
            case epilogue.Ref(index):
                return values[index]
            case epilogue.Tensor(index=index) | epilogue.Number(index=index) | epilogue.Pixel(index):
                return np.asarray(tensors[index], np.float32)
            case epilogue.Sample(index) | epilogue.SampleChannel(index):
                samples = np.asarray(tensors[index], np.float32)
                return samples.reshape(len(samples), *[1] * (values[0].ndim - 2), -1)
            case epilogue.Channel(constants):
                return np.asarray(constants, np.float32)
            case epilogue.Border(constants):
                if classes is None:
                    raise ValueError("a program with Border operands needs border classes to be interpreted")
                of_pixel = classes.row_class[:, None] * classes.columns + classes.col_class[None, :]
                return np.asarray(constants, np.float32)[of_pixel]
            case epilogue.Scalar(value):
                return np.array(value, np.float32)
        raise TypeError(f"not an operand of an epilogue: {operand!r}")

    with np.errstate(all="ignore"):
        for step in program.steps:
            value = _apply(step.op, fetch(step.a), fetch(step.b))
            values.append(np.broadcast_to(value, values[0].shape))
        outputs = []
        for output in program.outputs:
            value = np.broadcast_to(fetch(output.value), values[0].shape)
            if isinstance(output, epilogue.RowOutput):
                outputs.append(value[..., :1].copy())
            elif isinstance(output, epilogue.CodesOutput):
                point = output.zero_point
                number = point if isinstance(point, int) else int(fetch(point).item())
                outputs.append(quantised(value, output.dtype, number))
            elif isinstance(output, epilogue.PackedOutput):
                thresholds = [fetch(each) for each in output.thresholds]
                code = np.zeros(value.shape, np.uint8)
                for each in thresholds:
                    code += exceeds(output, value, each)
                if isa is None:
                    raise ValueError("a program with packed outputs needs an instruction set to be interpreted")
                outputs.append(pack_codes(code, epilogue.code_bits(len(thresholds)), isa))
            else:
                outputs.append(np.array(value))
        return outputs


def exceeds(
    output: epilogue.BitsOutput | epilogue.LevelsOutput, value: np.ndarray, threshold: np.ndarray | np.float32
) -> np.ndarray:
    """Whether a value counts as above a threshold of an output, bool."""
    above = value >= threshold if output.inclusive else value > threshold
    return above | np.isnan(value) | np.isnan(threshold) if output.of_nan else above


def quantised(value: np.ndarray, dtype: epilogue.Element, zero_point: int) -> np.ndarray:
    """The integers that an output stores for float32 values."""
    info = np.iinfo(dtype)
    low, high = int(info.min) - zero_point, int(info.max) - zero_point
    limited = np.minimum(np.where(value > low, value, np.float32(low)), np.float32(high))
    return (np.round(limited).astype(np.int32) + zero_point).astype(dtype)


def _apply(op: epilogue.Op, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    match op:
        case "add":
            return a + b
        case "subtract":
            return a - b
        case "multiply":
            return a * b
        case "divide":
            return a / b
        case "maximum":
            return np.maximum(a, b)
        case "minimum":
            return np.minimum(a, b)
        case "prelu":
            return np.where(a > 0, a, a * b)
        case "exp" | "log" | "sqrt" | "sigmoid" | "tanh" | "erf" | "abs" | "round" | "floor" | "ceil":
            return _FUNCTIONS[op](a.astype(np.float64)).astype(np.float32)
        case "row_sum" | "row_mean" | "row_max" | "row_min":
            return _REDUCTIONS[op](a.astype(np.float64), axis=-1, keepdims=True).astype(np.float32)
    raise ValueError(f"not an operation of an epilogue: {op!r}")


_FUNCTIONS: Mapping[Function, Callable[[np.ndarray], np.ndarray]] = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "abs": np.abs,
    "round": np.round,
    "floor": np.floor,
    "ceil": np.ceil,
}
"""The functions in float64. The code that writer.py emits differs by at most tir.functions.ULPS from these."""

_REDUCTIONS: Mapping[epilogue.Reduction, Callable[..., np.ndarray]] = {
    "row_sum": np.sum,
    "row_mean": np.mean,
    "row_max": np.max,
    "row_min": np.min,
}
