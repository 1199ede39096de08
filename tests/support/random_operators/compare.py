"""Random nodes through the importer and TVM, against onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented

import sbnn_tvm
from sbnn_tvm.errors import ModelError
from sbnn_tvm.frontends.onnx.importer import import_onnx
from sbnn_tvm.frontends.onnx.load_model import load_model
from tests.support.small_models import run_reference

from .case import Case, model_of


@dataclass
class Comparison:
    """What became of cases.

    Attributes:
        right: The number that agree with onnxruntime.
        invalid: Those that onnxruntime refuses.
        refused: Those that the importer refuses, with the sentence.
        failures: Those that differ or end in another exception, with the reason.
    """

    right: list[Case] = field(default_factory=list)
    invalid: list[tuple[Case, str]] = field(default_factory=list)
    refused: list[tuple[Case, str]] = field(default_factory=list)
    failures: list[tuple[Case, str]] = field(default_factory=list)


def compare(cases: Sequence[Case]) -> Comparison:
    """Imports every case alone and runs those of an operator set together."""
    found = Comparison()
    accepted: list[tuple[Case, list[np.ndarray]]] = []
    for case in cases:
        wanted = _reference(case, found)
        if wanted is not None and _imports(case, wanted, found):
            accepted.append((case, wanted))
    for version in sorted({case.opset for case, _ in accepted}):
        together = [(case, wanted) for case, wanted in accepted if case.opset == version]
        model, inputs = model_of([case for case, _ in together], [wanted for _, wanted in together])
        try:
            results = iter(_run(model, inputs))
        except Exception:  # say which
            for case, wanted in together:
                _judge(case, wanted, found)
            continue
        for case, wanted in together:
            _note(case, wanted, [next(results) for _ in wanted], found)
    return found


def _reference(case: Case, found: Comparison) -> list[np.ndarray] | None:
    """What onnxruntime computes, or ONNX's reference where onnxruntime has no kernel for the type."""
    model, inputs = model_of([case])
    try:
        try:
            return list(run_reference(model, inputs).values())
        except NotImplemented:
            with np.errstate(all="ignore"):
                return [np.asarray(value) for value in ReferenceEvaluator(model).run(None, inputs)]
    except Exception as error:  # onnx and onnxruntime raise any type
        found.invalid.append((case, str(error)))
        return None


def _imports(case: Case, wanted: list[np.ndarray], found: Comparison) -> bool:
    try:
        import_onnx(load_model(model_of([case], [wanted])[0]))
    except ModelError as error:
        found.refused.append((case, str(error)))
        return False
    except Exception as error:  # what the test is for
        found.failures.append((case, f"{type(error).__name__}: {error}"))
        return False
    return True


def _run(model: onnx.ModelProto, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    module = sbnn_tvm.compile(model)
    result = module.library.run(*inputs.values())
    return list(result) if isinstance(result, tuple) else [result]


def _judge(case: Case, wanted: list[np.ndarray], found: Comparison) -> None:
    model, inputs = model_of([case], [wanted])
    try:
        results = _run(model, inputs)
    except Exception as error:  # what the test is for
        found.failures.append((case, f"{type(error).__name__}: {str(error)[-300:]}"))
        return
    _note(case, wanted, results, found)


def _note(case: Case, wanted: list[np.ndarray], results: list[np.ndarray], found: Comparison) -> None:
    problems = [problem for want, got in zip(wanted, results, strict=True) if (problem := difference(case, want, got))]
    if problems:
        found.failures.append((case, problems[0]))
    else:
        found.right.append(case)


def difference(case: Case, want: np.ndarray, got: np.ndarray) -> str:
    """How a result differs from onnxruntime's; an empty text if it does not."""
    if (want.shape, want.dtype) != (got.shape, got.dtype):
        return f"{got.dtype}{list(got.shape)} instead of {want.dtype}{list(want.shape)}"
    if want.dtype.kind == "f":
        wrong = ~np.isclose(got, want, case.tolerance, case.tolerance, equal_nan=True)
    else:
        wrong = got != want
    if not wrong.any():
        return ""
    place = np.argwhere(wrong)[0]
    return f"{wrong.sum()} of {wrong.size} differ: {got[wrong][:4]} instead of {want[wrong][:4]} at {place}"
