"""Operators that work in any layout: the same operator on tensors whose axes are permuted or joined.

Each rule takes one binding, and the tensors in which its operands are stored (``Moved``). It returns the operator on
these tensors, and how the value is read from the result. No rule changes a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var, op

from .graph import constant, op_name, operands, shape
from .views import View

ELEMENTWISE = {
    "abs", "add", "astype", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "ceil", "clip", "cos", "cosh",
    "divide", "equal", "erf", "exp", "floor", "floor_divide", "floor_mod", "greater", "greater_equal", "isfinite",
    "isinf", "isnan", "left_shift", "less", "less_equal", "log", "logical_and", "logical_not", "logical_or",
    "logical_xor", "maximum", "minimum", "mod", "multiply", "negative", "nn.gelu", "nn.gelu_tanh", "nn.leakyrelu",
    "nn.relu", "nn.relu6", "nn.selu", "nn.silu", "nn.softplus", "not_equal", "power", "right_shift", "round", "rsqrt",
    "sigmoid", "sign", "sin", "sinh", "sqrt", "square", "subtract", "tan", "tanh", "trunc", "where",
}  # fmt: skip
"""Operators of which each element depends on the elements at its place alone."""
_REDUCTIONS = {"mean": op.mean, "sum": op.sum, "max": op.max, "min": op.min, "prod": op.prod}


@dataclass(frozen=True, eq=False)
class Moved:
    """A value that is stored in another layout: a tensor of the new function, and how the value is read from it."""

    tensor: Expr
    view: View


class Operands:
    """What a rule sees of the graph: the operands in their layouts."""

    def stored(self, operand: Var) -> Moved:
        """How an operand is stored."""
        raise NotImplementedError

    def brought(self, operand: Var, view: View) -> Var | None:
        """The tensor from which ``view`` reads the operand; permuted if need be. None if there is no way to it."""
        raise NotImplementedError

    def permutations(self, operand: Var, view: View) -> int:
        """The number of permutations that ``brought`` would write; 2 if there is no way."""
        raise NotImplementedError

    def wanted(self, view: View) -> bool:
        """Whether the result's readers want the layout that ``view`` reads."""
        raise NotImplementedError

    def emit(self, value: Expr, name: str) -> Var:
        """Bind a step of a rule to a new variable."""
        raise NotImplementedError


Part = Callable[[View], View | None]
"""The view of an operand if the result has the given one; None if there is none."""

Rule = Callable[[Operands, Var, Call], Moved | None]


def moved(given: Operands, var: Var, value: Expr) -> Moved | None:
    """The value of an old variable in the layout of its operands; None if its operator needs the axes in order."""
    rule = _RULES.get(op_name(value))
    return None if rule is None else rule(given, var, value)


def is_movable(value: Expr) -> bool:
    """Whether there is a rule for a binding; it may still fail for the layout of its operands."""
    if op_name(value) in ("matmul", "take") and constant(value.args[1]) is None:
        return False
    return op_name(value) in _MOVABLE or isinstance(value, relax.TupleGetItem)


def _layout(given: Operands, candidates: Sequence[View], readers: Sequence[tuple[Var, Part]]) -> View:
    """The view among ``candidates`` in which the fewest operands are permuted; then the one that readers want."""

    def cost(view: View) -> tuple[int, bool]:
        wants = [(operand, of(view)) for operand, of in readers]
        return sum(2 if w is None else given.permutations(o, w) for o, w in wants), not given.wanted(view)

    return min(dict.fromkeys(candidates), key=cost)


def _elementwise(given: Operands, var: Var, value: Call) -> Moved | None:
    extent, read = shape(var), list(dict.fromkeys(operands(value)))
    whole = [operand for operand in read if shape(operand) == extent]
    if not whole:
        return None

    def part(operand: Var) -> Part:
        own = shape(operand)
        if not own:  # one number, for every order of the axes
            return lambda view: View.identity(())
        return lambda view: view.broadcast((1,) * (len(extent) - len(own)) + own)

    view = _layout(given, [given.stored(each).view for each in whole], [(each, part(each)) for each in read])
    new: dict[Var, Var] = {}
    for operand in read:
        wanted = part(operand)(view)
        found = None if wanted is None else given.brought(operand, wanted)
        if found is None:
            return None
        new[operand] = found

    def argument(arg: Expr) -> Expr:
        if isinstance(arg, Var):
            return new[arg]
        numbers = constant(arg)
        return arg if numbers is None else relax.const(view.store_broadcast(numbers), str(arg.ty.dtype))

    return Moved(Call(value.op, [argument(arg) for arg in value.args], value.attrs, value.ty_args), view)


def _reduction(given: Operands, var: Var, value: Call) -> Moved | None:
    """A sum, mean, product or extremum over whole stored axes; the result keeps them, unless it is one number."""
    source = given.stored(value.args[0])
    if not shape(var):
        return Moved(_REDUCTIONS[op_name(value)](source.tensor), View.identity(()))
    rank = len(source.view.shape)
    axes = range(rank) if value.attrs.axis is None else sorted({int(axis) % rank for axis in value.attrs.axis})
    factors = source.view.value_factors
    reduced = {factor for axis in axes for factor in factors[axis]}
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(source.view.shape))
    view = source.view.broadcast(kept)
    over = [axis for axis, inside in enumerate(source.view.stored_factors) if inside and reduced.issuperset(inside)]
    result = None if view is None else view.reshaped(shape(var))
    if result is None:
        return None
    if not over:  # of one element each
        return Moved(source.tensor, result)
    pixels = [axis for axis, extent in enumerate(source.view.stored) if axis in over or (axis > 1 and extent == 1)]
    if op_name(value) == "mean" and len(source.view.stored) == 4 and pixels == [2, 3]:  # as the importer writes it
        return Moved(op.nn.adaptive_avg_pool2d(source.tensor, (1, 1)), result)
    return Moved(_REDUCTIONS[op_name(value)](source.tensor, over, keepdims=True), result)


def _extremum_position(given: Operands, var: Var, value: Call) -> Moved | None:
    source = given.stored(value.args[0])
    if value.attrs.axis is None:
        return None
    axis = int(value.attrs.axis) % len(source.view.shape)
    stored, view = source.view.stored_axis(axis), source.view.resized({axis: 1})
    result = None if view is None else view.reshaped(shape(var))
    if stored is None or result is None:
        return None
    find = {"argmax": op.argmax, "argmin": op.argmin}[op_name(value)]
    return Moved(find(source.tensor, stored, keepdims=True), result)


def _along_axis(given: Operands, var: Var, value: Call) -> Moved | None:
    """An operator along one axis that keeps the shape."""
    source = given.stored(value.args[0])
    axis = source.view.stored_axis(int(value.attrs.axis) % len(source.view.shape))
    if axis is None:
        return None
    match op_name(value):
        case "nn.softmax":
            return Moved(op.nn.softmax(source.tensor, axis), source.view)
        case "nn.log_softmax":
            return Moved(op.nn.log_softmax(source.tensor, axis), source.view)
        case "flip":
            return Moved(op.flip(source.tensor, axis), source.view)
    if not isinstance(value.args[1], Var) and constant(value.args[1]) is not None:  # nn.prelu
        return Moved(op.nn.prelu(source.tensor, value.args[1], axis), source.view)
    return None


def _pad(given: Operands, var: Var, value: Call) -> Moved | None:
    source = given.stored(value.args[0])
    widths = [int(width) for width in value.attrs.pad_width]
    padded = [axis for axis in range(len(widths) // 2) if any(widths[2 * axis : 2 * axis + 2])]
    view = source.view.resized({axis: shape(var)[axis] for axis in padded})
    if view is None:
        return None
    new = [0] * (2 * len(source.view.stored))
    for axis in padded:
        place = source.view.stored_axis(axis)
        if place is None:
            return None
        new[2 * place : 2 * place + 2] = widths[2 * axis : 2 * axis + 2]
    pad = op.nn.pad(source.tensor, new, pad_mode=value.attrs.pad_mode, pad_value=float(value.attrs.pad_value))
    return Moved(pad, view)


def _slice(given: Operands, var: Var, value: Call) -> Moved | None:
    source = given.stored(value.args[0])
    rank = len(source.view.shape)
    axes, *bounds = ([int(each.value) for each in argument.fields] for argument in value.args[1:])
    stored = [source.view.stored_axis(axis % rank) for axis in axes]
    view = source.view.resized({axis % rank: shape(var)[axis % rank] for axis in axes})
    if view is None or None in stored:
        return None
    inbound = bool(value.attrs.assume_inbound)
    return Moved(op.strided_slice(source.tensor, stored, *bounds, assume_inbound=inbound), view)


def _take(given: Operands, var: Var, value: Call) -> Moved | None:
    """A selection along one axis by constant indices."""
    indices = constant(value.args[1])
    if indices is None or indices.ndim > 1 or value.attrs.axis is None or not isinstance(value.args[0], Var):
        return None
    source = given.stored(value.args[0])
    axis = int(value.attrs.axis) % len(source.view.shape)
    stored, view = source.view.stored_axis(axis), source.view.resized({axis: indices.size})
    result = None if view is None else view.reshaped(shape(var))
    if stored is None or result is None:
        return None
    picks = relax.const(indices.reshape(-1), str(indices.dtype))
    return Moved(op.take(source.tensor, picks, stored, mode=value.attrs.mode), result)


def _concat(given: Operands, var: Var, value: Call) -> Moved | None:
    if value.attrs.axis is None or not isinstance(value.args[0], relax.Tuple):
        return None
    fields = list(value.args[0].fields)
    axis = int(value.attrs.axis) % len(shape(var))
    read = list(dict.fromkeys(field for field in fields if isinstance(field, Var)))

    def part(field: Expr) -> Part:
        return lambda view: view.resized({axis: shape(field)[axis]})

    layouts = [given.stored(each).view.resized({axis: shape(var)[axis]}) for each in read]
    whole = [view for view in layouts if view is not None and view.stored_axis(axis) is not None]
    if not whole:
        return None
    view = _layout(given, whole, [(each, part(each)) for each in read])
    new = []
    for field in fields:
        wanted, numbers = part(field)(view), constant(field)
        if wanted is None:
            return None
        if isinstance(field, Var):
            found = given.brought(field, wanted)
        elif numbers is not None:
            found = relax.const(wanted.store(numbers), str(field.ty.dtype))
        else:
            return None
        if found is None:
            return None
        new.append(found)
    return Moved(op.concat(new, view.stored_axis(axis)), view)


def _matmul(given: Operands, var: Var, value: Call) -> Moved | None:
    """A dense layer with constant weights: its rows are permuted, or it becomes a 1x1 convolution of a feature map."""
    weight = constant(value.args[1])
    if not isinstance(value.args[0], Var) or weight is None or weight.ndim != 2 or len(shape(var)) < 2:
        return None
    source = given.stored(value.args[0])
    view, (rows, columns) = source.view, weight.shape
    last = len(view.shape) - 1
    inner = view.value_factors[last]
    outer = len(view.sizes) - len(inner)
    if inner and sorted(inner) == list(range(outer, len(view.sizes))):
        return _dense(given, var, value, weight)
    if len(view.stored) != 4 or view.stored_axis(last) != 1 or str(var.ty.dtype) != "float32":
        return None
    result = view.resized({last: columns})
    if result is None:
        return None
    kernel = np.ascontiguousarray(weight.T).reshape(columns, rows, 1, 1)
    return Moved(op.nn.conv2d(source.tensor, relax.const(kernel)), result)


def _dense(given: Operands, var: Var, value: Call, weight: np.ndarray) -> Moved | None:
    """A product of rows whose elements are the last factors of the stored tensor, in any order."""
    source, extent = given.stored(value.args[0]), shape(value.args[0])
    view = source.view
    inner = view.value_factors[-1]
    leading = view.order[: len(view.order) - len(inner)]
    by_factor = weight.reshape(*(view.sizes[factor] for factor in inner), -1)
    rows = np.ascontiguousarray(by_factor.transpose(*np.argsort(inner), len(inner))).reshape(weight.shape)
    in_order = leading == tuple(range(len(leading)))
    stored = (*(extent[:-1] if in_order else view.sizes[: len(leading)]), extent[-1])
    result = View.identity((*stored[:-1], weight.shape[1]))
    if not in_order:
        reordered = result.permuted([*leading, len(leading)]).reshaped(shape(var))
        if reordered is None:
            return None
        result = reordered
    tensor = source.tensor
    if view.stored != stored:
        tensor = given.emit(op.reshape(tensor, stored), f"{var.name}_rows")
    return Moved(op.matmul(tensor, relax.const(rows)), result)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "argmax": _extremum_position,
    "argmin": _extremum_position,
    "nn.softmax": _along_axis,
    "nn.log_softmax": _along_axis,
    "nn.prelu": _along_axis,
    "flip": _along_axis,
    "nn.pad": _pad,
    "strided_slice": _slice,
    "take": _take,
    "concat": _concat,
    "matmul": _matmul,
}
_MOVABLE = {*_RULES, "permute_dims", "reshape", "squeeze", "expand_dims", "split"}
KEEPS_AXES = {
    *ELEMENTWISE, "nn.softmax", "nn.log_softmax", "nn.prelu", "flip", "nn.pad", "strided_slice", "concat", "take",
}  # fmt: skip
"""Those whose result has the axes of their operands in the same order."""
