"""The reference: the ONNX model in onnxruntime, and in float64 where it is in doubt which side rounds worse."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import onnx

from ..errors import InputError, ModelError
from ..extras import needed_by
from .exact_products import with_exact_products
from .model_graph import ModelGraph, in_float64


class Reference:
    """A model in onnxruntime, without graph optimisations, and with every value as an output.

    Attributes:
        graph: The model as a graph.

    Raises:
        ModelError: If onnxruntime cannot load the model.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.graph = ModelGraph(model)
        every = onnx.ModelProto()
        every.CopyFrom(model)
        listed = {output.name for output in every.graph.output}
        values = [name for node in every.graph.node for name in node.output if name and name not in listed]
        every.graph.output.extend(onnx.ValueInfoProto(name=name) for name in values)
        self._session = _session(every)

    def run(self, inputs: Mapping[str, np.ndarray], names: Collection[str] = ()) -> dict[str, np.ndarray]:
        """Compute the named values, or all of them if none is named; the result has the inputs too.

        Raises:
            InputError: If onnxruntime fails on these inputs.
        """
        return {**inputs, **_run(self._session, names or [o.name for o in self._session.get_outputs()], inputs)}

    def from_values(self, given: Mapping[str, np.ndarray], wanted: Collection[str]) -> dict[str, np.ndarray]:
        """Compute values of the model from other values of it, in onnxruntime.

        Args:
            given: The values to start from. A wanted value is computed even if it is given.
            wanted: Names of values that nodes compute.
        """
        model, names = self.graph.part(wanted, given)
        session = _session(model)
        return _run(session, [output.name for output in model.graph.output], {names[n]: given[n] for n in names})

    def in_float64(self, given: Mapping[str, np.ndarray], wanted: Collection[str]) -> dict[str, np.ndarray]:
        """The same as ``from_values`` with all sums and roundings in float64, in onnx's reference implementation.

        Raises:
            Float64Error: If that has no implementation of an operator in float64.
        """
        from onnx.reference import ReferenceEvaluator

        part, names = self.graph.part(wanted, given)
        try:
            with np.errstate(all="ignore"):
                evaluator = ReferenceEvaluator(in_float64(part))
                feeds = {new: _widened(given[name]) for name, new in names.items()}
                found = dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))
        except Exception as error:  # whatever an operator's implementation raises
            raise Float64Error(f"onnx's reference implementation fails in float64: {_first_line(error)}") from None
        rounded = [name for name, value in found.items() if np.asarray(value).dtype in (np.float32, np.float16)]
        if rounded:
            raise Float64Error(f"onnx's reference implementation does not compute '{rounded[0]}' in float64")
        return {name: np.asarray(value) for name, value in found.items()}


class Float64Error(Exception):
    """A value that cannot be computed in float64; the message says why."""


def _widened(value: np.ndarray) -> np.ndarray:
    return value.astype(np.float64) if np.issubdtype(value.dtype, np.floating) else value


def _session(model: onnx.ModelProto) -> Any:
    with needed_by("verify"):
        import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4  # errors are raised, not printed
    exact = with_exact_products(model)
    try:
        return onnxruntime.InferenceSession(exact.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no common base but Exception
        raise ModelError(f"onnxruntime, the reference, cannot load this model: {_first_line(error)}") from None


def _run(session: Any, names: Collection[str], inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    try:
        values = session.run(list(names), dict(inputs))
    except Exception as error:
        raise InputError(f"onnxruntime, the reference, fails on these inputs: {_first_line(error)}") from None
    return dict(zip(names, values, strict=True))


def _first_line(error: Exception) -> str:
    """The first line of onnxruntime's message, without its error code and source location."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : |\S+\.cc:\d+ ", "", line)
