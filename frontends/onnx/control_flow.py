"""``If``, ``Loop`` and ``Scan`` whose conditions and counts are known at import: their subgraphs become plain nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from onnx import GraphProto, NodeProto, helper
from tvm import relax

from sbnn_tvm.errors import ModelError

from .node import Value, as_expr, describe, rank_of, shape_of

Run: TypeAlias = Callable[[GraphProto, Mapping[str, Value]], "list[Value] | None"]
"""Imports a subgraph, given its inputs by name; returns its outputs, or None if it needs what is not supported."""

LARGEST_TRIP_COUNT = 1_000
"""Largest number of iterations of a loop, which are unrolled."""


def if_(node: NodeProto, version: int, inputs: Sequence[Value | None], run: Run) -> list[Value] | None:
    """One of the two branches, which follows from shapes and constants."""
    (condition,) = inputs
    if not isinstance(condition, np.ndarray):
        raise ModelError(
            f"{describe(node)} chooses its branch by data ({node.input[0]!r} is computed at run time), which is not "
            "supported; export the model for one of the branches, or use Where"
        )
    return run(_graph(node, "then_branch" if condition.item() else "else_branch"), {})


def loop(node: NodeProto, version: int, inputs: Sequence[Value | None], run: Run) -> list[Value] | None:
    """An unrolled loop whose number of iterations follows from shapes and constants."""
    count, condition, *carried = inputs
    body = _graph(node, "body")
    limit = None if count is None else _known(node, count, "its trip count").item()
    going = True if condition is None else bool(_known(node, condition, "its condition").item())
    if count is None and condition is None:
        raise ModelError(f"{describe(node)} has neither a trip count nor a condition and never ends")
    names = [value.name for value in body.input]
    values: list[Value] = [value for value in carried if value is not None]
    collected: list[list[Value]] = [[] for _ in body.output[1 + len(values) :]]
    trip = 0
    while going and (limit is None or trip < limit):
        if trip == LARGEST_TRIP_COUNT:
            raise ModelError(
                f"{describe(node)} has more than {LARGEST_TRIP_COUNT} iterations, which cannot be unrolled; export the "
                "model with fewer"
            )
        given = dict(zip(names, [np.array(trip, np.int64), np.array(True), *values], strict=True))
        results = run(body, given)
        if results is None:
            return None
        again, *rest = results
        values, slices = rest[: len(values)], rest[len(values) :]
        for outputs, value in zip(collected, slices, strict=True):
            outputs.append(value)
        going = bool(_known(node, again, f"the condition after iteration {trip}").item())
        trip += 1
    if collected and not trip:
        raise ModelError(f"{describe(node)} has no iteration, so its outputs have no elements; export without the loop")
    return [*values, *(_stacked(outputs, 0) for outputs in collected)]


def scan(node: NodeProto, version: int, inputs: Sequence[Value | None], run: Run) -> list[Value] | None:
    """An unrolled scan; the number of iterations is the size of the scanned axis."""
    if version < 9:
        raise ModelError(f"{describe(node)} of operator set 8 is not supported; export the model for a newer one")
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    body, scanned = attributes["body"], attributes["num_scan_inputs"]
    values = [value for value in inputs if value is not None]
    states, sequences = values[: len(values) - scanned], values[len(values) - scanned :]
    made = len(body.output) - len(states)
    names = [value.name for value in body.input]
    axes = [
        axis % rank_of(s) for axis, s in zip(attributes.get("scan_input_axes", [0] * scanned), sequences, strict=True)
    ]
    backwards = attributes.get("scan_input_directions", [0] * scanned)
    lengths = {shape_of(value)[axis] for value, axis in zip(sequences, axes, strict=True)}
    if len(lengths) != 1:
        raise ModelError(f"{describe(node)} scans inputs of different lengths {sorted(lengths)}; they must be equal")
    (length,) = lengths
    if length > LARGEST_TRIP_COUNT:
        raise ModelError(
            f"{describe(node)} has {length} iterations, of which at most {LARGEST_TRIP_COUNT} can be unrolled; export "
            "the model for shorter sequences"
        )
    collected: list[list[Value]] = [[] for _ in range(made)]
    for trip in range(length):
        parts = [
            _element(value, axis, length - 1 - trip if backward else trip)
            for value, axis, backward in zip(sequences, axes, backwards, strict=True)
        ]
        results = run(body, dict(zip(names, [*states, *parts], strict=True)))
        if results is None:
            return None
        states = results[: len(states)]
        for outputs, value in zip(collected, results[len(states) :], strict=True):
            outputs.append(value)
    stacked = []
    output_axes = attributes.get("scan_output_axes", [0] * made)
    directions = attributes.get("scan_output_directions", [0] * made)
    for outputs, axis, backward in zip(collected, output_axes, directions, strict=True):
        stacked.append(_stacked(outputs[::-1] if backward else outputs, axis))
    return [*states, *stacked]


CONTROL_FLOW: dict[str, Callable[[NodeProto, int, Sequence[Value | None], Run], list[Value] | None]] = {
    "If": if_,
    "Loop": loop,
    "Scan": scan,
}
"""Operators with subgraphs."""


def _graph(node: NodeProto, name: str) -> GraphProto:
    found = next((attribute.g for attribute in node.attribute if attribute.name == name), None)
    if found is None:
        raise ModelError(f"{describe(node)} lacks the subgraph {name!r}")
    return found


def _known(node: NodeProto, value: Value, what: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise ModelError(
            f"{describe(node)} depends on data: {what} is computed at run time, which is not supported; export the "
            "model with a fixed number of iterations"
        )
    return value


def _element(value: Value, axis: int, index: int) -> Value:
    if isinstance(value, np.ndarray):
        return np.take(value, index, axis)
    return relax.op.take(value, relax.const(np.int64(index), "int64"), axis, mode="clip")


def _stacked(values: Sequence[Value], axis: int) -> Value:
    if all(isinstance(value, np.ndarray) for value in values):
        return np.stack([value for value in values if isinstance(value, np.ndarray)], axis)
    return relax.op.stack([as_expr(value) for value in values], axis)
