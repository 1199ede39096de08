"""Recognise convolutions and dense layers on integers of 8 bits, in the one form that the passes use.

In Relax::

    difference = subtract(astype(codes, int32), zero_point)      without the subtraction if the zero point is 0;
                                                                 astype(point, int32) if it is known only at run time
    total      = conv2d(difference, weight)                      or matmul; weight int32, constant
    biased     = add(total, bias)                                bias int32, one per channel; it may be missing
    sum        = astype(biased, float32)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from tvm.ir import Call
from tvm.relax import Var

from .graph import Graph, constant, is_per_channel, op_name, shape
from .integer_weights import LARGEST
from .weights import linear_weight


@dataclass(frozen=True, eq=False)
class IntegerSum:
    """A sum of integers, as float32.

    Attributes:
        codes: The data, int8 or uint8.
        zero_point: The code of 0; a variable without dimensions if it is known only at run time.
        call: The convolution or product.
        weight: int16, output channels first.
        bias: int32 [OC]; None without a bias.
        chain: The variables between the data and the sum; nothing else reads them.
    """

    codes: Var
    zero_point: int | Var
    call: Call
    weight: np.ndarray
    bias: np.ndarray | None
    chain: tuple[Var, ...]


def integer_sums_of(graph: Graph) -> dict[Var, IntegerSum]:
    """All sums of integers of a function, by the variable of the float32 result."""
    found = {}
    for var, value in graph.bindings:
        casts = op_name(value) == "astype" and str(value.attrs.dtype) == "float32"
        if casts and (each := _integer_sum(graph, value)) is not None:
            found[var] = each
    return found


def _integer_sum(graph: Graph, total: Call) -> IntegerSum | None:
    chain: list[Var] = [total.args[0]]
    bias = None
    if (biased := graph.producer(chain[0], "add")) is not None:
        bias = constant(biased.args[1])
        if bias is None or not isinstance(biased.args[0], Var) or not is_per_channel(bias, shape(chain[0])):
            return None
        chain.insert(0, biased.args[0])
    call = graph.values.get(chain[0])
    weight = None if call is None else linear_weight(call)
    if call is None or weight is None or weight.dtype != np.int32 or not isinstance(call.args[0], Var):
        return None
    if np.abs(weight).max(initial=0) > LARGEST:
        return None
    source = call.args[0]
    zero_point: int | Var = 0
    chain.insert(0, source)
    if (centred := graph.producer(source, "subtract")) is not None:
        point, cast = constant(centred.args[1]), graph.producer(centred.args[1], "astype")
        if not isinstance(centred.args[0], Var):
            return None
        if point is not None and point.size == 1:
            zero_point = int(point.item())
        elif cast is not None and isinstance(cast.args[0], Var) and not shape(cast.args[0]):
            zero_point = cast.args[0]
            chain.insert(0, centred.args[1])
        else:
            return None
        source = centred.args[0]
        chain.insert(0, source)
    inner = graph.producer(source, "astype")
    if inner is None or not isinstance(inner.args[0], Var) or str(inner.args[0].ty.dtype) not in ("int8", "uint8"):
        return None
    dtype = str(inner.args[0].ty.dtype)
    limits = np.iinfo(dtype)
    if isinstance(zero_point, int) and not limits.min <= zero_point <= limits.max:
        return None
    if isinstance(zero_point, Var) and str(zero_point.ty.dtype) != dtype:
        return None
    if any(len(graph.users[each]) != 1 or each in graph.results for each in chain):
        return None
    channels = len(weight)
    spread = None if bias is None else np.ascontiguousarray(np.broadcast_to(bias.reshape(-1), channels), np.int32)
    return IntegerSum(inner.args[0], zero_point, call, weight.astype(np.int16), spread, tuple(chain))
