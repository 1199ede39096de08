"""Write what works on rows (the last axis) in the forms that kernels compute.

1. Softmax and its logarithm become a maximum, exponentials, a sum and a quotient: one layer of rows (schedules/
   elementwise/rows.py). SiLU, GELU and squares become products and functions, which join the layer before them.
2. Tensors of four and more axes are read as feature maps [N, C, H, W] by all later phases. Where the last axis is the
   row, as in attention, the leading axes become one: [1, heads, tokens, tokens] becomes [heads, tokens, tokens]. The
   memory is the same. A merged value keeps its name; whoever needs all its axes reads a reshape of it.
3. A part of a split becomes a slice.
4. A reduction over the channels keeps them as an axis of size 1, and a reshape drops it.

Example: ``softmax(multiply(matmul(q, k), 0.125))`` on four axes becomes the same on three.
"""

from __future__ import annotations

from collections.abc import Callable
from math import pi, prod, sqrt

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.functions import FUNCTIONS, REDUCTIONS
from ..relax.graph import Graph, Writer, channel_axis, constant, drop_dead, op_name, shape
from ..relax.quantisers import quantisers

_REDUCE: dict[str, Callable[..., Expr]] = {"sum": op.sum, "mean": op.mean, "max": op.max, "min": op.min}
_ELEMENTWISE = {
    "add", "subtract", "multiply", "divide", "maximum", "minimum", "power", "negative", "clip",
    "nn.relu", "nn.leakyrelu", "nn.silu", "nn.gelu", "nn.gelu_tanh", *FUNCTIONS,
}  # fmt: skip


def merge_leading_axes(mod: IRModule) -> IRModule:
    """Bring rows into the forms of the module's docstring."""
    graph = Graph(mod["main"])
    merger = _Merger(graph, Writer(graph))
    for param in graph.params:
        merger.reshape(param)
    for var, value in graph.bindings:
        merger.rewrite(var, value)
        merger.reshape(var)
    return drop_dead(merger.writer.module(mod))


class _Merger:
    def __init__(self, graph: Graph, writer: Writer) -> None:
        self.graph = graph
        self.writer = writer
        self.merged: dict[Var, Var] = {}
        """Values that are computed with three axes, by their old variables."""
        self.reshaped: dict[Var, Var] = {}
        """Other values that were reshaped to three axes."""
        self.read_as_rows: set[Var] = set()
        """Elementwise results that only operators on rows read."""
        counted = quantisers(graph)
        self.counted = {*counted, *(var for each in counted.values() for var in each.chain)}
        """The sums over thresholds that stand for quantisers, which keep their form."""
        for var, value in reversed(graph.bindings):
            users = graph.users[var]
            rows = all(user in self.read_as_rows or _works_on_rows(graph.values[user]) for user in users)
            if op_name(value) in _ELEMENTWISE and users and rows and var not in graph.results:
                self.read_as_rows.add(var)

    def rewrite(self, var: Var, value: Expr) -> None:
        """Write one binding."""
        if isinstance(value, relax.TupleGetItem) and (piece := self._piece(value)) is not None:
            self.writer.bind(var, piece)
            return
        floats = isinstance(var.ty, relax.TensorType) and str(var.ty.dtype) == "float32"
        if not floats or not isinstance(value, Call) or var in self.counted:
            self.writer.keep(var, value)
            return
        call = self._on_rows(var, value)
        if call is None and _drops_channels(value):
            call = _kept(value, self.writer[value.args[0]], channel_axis(shape(value.args[0])))
        if call is None:
            self.writer.bind(var, self._expanded(var, self.writer[value]))
            return
        new = self.writer.bind(var, self._expanded(var, call))
        if op_name(value) not in REDUCTIONS or value.attrs.keepdims:
            self.merged[var] = new
        self.writer.alias(var, self.writer.emit(op.reshape(new, shape(var)), f"{var.name}_axes"))

    def _on_rows(self, var: Var, value: Call) -> Expr | None:
        """A call on tensors of three axes that computes the same numbers; None if the value is not one of rows."""
        name, args = op_name(value), list(value.args)
        rank = len(shape(args[0])) if args and isinstance(args[0].ty, relax.TensorType) else 0
        if rank < 4:
            return None
        if name == "matmul":
            both = all(isinstance(arg, Var) for arg in args) and shape(args[0])[:-2] == shape(args[1])[:-2]
            return op.matmul(*map(self._rows, args)) if both else None
        if name in ("nn.softmax", "nn.log_softmax") and int(value.attrs.axis) % rank == rank - 1:
            return (op.nn.softmax if name == "nn.softmax" else op.nn.log_softmax)(self._rows(args[0]), axis=-1)
        if name in REDUCTIONS and _axes(value) == [rank - 1]:
            return _kept(value, self._rows(args[0]), 2)
        if name == "permute_dims" and _axes(value) == [*range(rank - 2), rank - 1, rank - 2]:
            products = all(op_name(self.graph.values[user]) == "matmul" for user in self.graph.users[var])
            return op.permute_dims(self._rows(args[0]), [0, 2, 1]) if products else None
        after_rows = any(arg in self.merged for arg in args if isinstance(arg, Var))
        if name in _ELEMENTWISE and (after_rows or var in self.read_as_rows):
            return self._elementwise(value, shape(var))
        return None

    def _piece(self, value: relax.TupleGetItem) -> Expr | None:
        """A part of a split of floats, as a slice."""
        split = self.graph.values.get(value.tuple_value)
        if split is None or op_name(split) != "split" or str(split.args[0].ty.dtype) != "float32":
            return None
        axis = int(split.attrs.axis) % len(shape(split.args[0]))
        sizes = [int(field.shape[axis]) for field in value.tuple_value.ty.fields]
        begin = sum(sizes[: value.index])
        return op.strided_slice(self.writer[split.args[0]], [axis], [begin], [begin + sizes[value.index]])

    def _elementwise(self, value: Call, extent: tuple[int, ...]) -> Expr | None:
        """The same operation on merged operands: values, one value per row, numbers, or one number per column."""
        new: list[Expr] = []
        for arg in value.args:
            numbers = constant(arg)
            if isinstance(arg, Var):
                if shape(arg) not in (extent, (*extent[:-1], 1)):
                    return None
                new.append(self._rows(arg))
            elif numbers is None:  # a bound of clip
                new.append(arg)
            elif numbers.size == 1 or numbers.shape[-1:] == (numbers.size,) == extent[-1:]:
                new.append(relax.const(numbers.reshape((1, 1, numbers.size))))
            else:
                return None
        return Call(value.op, new, value.attrs)

    def reshape(self, var: Var) -> None:
        """Reshape a value of four or more axes to [leading axes, rows, columns].

        This is done at once for all values, since an operation joins the latest layer that it reads from. What nobody
        reads is removed at the end.
        """
        floats = isinstance(var.ty, relax.TensorType) and str(var.ty.dtype) == "float32"
        if floats and len(shape(var)) >= 4 and var not in self.merged:
            *leading, rows, columns = shape(var)
            new = op.reshape(self.writer[var], (prod(leading), rows, columns))
            self.reshaped[var] = self.writer.emit(new, f"{var.name}_rows")

    def _rows(self, var: Var) -> Var:
        """A value as [leading axes, rows, columns]."""
        return self.merged[var] if var in self.merged else self.reshaped[var]

    def _expanded(self, var: Var, call: Expr) -> Expr:
        """Softmax, activations and powers by functions, reductions and IEEE operations; other calls as they are."""
        name = op_name(call)

        def emit(value: Expr, suffix: str) -> Var:
            return self.writer.emit(value, f"{var.name}_{suffix}")

        if name in ("nn.softmax", "nn.log_softmax"):
            x, axis = call.args[0], int(call.attrs.axis) % len(shape(call.args[0]))
            if axis != channel_axis(shape(x)) or not 2 <= len(shape(x)) <= 4:
                return call
            shifted = emit(op.subtract(x, emit(op.max(x, [axis], keepdims=True), "max")), "shifted")
            powers = emit(op.exp(shifted), "exp")
            total = emit(op.sum(powers, [axis], keepdims=True), "sum")
            return (
                op.divide(powers, total) if name == "nn.softmax" else op.subtract(shifted, emit(op.log(total), "log"))
            )
        if name == "nn.silu":
            x = call.args[0]
            return op.multiply(x, emit(op.sigmoid(x), "sigmoid"))
        if name == "nn.gelu":
            x = call.args[0]
            part = emit(op.erf(emit(op.multiply(x, _number(sqrt(0.5))), "scaled")), "erf")
            return op.multiply(emit(op.multiply(x, emit(op.add(part, _number(1)), "part")), "twice"), _number(0.5))
        if name == "nn.gelu_tanh":
            x = call.args[0]
            cube = emit(op.multiply(emit(op.multiply(x, x), "square"), x), "cube")
            inner = emit(op.add(emit(op.multiply(cube, _number(0.044715)), "part_of_cube"), x), "inner")
            part = emit(op.tanh(emit(op.multiply(inner, _number(sqrt(2 / pi))), "scaled")), "tanh")
            return op.multiply(emit(op.multiply(x, emit(op.add(part, _number(1)), "part")), "twice"), _number(0.5))
        if name == "power" and (exponent := constant(call.args[1])) is not None and exponent.size == 1:
            x = call.args[0]
            if isinstance(x, Var) and exponent.item() in (0.5, 2):
                return op.multiply(x, x) if exponent.item() == 2 else op.sqrt(x)
        return call


def _works_on_rows(value: Expr) -> bool:
    """Whether an operator on four or more axes reads the last one as a row."""
    name = op_name(value)
    rank = len(shape(value.args[0])) if name in ("matmul", "nn.softmax", "nn.log_softmax", *REDUCTIONS) else 0
    if rank < 4 or name == "matmul":
        return rank >= 4 and constant(value.args[1]) is None
    return _axes(value) == [rank - 1] if name in REDUCTIONS else int(value.attrs.axis) % rank == rank - 1


def _axes(value: Call) -> list[int] | None:
    """The axes of a reduction or a ``permute_dims``, from 0 on."""
    axes = value.attrs.axes if op_name(value) == "permute_dims" else value.attrs.axis
    rank = len(shape(value.args[0]))
    return None if axes is None else [int(axis) % rank for axis in axes]


def _drops_channels(value: Call) -> bool:
    """Whether a value is a reduction over the channels that drops their axis; a mean of samples is another layer."""
    if op_name(value) not in REDUCTIONS or value.attrs.keepdims:
        return False
    extent = shape(value.args[0])
    of_samples = len(extent) == 2 and op_name(value) == "mean"
    return 2 <= len(extent) <= 4 and _axes(value) == [channel_axis(extent)] and not of_samples


def _kept(reduction: Call, x: Expr, axis: int) -> Expr:
    """A reduction of ``x`` over one axis, which stays as an axis of size 1."""
    return _REDUCE[op_name(reduction)](x, [axis], keepdims=True)


def _number(value: float) -> Expr:
    return relax.const(np.float32(value))
