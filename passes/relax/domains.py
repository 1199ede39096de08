"""Find the domains of variables: which tensors provably take only two values, or only the levels of a few bits.

For example, ``where(x > 0, 1, -1)`` has the domain {-1, +1}, and so does a max pooling of it. A sum of two such tensors
has no known domain.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var

from sbnn_tvm.algebra.domain import BinaryDomain, Domain, code_of

from .comparisons import comparison
from .graph import Graph, constant, op_name, shape
from .quantisers import quantiser

VALUE_PRESERVING = {"reshape", "permute_dims", "nn.max_pool2d", "squeeze", "expand_dims", "take", "strided_slice"}
"""These operators return only values of their input, whatever their attributes are."""


def domains(graph: Graph) -> dict[Var, Domain]:
    """The domain of every variable that provably takes two values, or the levels of a few bits."""
    known: dict[Var, Domain] = {}
    for var, value in graph.bindings:
        if (domain := domain_of(graph, value, known)) is not None:
            known[var] = domain
    return known


def domain_of(graph: Graph, value: Expr, known: Mapping[Var, Domain]) -> Domain | None:
    """The domain of one bound value.

    Args:
        graph: The function.
        value: The value.
        known: The domains of the variables before it.

    Returns:
        The two values or the levels that it takes; None if no domain can be proved.
    """
    if (quantised := quantiser(graph, value)) is not None:
        return quantised.levels
    name = op_name(value)
    if name == "where":
        return binariser_domain(graph, value)
    if name == "multiply":
        pooled = signed_max_pool(graph, value)
        return known.get(pooled[0]) if pooled is not None else None
    if name == "concat" and isinstance(value.args[0], relax.Tuple):
        together = {known.get(field) for field in value.args[0].fields}
        return together.pop() if len(together) == 1 else None
    if name not in VALUE_PRESERVING and name != "nn.pad":
        return None
    domain = known.get(value.args[0])
    if domain is None or name != "nn.pad":
        return domain
    inside = value.attrs.pad_mode == "constant" and code_of(domain, float(value.attrs.pad_value)) is not None
    return domain if inside else None


def binariser_domain(graph: Graph, where: Call) -> BinaryDomain | None:
    """The two values of a ``where`` in the form that ``canonicalize`` writes; None if it has another form."""
    hi, lo = constant(where.args[1]), constant(where.args[2])
    if comparison(graph, where.args[0]) is None or hi is None or lo is None:
        return None
    if hi.size != 1 or lo.size != 1 or not (np.isfinite([lo.item(), hi.item()]).all() and lo.item() < hi.item()):
        return None
    return BinaryDomain(lo.item(), hi.item())


def signed_max_pool(graph: Graph, value: Expr) -> tuple[Var, np.ndarray] | None:
    """Match ``s * max_pool2d(s * x)``: a max pooling where s is +1, a min pooling in the channels where s is -1.

    Returns:
        x, and s as float32 [C]; None for any other value.
    """
    signs = constant(value.args[1]) if op_name(value) == "multiply" else None
    if signs is None or not np.all(np.abs(signs) == 1):
        return None
    pool = graph.producer(value.args[0], "nn.max_pool2d")
    inner = graph.producer(pool.args[0], "multiply") if pool is not None else None
    if inner is None or not isinstance(inner.args[0], Var) or signs.shape != (1, shape(inner.args[0])[1], 1, 1):
        return None
    same = constant(inner.args[1])
    return (inner.args[0], signs.reshape(-1)) if same is not None and np.array_equal(same, signs) else None
