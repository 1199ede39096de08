"""Loops for operators in which TVM's own lose NaN or take -inf for a very small number.

TVM's maximum is ``a if a > b else b``, which depends on the order where one is NaN, and its reductions and poolings
start from the least finite number. The loops here follow the rules of docs/architecture.md, "NaN and infinity". They
serve operators that no kernel of ours computes; integers are left to TVM.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from tvm import te, tirx
from tvm.ir import Call, Op
from tvm.relax import BlockBuilder, Expr

from ..relax.graph import op_name, shape

_Legalization: TypeAlias = Callable[[BlockBuilder, Call], Expr]
_Better: TypeAlias = Callable[[tirx.Expr, tirx.Expr], tirx.Expr]


def _of_floats(legalize: _Legalization) -> _Legalization:
    """Use a legalization for floats, and TVM's for all other types."""

    def legalized(builder: BlockBuilder, call: Call) -> Expr:
        if str(call.args[0].ty.dtype).startswith("float"):
            return legalize(builder, call)
        return Op.get(f"relax.{op_name(call)}").get_attr("FLegalize")(builder, call)

    return legalized


def _extremum(better: _Better) -> _Legalization:
    def compute(a: te.Tensor, b: te.Tensor, extent: tuple[int, ...]) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            left, right = (_broadcast(each, index, extent) for each in (a, b))
            return tirx.Select(_wins(better, left, right), left, right)

        return te.compute(extent, element, name="extremum")

    return lambda builder, call: builder.call_te(compute, *call.args, extent=shape(call), primfunc_name_hint="extremum")


def _broadcast(tensor: te.Tensor, index: Sequence[tirx.Expr], extent: tuple[int, ...]) -> tirx.Expr:
    own = index[len(extent) - len(tensor.shape) :]
    return tensor(*(0 if int(size) == 1 else i for i, size in zip(own, tensor.shape, strict=True)))


def _wins(better: _Better, left: tirx.Expr, right: tirx.Expr) -> tirx.Expr:
    """Whether the left operand is the result: it is better, or NaN. If the right one is NaN, it is not better."""
    return tirx.any(better(left, right), tirx.isnan(left))


def _clip(builder: BlockBuilder, call: Call) -> Expr:
    low, high = (float(bound.value) for bound in call.args[1:])
    return builder.call_te(_clipped, call.args[0], low=low, high=high, primfunc_name_hint="clip")


def _relu(builder: BlockBuilder, call: Call) -> Expr:
    return builder.call_te(_clipped, call.args[0], low=0.0, high=np.inf, primfunc_name_hint="relu")


def _clipped(x: te.Tensor, low: float, high: float) -> te.Tensor:
    least, most = (tirx.const(bound, x.dtype) for bound in (low, high))

    def element(*index: tirx.Expr) -> tirx.Expr:
        value = x(*index)
        return tirx.Select(value < least, least, tirx.Select(value > most, most, value))

    return te.compute(x.shape, element, name="clipped")


def _sign(builder: BlockBuilder, call: Call) -> Expr:
    def compute(x: te.Tensor) -> te.Tensor:
        def element(*index: tirx.Expr) -> tirx.Expr:
            value, zero, one = x(*index), tirx.const(0.0, x.dtype), tirx.const(1.0, x.dtype)
            return tirx.Select(value > zero, one, tirx.Select(value < zero, -one, value))

        return te.compute(x.shape, element, name="sign")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="sign")


def _reduced_extent(call: Call) -> tuple[tuple[int, ...], list[int], bool]:
    """The shape of the operand, the reduced axes in order, and whether they stay as axes of size 1."""
    extent, axis = shape(call.args[0]), call.attrs.axis
    if axis is None:
        axes = list(range(len(extent)))
    else:
        axes = sorted(int(each) % len(extent) for each in (axis if hasattr(axis, "__len__") else [axis]))
    return extent, axes, bool(call.attrs.keepdims)


def _place(
    index: Sequence[tirx.Expr], reduced: Sequence[tirx.IterVar], axes: list[int], rank: int, keepdims: bool
) -> list[tirx.Expr]:
    """The index of an operand, from the index of the result and the reduction axes."""
    kept = iter(each for i, each in enumerate(index) if not keepdims or i not in axes)
    inner = iter(reduced)
    return [next(inner) if axis in axes else next(kept) for axis in range(rank)]


def _reduction(better: _Better, worst: float) -> _Legalization:
    def legalize(builder: BlockBuilder, call: Call) -> Expr:
        extent, axes, keepdims = _reduced_extent(call)
        best = te.comm_reducer(
            lambda a, b: tirx.Select(_wins(better, a, b), a, b), lambda dtype: tirx.const(worst, dtype), "best"
        )

        def compute(x: te.Tensor) -> te.Tensor:
            reduced = [te.reduce_axis((0, extent[axis]), f"k{axis}") for axis in axes]
            return te.compute(
                shape(call),
                lambda *index: best(x(*_place(index, reduced, axes, len(extent), keepdims)), axis=reduced),
                name="extremum",
            )

        return builder.call_te(compute, call.args[0], primfunc_name_hint="reduced_extremum")

    return legalize


def _position(better: _Better, worst: float) -> _Legalization:
    """The position of the first NaN, or of the first extremum."""
    unset = np.iinfo(np.int64).max  # after every position, so that the first value replaces it

    def combine(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
        earlier = tirx.all(a[1] == b[1], a[0] < b[0])
        stays = tirx.any(_wins(better, a[1], b[1]), earlier)
        return tirx.Select(stays, a[0], b[0]), tirx.Select(stays, a[1], b[1])

    def identity(position: str, value: str) -> tuple[tirx.Expr, tirx.Expr]:
        return tirx.const(unset, position), tirx.const(worst, value)

    def legalize(builder: BlockBuilder, call: Call) -> Expr:
        extent, axes, keepdims = _reduced_extent(call)
        first = te.comm_reducer(combine, identity, "first")

        def compute(x: te.Tensor) -> te.Tensor:
            reduced = [te.reduce_axis((0, extent[axis]), f"k{axis}") for axis in axes]
            position = tirx.const(0, "int64")
            for each, axis in zip(reduced, axes, strict=True):
                position = position * extent[axis] + each.var.astype("int64")
            found, _ = te.compute(
                shape(call),
                lambda *index: first((position, x(*_place(index, reduced, axes, len(extent), keepdims))), axis=reduced),
                name="position",
            )
            return te.compute(shape(call), lambda *index: found(*index), name="found")

        return builder.call_te(compute, call.args[0], primfunc_name_hint="position")

    return legalize


def _max_pool(builder: BlockBuilder, call: Call) -> Expr:
    """The largest number of each window; -inf if it has none. NaN is ignored."""
    attrs, extent = call.attrs, shape(call.args[0])
    kernel, strides, dilation = (
        [int(each) for each in values] for values in (attrs.pool_size, attrs.strides, attrs.dilation)
    )
    padding = [int(each) for each in attrs.padding][: len(kernel)]
    largest = te.comm_reducer(
        lambda most, value: tirx.Select(value > most, value, most), lambda dtype: tirx.const(-np.inf, dtype), "largest"
    )

    def compute(x: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, size), f"k{axis}") for axis, size in enumerate(kernel)]

        def element(n: tirx.Expr, c: tirx.Expr, *place: tirx.Expr) -> tirx.Expr:
            at = [
                i * stride + tap * step - before
                for i, stride, tap, step, before in zip(place, strides, taps, dilation, padding, strict=True)
            ]
            inside = tirx.all(*(tirx.all(i >= 0, i < size) for i, size in zip(at, extent[2:], strict=True)))
            return largest(tirx.if_then_else(inside, x(n, c, *at), tirx.const(-np.inf, x.dtype)), axis=taps)

        return te.compute(shape(call), element, name="max_pool")

    return builder.call_te(compute, call.args[0], primfunc_name_hint="max_pool")


def _greater(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return a > b


def _less(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
    return a < b


NAN_RULES: Mapping[str, _Legalization] = {
    f"relax.{name}": _of_floats(legalize)
    for name, legalize in {
        "maximum": _extremum(_greater),
        "minimum": _extremum(_less),
        "clip": _clip,
        "nn.relu": _relu,
        "sign": _sign,
        "max": _reduction(_greater, -np.inf),
        "min": _reduction(_less, np.inf),
        "argmax": _position(_greater, -np.inf),
        "argmin": _position(_less, np.inf),
        "nn.max_pool1d": _max_pool,
        "nn.max_pool2d": _max_pool,
        "nn.max_pool3d": _max_pool,
    }.items()
}
"""Loops by the name of the Relax operator, for ``LegalizeOps``."""
