"""A node of a dialect as its converter reads it, and the standard nodes that the converter writes instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from onnx import NodeProto, helper, numpy_helper

from sbnn_tvm.errors import ModelError

from ..node import describe
from .constants import Constants

Operand: TypeAlias = "str | np.ndarray"
"""The name of a value that is computed when the model runs, or a constant."""


@dataclass(eq=False)
class DialectNode:
    """A node of a dialect, and the standard nodes that replace it.

    Attributes:
        proto: The node.
        opset: The version of the standard operators in the model.
        constants: The constants of the graph around it.
        rank: The number of dimensions of a value, by its name; None if it does not follow from the model.
        fresh: Makes a name, of a value or a node, that the model does not have.
        written: The standard nodes so far, in order.
    """

    proto: NodeProto
    opset: int
    constants: Constants
    rank: Callable[[str], int | None]
    fresh: Callable[[str], str]
    written: list[NodeProto] = field(default_factory=list)
    _main: NodeProto | None = None

    def error(self, problem: str) -> ModelError:
        """An error about this node; ``problem`` continues the sentence."""
        return ModelError(f"{describe(self.proto)} {problem}")

    def attribute(self, name: str, default: Any) -> Any:
        """The value of an attribute, which has the type of its default."""
        for each in self.proto.attribute:
            if each.name == name:
                value = helper.get_attribute_value(each)
                value = value.decode(errors="replace") if isinstance(value, bytes) else value
                if type(value) is not type(default):
                    raise self.error(f"has {name}={value!r}; expected a {type(default).__name__}")
                return value
        return default

    def flag(self, name: str, default: int) -> bool:
        """The value of an attribute that is 0 or 1."""
        value = self.attribute(name, default)
        if value not in (0, 1):
            raise self.error(f"has {name}={value}; expected 0 or 1")
        return bool(value)

    def input(self, index: int) -> str:
        """The name of a required input."""
        name = self.proto.input[index] if index < len(self.proto.input) else ""
        if not name:
            raise self.error(f"has {len(self.proto.input)} inputs, but input {index} is required; export it again")
        return name

    def operand(self, index: int) -> Operand:
        """A required input: a number or an array if it is constant, in the shape ``()`` if it has one element."""
        name = self.input(index)
        value = self.constants.value(name)
        if value is None:
            return name
        if value.dtype.kind not in "fiu" or value.size == 0:
            raise self.error(f"has input {name!r} of type {value.dtype}{list(value.shape)}; expected numbers")
        return value.reshape(()) if value.size == 1 else value

    def constant(self, index: int, what: str) -> np.ndarray:
        """A required input that must be constant; ``what`` names it in the message."""
        value = self.operand(index)
        if isinstance(value, str):
            raise self.error(f"computes its {what} {value!r} from an input of the model; it must be a constant")
        return value

    def emit(self, operator: str, *inputs: Operand, part: str, main: bool = False, **attributes: Any) -> str:
        """Writes a standard node.

        Args:
            operator: Its operator.
            inputs: Its inputs; constants get a node of their own.
            part: What it computes, the end of the name of its output.
            main: Whether it gets the name of this node. By default the last one does.
            attributes: Its attributes.

        Returns:
            The name of its output.
        """
        names = [value if isinstance(value, str) else self._constant(value, part) for value in inputs]
        output = self._write(operator, names, part, attributes)
        if main:
            self._main = self.written[-1]
        return output

    def finish(self, result: str) -> list[NodeProto]:
        """The nodes that replace this one, of which the last computes its output from ``result``."""
        output = self.proto.output[0]
        if not self.written or result not in self.written[-1].output:
            self.emit("Identity", result, part="result")
        self.written[-1].output[0] = output
        (self._main or self.written[-1]).name = self.proto.name
        for node in self.written:
            self.constants.add(node)
        return self.written

    def _constant(self, value: np.ndarray, part: str) -> str:
        tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape))
        return self._write("Constant", [], f"{part}_constant", {"value": tensor})

    def _write(self, operator: str, inputs: list[str], part: str, attributes: dict[str, Any]) -> str:
        output = self.fresh(f"{self.proto.output[0]}_{part}")
        name = self.fresh(f"{self.proto.name}/{part}") if self.proto.name else ""  # onnxruntime wants unique names
        node = helper.make_node(operator, inputs, [output], name, **attributes)
        self.written.append(node)
        return output
