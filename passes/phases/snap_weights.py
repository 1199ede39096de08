"""Set weights that are two values but for rounding, or but for a few zeros, to two values."""

from __future__ import annotations

from tvm import relax
from tvm.ir import Call, IRModule

from ..relax.domains import domains
from ..relax.facts import with_weight_changes
from ..relax.graph import Graph, Writer, op_name
from ..relax.snapped_weights import WeightChange, snapped
from ..relax.weights import linear_weight
from .step_functions import SignZero

_SIGN_OF_ZERO = {"exact": 0, "positive": 1, "negative": -1}


def snap_weights(mod: IRModule, sign_zero: SignZero) -> IRModule:
    """Replace the weights of layers on bits that ``snapped`` (relax/snapped_weights.py) can set to two values.

    The module records the changes (relax/facts.py): the report names them, and ``verify`` allows for them.

    Args:
        mod: The module.
        sign_zero: The sign of a weight that is 0 where the others of its channel are -a and +a.
    """
    graph = Graph(mod["main"])
    known = domains(graph)
    writer = Writer(graph)
    changes: dict[str, WeightChange] = {}
    for var, value in graph.bindings:
        weight = linear_weight(value)
        if weight is None or value.args[0] not in known:
            writer.keep(var, value)
            continue
        found = snapped(weight, _SIGN_OF_ZERO[sign_zero])
        if found is None:
            writer.keep(var, value)
            continue
        new, changes[var.name] = found
        constant = relax.const(new if op_name(value) == "nn.conv2d" else new.T.copy())
        writer.bind(var, Call(value.op, [writer[value.args[0]], constant], value.attrs))
    return with_weight_changes(writer.module(mod), changes)
