"""Draws of single ONNX nodes with their inputs, and models of many such nodes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import NodeProto, helper, numpy_helper

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Case:
    """One node with the values that it reads.

    Attributes:
        node: The node; it reads ``in0``, ``in1``, ... and computes ``out0``, ...
        inputs: Values given at run time, by name.
        constants: Values that the model holds, by name.
        opset: The operator set version.
        tolerance: The relative and absolute tolerance of floats.
    """

    node: NodeProto
    inputs: dict[str, Array]
    constants: dict[str, Array]
    opset: int
    tolerance: float

    def __str__(self) -> str:
        def text(values: dict[str, Array]) -> str:
            return ", ".join(
                f"{k}={v.dtype}{list(v.shape)}{v.tolist() if v.size < 7 else ''}" for k, v in values.items()
            )

        attributes = {each.name: helper.get_attribute_value(each) for each in self.node.attribute}
        names = f"{list(self.node.input)} -> {list(self.node.output)}"
        return (
            f"{self.node.op_type} {names} of opset {self.opset} {attributes}; at run time {text(self.inputs)}; "
            f"constants {text(self.constants)}"
        )


class Draw:
    """Random choices for one node of an operator set."""

    def __init__(self, rng: np.random.Generator, opset: int) -> None:
        self.rng, self.opset = rng, opset

    def chance(self, probability: float = 0.5) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options: Iterable[Any]) -> Any:
        options = list(options)
        return options[int(self.rng.integers(len(options)))]

    def size(self, low: int = 1, high: int = 5) -> int:
        return int(self.rng.integers(low, high + 1))

    def real(self, low: float, high: float) -> float:
        return float(np.float32(self.rng.uniform(low, high)))

    def shape(self, low: int = 1, high: int = 4, largest: int = 5) -> tuple[int, ...]:
        return tuple(self.size(1, largest) for _ in range(self.size(low, high)))

    def axis(self, rank: int) -> int:
        """An axis, which may count from the end."""
        return int(self.rng.integers(-rank, rank))

    def front_axis(self, rank: int) -> int:
        """An axis that counts from the end only in operator sets that allow it everywhere."""
        return self.axis(rank) if self.opset >= 13 else int(self.rng.integers(0, rank))

    def axes(self, rank: int, low: int = 1) -> list[int]:
        """Different axes; from the end only in operator sets that allow it."""
        chosen = self.rng.permutation(rank)[: self.size(min(low, rank), rank)]
        return [int(axis - rank if self.opset >= 11 and self.chance(0.3) else axis) for axis in chosen]

    def dtype(self, operator: str, parameter: int = 0) -> str:
        """An element type that the operator accepts as this input."""
        schema = onnx.defs.get_schema(operator, self.opset, "")
        known = {f"tensor({name})": name for name in _NUMPY_NAMES}
        allowed = sorted(_NUMPY_NAMES[known[name]] for name in schema.inputs[parameter].types if name in known)
        allowed = [name for name in allowed if name != "float16"]
        return "float32" if "float32" in allowed and self.chance(0.4) else self.pick(allowed)

    def values(self, shape: Sequence[int], dtype: str = "float32", special: float = 0.2, nan: float = np.nan) -> Array:
        """Numbers of either sign with ties and zeros; sometimes infinities and NaN, or ``nan`` in its place."""
        if dtype == "bool":
            return self.rng.random(shape) < 0.5
        if not dtype.startswith("float"):
            low = 0 if dtype.startswith("u") else -9
            return self.rng.integers(low, 10, shape).astype(dtype)
        array = np.asarray(self.rng.standard_normal(shape) * 2)
        if self.chance():
            array = np.round(array * 2) / 2
        if self.chance(special):
            array = np.where(self.rng.random(shape) < 0.2, self.rng.choice([np.inf, -np.inf, nan, -0.0], shape), array)
        return array.astype(dtype)

    def broadcast(self, shape: Sequence[int]) -> tuple[int, ...]:
        """A shape that broadcasts to ``shape``."""
        kept = [1 if self.chance(0.3) else dim for dim in shape]
        return tuple(kept[self.size(0, len(kept)) :] if self.chance(0.4) else kept)

    def case(
        self,
        operator: str,
        values: Sequence[Array | Frozen | None],
        outputs: int = 1,
        tolerance: float = 2e-5,
        **attributes: Any,
    ) -> Case:
        """A case; ``Frozen`` values are constants, of the others but the first some are."""
        names, inputs, constants = [], {}, {}
        for index, value in enumerate(values):
            name = f"in{index}" if value is not None else ""
            names.append(name)
            if isinstance(value, Frozen):
                constants[name] = np.asarray(value.array)
            elif value is not None:
                (constants if index and inputs and self.chance(0.3) else inputs)[name] = np.asarray(value)
        while names and not names[-1]:
            names.pop()
        given = {name: value for name, value in attributes.items() if value is not None}
        node = helper.make_node(operator, names, [f"out{index}" for index in range(outputs)], **given)
        return Case(node, inputs, constants, self.opset, tolerance)


@dataclass(frozen=True, eq=False)
class Frozen:
    """A value that the model holds as a constant."""

    array: Array


_NUMPY_NAMES = {
    "float": "float32",
    "double": "float64",
    "float16": "float16",
    "bool": "bool",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


def model_of(
    cases: Sequence[Case], results: Sequence[Sequence[Array]] | None = None
) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """A model that computes all cases, which are of one operator set, and its inputs.

    Args:
        cases: The nodes.
        results: What they compute, if it is known; the types of the outputs are declared then.
    """
    nodes, inputs, constants, outputs = [], {}, {}, []
    for index, case in enumerate(cases):
        node = NodeProto()
        node.CopyFrom(case.node)
        for names in (node.input, node.output):
            names[:] = [f"c{index}_{name}" if name else "" for name in names]
        node.name = f"{node.op_type}:{index}"
        nodes.append(node)
        inputs.update({f"c{index}_{name}": value for name, value in case.inputs.items()})
        constants.update({f"c{index}_{name}": value for name, value in case.constants.items()})
        outputs += [name for name in node.output if name]
    declared = [onnx.ValueInfoProto(name=name) for name in outputs]
    if results is not None:
        values = (value for each in results for value in each)
        declared = [_value_info(name, value) for name, value in zip(outputs, values, strict=True)]
    graph = helper.make_graph(
        nodes,
        "random",
        [_value_info(name, value) for name, value in inputs.items()],
        declared,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", cases[0].opset)], ir_version=10)
    return model, inputs


def _value_info(name: str, value: Array) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
