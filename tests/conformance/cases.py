"""ONNX's conformance cases for single operators, in the form in which exporters write such models.

ONNX passes every input of a case at run time, also those that exported models hold as constants, such as the axes of a
reduction. ``Case.frozen`` makes constants of these.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.case.node import collect_testcases

_OTHER_DOMAINS = ("ai.onnx.ml", "ai.onnx.preview.training")
_FROZEN = frozenset(
    {
        *("axes", "axis", "shape", "new_shape", "output_shape", "image_shape", "block_shape", "sizes", "scales", "roi"),
        *("pads", "value", "constant_value", "starts", "ends", "steps", "start", "limit", "delta", "k", "K", "split"),
        *("repeats", "depth", "trip_count", "cond", "training_mode", "t", "ratio", "r", "min", "max"),
        *("max_output_boxes_per_class", "iou_threshold", "score_threshold"),
        *("dft_length", "frame_length", "frame_step", "signal_ndim", "num_mel_bins", "sample_rate"),
        *("lower_edge_hertz", "upper_edge_hertz", "size"),
    }
)
"""Names of inputs in ONNX's cases that say what an operator does, not on which data."""
_LARGEST_FROZEN = 64  # elements


@dataclass(frozen=True, eq=False)
class Case:
    """One case.

    Attributes:
        name: ONNX's name of it, for example ``test_add_bcast``.
        operator: The operator under test.
        model: The model, with the constants that exporters write.
        inputs: The other inputs, in the order of the model's.
        outputs: The outputs that are right, in the order of the model's.
        rtol, atol: ONNX's tolerance.
    """

    name: str
    operator: str
    model: onnx.ModelProto
    inputs: tuple[object, ...]
    outputs: tuple[object, ...]
    rtol: float
    atol: float


@lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    """All cases of the standard operators, without those for training."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        found = collect_testcases(None)
    kept = (case for case in found if not any(node.domain in _OTHER_DOMAINS for node in case.model.graph.node))
    return tuple(_frozen(case) for case in kept)


def _frozen(case: onnx.backend.test.case.test_case.TestCase) -> Case:
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    given, expected = case.data_sets[0]
    remaining: list[onnx.ValueInfoProto] = []
    inputs: list[object] = []
    roles = _roles(case.model)
    for value, array in zip(case.model.graph.input, map(_array, given), strict=True):
        if (
            roles.get(value.name, value.name) in _FROZEN
            and isinstance(array, np.ndarray)
            and array.size <= _LARGEST_FROZEN
        ):
            model.graph.initializer.append(numpy_helper.from_array(array, value.name))
        else:
            remaining.append(value)
            inputs.append(array)
    del model.graph.input[:]
    model.graph.input.extend(remaining)
    return Case(
        case.name,
        _operator(case.name, case.model),
        model,
        tuple(inputs),
        tuple(map(_array, expected)),
        case.rtol,
        case.atol,
    )


def _roles(model: onnx.ModelProto) -> dict[str, str]:
    """The names of a single node's inputs in the specification of its operator, by their names in the model."""
    if len(model.graph.node) != 1:
        return {}
    (node,) = model.graph.node
    version = next(entry.version for entry in model.opset_import if entry.domain == node.domain)
    formal = onnx.defs.get_schema(node.op_type, version, node.domain).inputs
    own = {name: role.name for name, role in zip(node.input, formal, strict=False)}
    if node.op_type == "ConstantOfShape":
        own[node.input[0]] = "shape"
    return own


def _array(value: object) -> object:
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    return np.asarray(value) if isinstance(value, np.generic) else value


def _operator(name: str, model: onnx.ModelProto) -> str:
    """The operator under test; an expanded case is named after the function whose body it is."""
    nodes = model.graph.node
    if len(nodes) == 1:
        return nodes[0].op_type
    words = name.removeprefix("test_").split("_expanded")[0].replace("_", "")
    schemas = {schema.name.lower(): schema.name for schema in onnx.defs.get_all_schemas()}
    matching = [lower for lower in schemas if words.startswith(lower)]
    return schemas[max(matching, key=len)] if matching else nodes[-1].op_type


def select(names: Sequence[str]) -> tuple[Case, ...]:
    """The cases with these names."""
    wanted = set(names)
    return tuple(case for case in cases() if case.name in wanted)
