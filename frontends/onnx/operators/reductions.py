"""Reductions over axes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import relax

from ..node import Converter, Node, aligned, as_expr, dtype_of, rank_of, shape_of

Reduction = Callable[..., relax.Expr]


def reduce_mean(node: Node) -> relax.Expr:
    """A mean; that over both image axes is written as global pooling, which the passes know."""
    x = node.expr(0)
    axes = reduced_axes(node)
    if rank_of(x) != 4 or axes != [2, 3] or not dtype_of(x).startswith("float"):
        return _reduction(_mean)(node)
    mean = relax.op.nn.adaptive_avg_pool2d(x, (1, 1))
    if node.attributes.get("keepdims", 1):
        return mean
    return relax.op.reshape(node.emit(mean), shape_of(x)[:2])


def reduced_axes(node: Node) -> list[int]:
    """The axes that a reduction names, in order; all if it names none, or none if ``noop_with_empty_axes`` says so."""
    node.ignore("keepdims", "noop_with_empty_axes")  # where no axes are left, and where some are named
    rank = rank_of(node.required(0))
    axes = node.attributes.get("axes")
    if axes is None and node.value(1) is not None:
        axes = node.constant(1).reshape(-1).tolist()
    if not axes:
        return [] if node.attributes.get("noop_with_empty_axes", 0) else list(range(rank))
    wrong = [axis for axis in axes if not -rank <= axis < rank]
    if wrong:
        raise node.error(f"reduces axis {wrong[0]} of an input with {rank} dimensions; expected {-rank} to {rank - 1}")
    return sorted({axis % rank for axis in axes})


def _reduction(
    operator: Reduction,
    before: Callable[[relax.Expr], relax.Expr] | None = None,
    after: Callable[[relax.Expr], relax.Expr] | None = None,
) -> Converter:
    """A reduction with an elementwise function before and after it."""

    def convert(node: Node) -> relax.Expr:
        x = node.expr(0)
        if after is not None and not dtype_of(x).startswith("float"):
            raise node.error(f"reads {dtype_of(x)}, which is not supported; cast it to float32 before")
        result = x if before is None else node.emit(before(x))
        result = node.emit(_over_axes(node, operator, result))
        return result if after is None else after(result)

    return convert


def _extremum(operator: Reduction) -> Converter:
    def convert(node: Node) -> relax.Expr:
        x = node.expr(0)
        if dtype_of(x) != "bool":
            return _reduction(operator)(node)
        numbers = node.emit(relax.op.astype(x, "uint8"))
        return relax.op.astype(node.emit(_over_axes(node, operator, numbers)), "bool")

    return convert


def _over_axes(node: Node, operator: Reduction, x: relax.Expr) -> relax.Expr:
    axes = reduced_axes(node)
    return operator(x, axis=axes, keepdims=bool(node.attributes.get("keepdims", 1))) if axes else x


def _mean(x: relax.Expr, axis: Sequence[int], keepdims: bool) -> relax.Expr:
    if dtype_of(x).startswith("float"):
        return relax.op.mean(x, axis, keepdims)
    count = int(np.prod([shape_of(x)[a] for a in axis]))
    return relax.op.divide(relax.op.sum(x, axis, keepdims), relax.const(count, dtype_of(x)))  # towards 0


def _square(x: relax.Expr) -> relax.Expr:
    return relax.op.multiply(x, x)


def log_sum_exp(node: Node) -> relax.Expr:
    """``log(sum(exp(x)))``, less the largest element before and with it added after, so that nothing overflows."""
    x, axes = node.expr(0), reduced_axes(node)
    if not dtype_of(x).startswith("float"):
        raise node.error(f"reads {dtype_of(x)}, which is not supported; cast it to float32 before")
    dtype, keep = dtype_of(x), bool(node.attributes.get("keepdims", 1))
    largest = node.emit(relax.op.max(x, axes, keepdims=True)) if axes else x
    finite = node.emit(relax.op.isfinite(largest))
    shift = node.emit(relax.op.where(finite, largest, aligned(np.zeros((), dtype), rank_of(x))))
    powers = node.emit(relax.op.exp(node.emit(relax.op.subtract(x, shift))))
    total = node.emit(relax.op.sum(powers, axes, keepdims=True)) if axes else powers
    result = node.emit(relax.op.add(node.emit(relax.op.log(total)), shift))
    return result if keep or not axes else relax.op.squeeze(result, axes)


def lp_normalization(node: Node) -> relax.Expr:
    """``x / norm(x)`` along an axis; 0 where the norm is 0."""
    x, order = node.expr(0), node.attributes.get("p", 2)
    axis = node.attributes.get("axis", -1) % rank_of(x)
    dtype = dtype_of(x)
    if order == 1:
        norm = node.emit(relax.op.sum(node.emit(relax.op.abs(x)), [axis], keepdims=True))
    elif order == 2:
        norm = node.emit(relax.op.sqrt(node.emit(relax.op.sum(node.emit(_square(x)), [axis], keepdims=True))))
    else:
        raise node.error(f"has p={order}; expected 1 or 2")
    zero = node.emit(relax.op.equal(norm, aligned(np.zeros((), dtype), rank_of(x))))
    safe = node.emit(relax.op.where(zero, aligned(np.ones((), dtype), rank_of(x)), norm))
    return relax.op.divide(x, safe)


def cumulative(node: Node) -> relax.Expr:
    """``CumSum`` and ``CumProd``, from either end, with or without the element itself."""
    x, rank = node.expr(0), rank_of(node.required(0))
    axis = int(node.constant(1).item())
    if not -rank <= axis < rank:
        raise node.error(f"runs along axis {axis} of an input with {rank} dimensions; expected {-rank} to {rank - 1}")
    axis %= rank
    operator, start = {"CumSum": (relax.op.cumsum, 0), "CumProd": (relax.op.cumprod, 1)}[node.proto.op_type]
    backwards = bool(node.attributes.get("reverse", 0))
    if backwards:
        x = node.emit(relax.op.flip(x, axis))
    dtype, shape = dtype_of(x), shape_of(x)
    if node.attributes.get("exclusive", 0):
        first = (*shape[:axis], 1, *shape[axis + 1 :])
        edge = as_expr(np.full(first, start, dtype))
        if shape[axis] == 1:
            return edge
        rest = node.emit(relax.op.strided_slice(x, [axis], [0], [shape[axis] - 1], assume_inbound=True))
        x = node.emit(relax.op.concat([edge, rest], axis))
    result = operator(x, axis, dtype)
    return relax.op.flip(node.emit(result), axis) if backwards else result


CONVERTERS: dict[str, Converter] = {
    "CumProd": cumulative,
    "CumSum": cumulative,
    "LpNormalization": lp_normalization,
    "ReduceL1": _reduction(relax.op.sum, relax.op.abs),
    "ReduceL2": _reduction(relax.op.sum, _square, relax.op.sqrt),
    "ReduceLogSum": _reduction(relax.op.sum, None, relax.op.log),
    "ReduceLogSumExp": log_sum_exp,
    "ReduceMax": _extremum(relax.op.max),
    "ReduceMean": reduce_mean,
    "ReduceMin": _extremum(relax.op.min),
    "ReduceProd": _reduction(relax.op.prod),
    "ReduceSum": _reduction(relax.op.sum),
    "ReduceSumSquare": _reduction(relax.op.sum, _square),
}
"""Reductions by operator name."""
