"""The values of a graph that follow from its constants alone: scales and bit widths may be computed by nodes."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from ..fold_constants import fold
from ..size_limits import ConstantBudget


class Constants:
    """The constants of one graph, evaluated when they are asked for.

    Attributes:
        opsets: The versions of the operator sets, by domain.
        budget: What computing constants may cost.
    """

    def __init__(self, opsets: Mapping[str, int], budget: ConstantBudget, outer: Constants | None = None) -> None:
        self.opsets = opsets
        self.budget = budget
        self._outer = outer
        self._tensors: dict[str, TensorProto] = {}
        self._producers: dict[str, NodeProto] = {}
        self._known: dict[str, np.ndarray | None] = {"": None}

    def add_initializers(self, graph: GraphProto) -> None:
        """Makes the initialisers of a graph known."""
        self._tensors.update((tensor.name, tensor) for tensor in graph.initializer)

    def add(self, node: NodeProto) -> None:
        """Makes a standard node known, all of whose inputs are known already."""
        self._producers.update(dict.fromkeys(node.output, node))

    def value(self, name: str) -> np.ndarray | None:
        """The value of a constant; None if it depends on an input of the model, or is too costly to compute."""
        waiting, begun = [name], set[str]()
        while waiting:
            current = waiting[-1]
            if current in self._known:
                waiting.pop()
                continue
            node = self._producers.get(current)
            if node is None:
                self._known[current] = self._stored(current)
                continue
            missing = [each for each in node.input if each not in self._known]
            if missing and current not in begun:
                begun.add(current)
                waiting += missing
            else:  # if inputs are still missing, the node reads its own output
                self._evaluate(node, bool(missing))
        return self._known[name]

    def _stored(self, name: str) -> np.ndarray | None:
        if name in self._tensors:
            try:
                return numpy_helper.to_array(self._tensors[name])
            except (KeyError, TypeError, ValueError):  # damaged; the checks say how
                return None
        return None if self._outer is None else self._outer.value(name)

    def _evaluate(self, node: NodeProto, hopeless: bool) -> None:
        inputs = [self._known.get(name) for name in node.input]
        unknown = any(value is None and name for name, value in zip(node.input, inputs, strict=True))
        results = None if hopeless or unknown else fold(node, inputs, self.opsets, self.budget)
        self._known.update(zip(node.output, results or [None] * len(node.output), strict=True))
