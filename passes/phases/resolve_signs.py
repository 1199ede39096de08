"""Replace each Sign operator by a binariser, if the user allows it."""

from __future__ import annotations

from typing import Literal

import numpy as np
from tvm import relax
from tvm.ir import IRModule
from tvm.relax import op

from ..relax.graph import Graph, Writer, op_name

SignZero = Literal["exact", "positive", "negative"]


def resolve_signs(mod: IRModule, sign_zero: SignZero) -> IRModule:
    """Replace Sign, which gives a third value 0 at 0, by a binariser with the values -1 and +1.

    Args:
        mod: The module.
        sign_zero: The result at 0: ``"positive"`` is +1, ``"negative"`` is -1; ``"exact"`` changes nothing.
    """
    if sign_zero == "exact":
        return mod
    graph = Graph(mod["main"])
    writer = Writer(graph)
    compare = op.greater_equal if sign_zero == "positive" else op.greater
    for var, value in graph.bindings:
        if op_name(value) == "sign" and str(var.ty.dtype) == "float32":
            condition = writer.emit(compare(writer[value.args[0]], relax.const(np.float32(0))), f"{var.name}_condition")
            writer.bind(var, op.where(condition, relax.const(np.float32(1)), relax.const(np.float32(-1))))
        else:
            writer.keep(var, value)
    return writer.module(mod)
