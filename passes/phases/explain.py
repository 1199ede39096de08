"""Explain in one sentence why a linear layer is not binary: what its weights and its activations are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var

from sbnn_tvm.algebra.domain import Domain

from ..relax.domains import VALUE_PRESERVING
from ..relax.exceptional_weights import EXCEPTIONS, TWO_VALUES
from ..relax.graph import Graph, constant, op_name
from ..relax.weight_values import MOST_LISTED, in_words, listed
from ..relax.weights import BinaryWeight

_ARITHMETIC = {"multiply": "scales", "divide": "scales", "add": "shifts", "subtract": "shifts"}
_MEANS = {"nn.avg_pool2d", "nn.adaptive_avg_pool2d", "mean"}


def why_float(
    graph: Graph,
    domains: Mapping[Var, Domain],
    var: Var,
    weight: np.ndarray,
    taken: Mapping[str, Sequence[float]],
) -> str:
    """The reason why a convolution or dense layer stays float, for the report.

    Args:
        graph: The function.
        domains: The known domains of its variables.
        var: The layer.
        weight: Its constant weights, output channels first.
        taken: The few values of tensors that take few, but no domain of ours; by the name of the variable.

    Returns:
        A sentence in which ``<x>`` stands for the ONNX node of variable x (relax/node_names.py).
    """
    call = graph.values[var]
    if var.name.endswith(EXCEPTIONS) and _has(graph, var.name.removesuffix(EXCEPTIONS) + TWO_VALUES):
        number, of = int(np.count_nonzero(weight)), var.name.removesuffix(EXCEPTIONS)
        which = "the 1 weight of <{}> that is" if number == 1 else f"the {number:,} weights of <{{}}> that are"
        return f"it holds {which.format(of)} neither of the two values of its output channel"
    domain = domains.get(call.args[0])
    if domain is not None:
        of = "are two-valued" if domain.bits == 1 else f"have {domain.bits} bits"
        return f"its activations {of}, but {in_words(weight)}"
    cause = _Activations(graph, domains, taken).cause(call.args[0])
    activations = f"its activations are not two-valued: {cause}"
    if BinaryWeight.telling(weight):
        advice = "; put a binariser between" if cause.startswith("they come from") else ""
        return f"its weights are binary, but {activations}{advice}"
    return f"{in_words(weight)}, and {activations}"


def _has(graph: Graph, name: str) -> bool:
    return any(var.name == name for var in graph.values)


class _Activations:
    """Finds why the activations of a layer have no domain."""

    def __init__(self, graph: Graph, domains: Mapping[Var, Domain], taken: Mapping[str, Sequence[float]]) -> None:
        self._graph, self._domains, self._taken = graph, domains, taken

    def cause(self, var: Var) -> str:
        """Where the values of ``var`` come from; operators that only move values are passed over."""
        value = self._graph.values.get(var)
        if value is None:
            return "they are the model's input"
        name = op_name(value)
        if name in VALUE_PRESERVING and isinstance(value.args[0], Var):
            return self.cause(value.args[0])
        if name == "nn.pad" and isinstance(value.args[0], Var):
            return self._padded(var, value)
        if name == "concat" and isinstance(value.args[0], relax.Tuple):
            return self._concatenated(var, value.args[0].fields)
        if name in _ARITHMETIC and (words := self._per_channel(var, value)) is not None:
            return words
        if (values := self._taken.get(var.name)) is not None:
            which = f": {listed(values)}" if len(values) <= MOST_LISTED else ""
            return f"<{var.name}> takes {len(values)} values{which}"
        if name in _MEANS and (domain := self._domains.get(value.args[0])) is not None:
            return f"<{var.name}> makes means of {domain}, so a binariser belongs after it"
        return f"they come from <{var.name}> ({name.removeprefix('nn.') or 'call'})"

    def _per_channel(self, var: Var, value: Call) -> str | None:
        """Arithmetic of a tensor with a domain and a number per channel, as words; None for anything else."""
        known = [self._domains[arg] for arg in value.args if isinstance(arg, Var) and arg in self._domains]
        numbers = [number for arg in value.args if (number := constant(arg)) is not None]
        if len(known) != 1 or len(numbers) != 1 or numbers[0].size == 1:
            return None
        return (
            f"<{var.name}> {_ARITHMETIC[op_name(value)]} values {known[0]} by a number per channel; "
            "one number for all channels keeps their number"
        )

    def _padded(self, var: Var, pad: Call) -> str:
        domain = self._domains.get(pad.args[0])
        if domain is None:
            return self.cause(pad.args[0])
        if pad.attrs.pad_mode != "constant":
            return f"<{var.name}> pads values {domain} by mode {pad.attrs.pad_mode}"
        value = float(pad.attrs.pad_value)
        return f"<{var.name}> pads values {domain} with {value:g}; pad with one of them, or with 0 in the convolution"

    def _concatenated(self, var: Var, fields: Sequence[Expr]) -> str:
        for field in fields:
            if field not in self._domains:
                return self.cause(field) if isinstance(field, Var) else f"<{var.name}> concatenates a constant"
        different = dict.fromkeys(str(self._domains[field]) for field in fields)
        return f"<{var.name}> concatenates values {' and '.join(different)}; give them the same values"
