"""Explain in one sentence why a linear layer is not binary."""

from __future__ import annotations

import numpy as np
from tvm.ir import Call
from tvm.relax import Var

from sbnn_tvm.algebra.domain import Domain

from ..relax.graph import Graph, op_name
from ..relax.weights import BinaryWeight


def why_float(graph: Graph, domains: dict[Var, Domain], call: Call, weight: np.ndarray) -> str:
    """The reason why a convolution or dense layer stays float, for the report.

    Args:
        graph: The function.
        domains: The known domains of its variables.
        call: The layer.
        weight: Its constant weights, output channels first.
    """
    two_valued = BinaryWeight.telling(weight)
    if call.args[0] in domains:
        if BinaryWeight.of(weight) is not None:
            return "it is binary, but its padding value is none of its activations' values"
        bits = domains[call.args[0]].bits
        of = "are two-valued" if bits == 1 else f"have {bits} bits"
        return f"its activations {of}, but {_weight_values(weight)}"
    activations = _where_from(graph, call.args[0])
    if two_valued:
        return f"its weights are binary, but its activations are not two-valued: {activations}"
    return f"{_weight_values(weight)}, and its activations are not two-valued: {activations}"


def _weight_values(weight: np.ndarray) -> str:
    flat = weight.reshape(len(weight), -1)
    if not np.isfinite(flat).all():
        return f"its weights in output channel {int(np.argmin(np.isfinite(flat).all(axis=1)))} are not all finite"
    counts = [len(np.unique(channel)) for channel in flat]
    worst = int(np.argmax(counts))
    if flat.shape[1] <= 2:
        return f"it has no more than {flat.shape[1]} weights per output channel"
    return f"its weights take {counts[worst]} values in output channel {worst}"


def _where_from(graph: Graph, var: Var) -> str:
    while (reshape := graph.producer(var, "reshape")) is not None:
        var = reshape.args[0]
    value = graph.values.get(var)
    if value is None:
        return "they are the model's input"
    name = op_name(value)
    if name == "sign":
        return f"'{var.name}' is a Sign, which gives 0 at 0, a third value (pass sign_zero='positive' or 'negative')"
    return f"they come from '{var.name}' ({name.removeprefix('nn.') or 'call'})"
