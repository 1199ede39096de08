"""A newer operator set for old models: ``Round`` and ``GreaterOrEqual`` are younger than many files of QONNX."""

from __future__ import annotations

from collections.abc import Container

from onnx import ModelProto

from ..function_bodies import schema_of
from ..model_parts import parts
from ..node import STANDARD

WANTED_OPSET = 12
"""The first operator set with ``Round`` and ``GreaterOrEqual``."""

_ONLY_EXTENDED = frozenset(
    {
        *("ArgMax", "ArgMin", "AveragePool", "Concat", "Constant", "Conv", "DepthToSpace", "Equal", "Flatten"),
        *(
            "Cast",
            "Gather",
            "Gemm",
            "LogSoftmax",
            "MatMul",
            "Max",
            "MaxPool",
            "Min",
            "Pow",
            "ReduceL1",
            "ReduceL2",
            "ReduceLogSum",
        ),
        *("ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
        *("Softmax", "Split", "Squeeze", "Unsqueeze"),
    }
)
"""Operators whose nodes of set 7 and later mean the same in set 12: types, negative axes, attributes were added."""


def raise_opset(model: ModelProto, rewritten: Container[tuple[str, str]]) -> None:
    """Gives a model operator set 12 if it has an older one, and all its nodes mean the same in both.

    Args:
        model: The model, which is changed.
        rewritten: Domain and name of the operators that will be replaced, which do not matter.
    """
    entries = [entry for entry in model.opset_import if entry.domain in STANDARD]
    if len(entries) != 1 or entries[0].version >= WANTED_OPSET or model.functions:
        return
    version = entries[0].version
    nodes = [node for part in parts(model) for node in part.body.node]
    standard = {
        node.op_type for node in nodes if node.domain in STANDARD and (node.domain, node.op_type) not in rewritten
    }
    if all(_same(operator, version) for operator in standard):
        entries[0].version = WANTED_OPSET


def _same(operator: str, version: int) -> bool:
    old, new = schema_of(operator, version), schema_of(operator, WANTED_OPSET)
    if old is None or new is None or new.deprecated:
        return False
    return old.since_version == new.since_version or operator in _ONLY_EXTENDED
