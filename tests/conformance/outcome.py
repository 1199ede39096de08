"""Compile and run one conformance case: right, refused, wrong, or an exception that is not ours."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import onnx
from onnx import numpy_helper

import sbnn_tvm
from sbnn_tvm.errors import ModelError

from .cases import Case


class Verdict(Enum):
    """What became of a case."""

    RIGHT = "right"
    REFUSED = "refused"
    WRONG = "wrong"
    EXCEPTION = "exception"


@dataclass(frozen=True)
class Outcome:
    """The result of one case.

    Attributes:
        case: The name of the case.
        operator: The operator under test.
        verdict: What became of it.
        reason: The sentence of a refusal, the difference, or the exception.
    """

    case: str
    operator: str
    verdict: Verdict
    reason: str = ""


def outcome(case: Case) -> Outcome:
    """Compile and run a case on one thread."""
    try:
        module = sbnn_tvm.compile(case.model, input_shape=_open_shapes(case))
        result = module.library.run(*case.inputs)
    except ModelError as error:
        return Outcome(case.name, case.operator, Verdict.REFUSED, str(error))
    except Exception as error:  # anything else is a defect of ours, also one that became a sentence
        return Outcome(case.name, case.operator, Verdict.EXCEPTION, f"{type(error).__name__}: {error}")
    outputs = result if isinstance(result, tuple) else (result,)
    problem = _difference(outputs, case)
    return Outcome(case.name, case.operator, Verdict.WRONG if problem else Verdict.RIGHT, problem)


def _open_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The shapes of the inputs that the model declares with open dimensions, as a user would give them."""
    return {
        value.name: array.shape
        for value, array in zip(case.model.graph.input, case.inputs, strict=True)
        if isinstance(array, np.ndarray)
        and array.size
        and any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
    }


def _difference(outputs: tuple[np.ndarray, ...], case: Case) -> str:
    if len(outputs) != len(case.outputs):
        return f"{len(outputs)} outputs instead of {len(case.outputs)}"
    for got, expected in zip(outputs, case.outputs, strict=True):
        want = numpy_helper.to_array(expected) if isinstance(expected, onnx.TensorProto) else np.asarray(expected)
        if got.shape != want.shape or got.dtype != want.dtype:
            return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
        if want.dtype == bool or np.issubdtype(want.dtype, np.integer):
            wrong = got != want
        else:
            # sums that cancel leave what the rounding of the largest value leaves
            largest = np.abs(want[np.isfinite(want)]).max(initial=0)
            atol = case.atol + 2 * np.finfo(want.dtype).eps * float(largest)
            wrong = ~np.isclose(got, want, rtol=case.rtol, atol=atol, equal_nan=True)
        if wrong.any():
            return f"{wrong.sum()} of {wrong.size} values differ, such as {got[wrong][0]} instead of {want[wrong][0]}"
    return ""
