"""An operator as a converter reads it: inputs, options, error messages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from sbnn_tvm.errors import ModelError

from .flatbuffer_file import Operator, Tensor
from .graph_writer import GraphWriter
from .values import CHANNELS_FIRST, Value, plain


@dataclass(frozen=True, eq=False)
class Node:
    """An operator with its inputs.

    Attributes:
        operator: The operator.
        inputs: Its inputs in order; None for an omitted one.
        read: The same inputs as the file declares them.
        computed: Its outputs as the file declares them.
        graph: Where its ONNX nodes go.
    """

    operator: Operator
    inputs: tuple[Value | None, ...]
    read: tuple[Tensor | None, ...]
    computed: tuple[Tensor, ...]
    graph: GraphWriter

    def value(self, index: int) -> Value | None:
        """Input ``index``, or None if it is omitted."""
        return self.inputs[index] if index < len(self.inputs) else None

    def required(self, index: int) -> Value:
        """Input ``index``, which is required."""
        value = self.value(index)
        if value is None:
            raise self.error(f"lacks input {index}")
        return value

    def name_of(self, index: int) -> str:
        """The ONNX name of input ``index``."""
        return self.required(index).name

    def file_name_of(self, index: int) -> str:
        """The name of input ``index`` in the file."""
        tensor = self.read[index]
        return "" if tensor is None else tensor.name

    def floats(self, index: int) -> Value:
        """Input ``index``, which must be float32."""
        value = self.required(index)
        if value.dtype != "float32":
            raise self.error(f"computes with {value.dtype}, where only float32 is supported; convert it as float32")
        return value

    def image(self, index: int) -> Value:
        """Input ``index``, float32 images, stored as NCHW."""
        self.floats(index)
        return self.images_of_any_type(index)

    def images_of_any_type(self, index: int) -> Value:
        """Input ``index``, images, stored as NCHW."""
        value = self.required(index)
        if value.rank != 4:
            raise self.error(f"needs images of four axes, but input {index} has the shape {list(value.shape)}")
        return self.graph.reordered(value, CHANNELS_FIRST)

    def in_file_order(self, index: int) -> Value:
        """Input ``index``, stored with its axes as in the file."""
        value = self.required(index)
        return self.graph.reordered(value, plain(value.rank))

    def constant(self, index: int) -> np.ndarray:
        """Input ``index``, which must not depend on the model's inputs, in the file's order of axes."""
        value = self.required(index)
        if value.array is None:
            raise self.error(f"needs a constant as input {index}, but {self.file_name_of(index)!r} is computed")
        return value.array

    def integers(self, index: int) -> tuple[int, ...]:
        """The elements of the constant input ``index``, which must be integers."""
        array = self.constant(index)
        if array.dtype.kind not in "iu":
            raise self.error(f"needs integers as input {index}, but they are {array.dtype}")
        return tuple(array.reshape(-1).tolist())

    def per_channel(self, index: int, channels: int) -> np.ndarray:
        """The constant float32 input ``index``, one number for each channel."""
        array = self.constant(index)
        if array.dtype != np.float32 or array.shape != (channels,):
            raise self.error(
                f"needs {channels} float32 numbers as input {index}, but has {array.dtype} of shape {list(array.shape)}"
            )
        return array

    def axis(self, number: int, rank: int) -> int:
        """An axis, which may be counted from the last, as its number from the first."""
        if not -rank <= number < rank:
            raise self.error(f"names axis {number} of a tensor with {rank} axes")
        return number % rank

    def option(self, name: str, default: int | float | None = None) -> int:
        """An option, by its name in the schema; ``default`` where the file has no options."""
        value = self.operator.options.get(name, default)
        if value is None:
            raise self.error(f"lacks the option {name!r}")
        return value

    def positive(self, name: str, default: int | None = None) -> int:
        """An option that must be at least 1: a size, a stride."""
        value = self.option(name, default)
        if not 1 <= value < 2**24:
            raise self.error(f"has the option {name!r} {value}; expected at least 1")
        return value

    def error(self, problem: str) -> ModelError:
        """An error about this operator; ``problem`` continues the sentence."""
        return ModelError(f"{self.graph.where} {problem}")


Converter: TypeAlias = Callable[[Node], "Value | Sequence[Value]"]
"""Adds the ONNX nodes of an operator, and returns its outputs."""
