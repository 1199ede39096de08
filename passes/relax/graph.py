"""Read a Relax function as a list of bindings (``Graph``), and write the next version of it (``Writer``).

Every pass has the same structure:

1. Read the function as a ``Graph``.
2. Walk its bindings in order. Copy each with ``Writer.keep``, or replace it with ``Writer.bind``.
3. Return ``Writer.module``.

Variables keep their names through all passes. So a kernel can be traced back to the ONNX value that it computes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import tvm
from tvm import relax
from tvm.ir import Call, GenericConst, IRModule
from tvm.relax import Expr, Var


class Graph:
    """The bindings of a function without control flow.

    Attributes:
        params: The parameters.
        bindings: (variable, value) in order of execution. A binding that only renames a variable or constant is left
            out; its readers refer to the original.
        results: The variables (or constants) that are returned.
        returns_tuple: Whether the function returns a tuple of the results, rather than one tensor.
        values: The value of each bound variable.
        users: For each variable the variables whose bindings read it, each once.
    """

    def __init__(self, func: relax.Function) -> None:
        self.params: list[Var] = list(func.params)
        self.bindings: list[tuple[Var, Expr]] = []
        alias: dict[Var, Expr] = {}
        tuples: dict[Var, relax.Tuple] = {}
        for block in func.body.blocks:
            for binding in block.bindings:
                value = substitute(binding.value, alias)
                if isinstance(value, Var | GenericConst):
                    alias[binding.var] = value
                elif isinstance(value, relax.Tuple):
                    tuples[binding.var] = value
                else:
                    self.bindings.append((binding.var, value))
        body = alias.get(func.body.body, func.body.body)
        body = tuples.get(body, body)
        self.returns_tuple = isinstance(body, relax.Tuple)
        self.results: list[Expr] = list(body.fields) if self.returns_tuple else [body]
        self.results = [alias.get(result, result) for result in self.results]
        self.values: dict[Var, Expr] = dict(self.bindings)
        self.users: dict[Var, list[Var]] = {var: [] for var in [*self.params, *self.values]}
        for var, value in self.bindings:
            for operand in dict.fromkeys(operands(value)):
                self.users[operand].append(var)

    def live(self) -> set[Var]:
        """The variables that the results depend on."""
        alive = {result for result in self.results if isinstance(result, Var)}
        for var, value in reversed(self.bindings):
            if var in alive:
                alive.update(operands(value))
        return alive

    def producer(self, expr: Expr, op: str) -> Call | None:
        """The call that computes ``expr``, if it is a call of the operator ``op`` (without ``relax.``)."""
        value = self.values.get(expr) if isinstance(expr, Var) else None
        return value if value is not None and op_name(value) == op else None


class Writer:
    """Builds the next version of a function, binding by binding.

    Example::

        writer = Writer(graph)
        for var, value in graph.bindings:
            writer.keep(var, value)
        return writer.module(mod)
    """

    def __init__(self, graph: Graph, mod: IRModule | None = None) -> None:
        self._graph = graph
        self._builder = relax.BlockBuilder(mod)
        self._new: dict[Var, Expr] = {param: param for param in graph.params}
        self._bindings: list[relax.VarBinding] = []
        self._names = {var.name for var in graph.users}

    def __getitem__(self, expr: Expr) -> Expr:
        """An expression of the old function, with its variables replaced by those of the new function."""
        return substitute(expr, self._new)

    def keep(self, var: Var, value: Expr) -> Var:
        """Copy a binding of the old function."""
        return self.bind(var, self[value])

    def bind(self, var: Var, value: Expr) -> Var:
        """Replace the old variable ``var`` by a value of the new function."""
        if isinstance(value, Var):
            self._new[var] = value
            return value
        self._names.discard(var.name)
        new = self.emit(value, var.name)
        self._new[var] = new
        return new

    def emit(self, value: Expr, name: str) -> Var:
        """Bind a value of the new function to a new variable. If the name is taken, a number is appended."""
        value = self._builder.normalize(value)
        stem, count = name, 0
        while name in self._names:
            count += 1
            name = f"{stem}_{count}"
        self._names.add(name)
        new = relax.DataflowVar(name, value.ty)
        self._bindings.append(relax.VarBinding(new, value))
        return new

    def alias(self, var: Var, value: Expr) -> None:
        """Let all later readers of the old variable ``var`` read this value of the new function."""
        self._new[var] = value

    def function(self, attrs: dict[str, object] | None = None, more: Sequence[Var] = ()) -> relax.Function:
        """The new function. It returns the results of the old one; the parameters ``more`` follow the old ones."""
        results = [self[result] for result in self._graph.results]
        out = relax.Tuple(results) if self._graph.returns_tuple else results[0]
        return make_function([*self._graph.params, *more], self._bindings, out, attrs)

    def module(self, mod: IRModule, more: Sequence[Var] = ()) -> IRModule:
        """``mod`` with ``main`` replaced by the new function; the parameters ``more`` follow the old ones."""
        others = {gvar: func for gvar, func in mod.functions.items() if gvar.name_hint != "main"}
        new = IRModule(others, attrs=mod.attrs)
        new["main"] = self.function({"global_symbol": "main"}, more)
        return new


def make_function(
    params: Sequence[Var], bindings: Sequence[relax.VarBinding], result: Expr, attrs: dict[str, object] | None = None
) -> relax.Function:
    """A pure function of one dataflow block."""
    builder = relax.BlockBuilder()
    out = relax.Var("out", builder.normalize(result).ty)
    block = relax.DataflowBlock([*bindings, relax.VarBinding(out, result)])
    func = relax.Function(list(params), relax.SeqExpr([block], out), out.ty, True)
    return func.with_attrs(attrs) if attrs else func


def substitute(expr: Expr, mapping: dict[Var, Expr]) -> Expr:
    """A value whose variables are replaced as ``mapping`` gives; variables that it does not name stay."""
    if isinstance(expr, Var):
        return mapping.get(expr, expr)
    if isinstance(expr, relax.Tuple):
        return relax.Tuple([substitute(field, mapping) for field in expr.fields])
    if isinstance(expr, relax.TupleGetItem):
        return relax.TupleGetItem(substitute(expr.tuple_value, mapping), expr.index)
    if isinstance(expr, Call):
        return Call(expr.op, [substitute(arg, mapping) for arg in expr.args], expr.attrs, expr.ty_args)
    return expr


def operands(value: Expr) -> list[Var]:
    """The variables that a bound value reads, in order, with repetitions."""
    if isinstance(value, Var):
        return [value]
    if isinstance(value, Call):
        return [var for arg in value.args for var in operands(arg)]
    if isinstance(value, relax.Tuple):
        return [var for field in value.fields for var in operands(field)]
    if isinstance(value, relax.TupleGetItem):
        return operands(value.tuple_value)
    return []


def op_name(value: Expr) -> str:
    """The operator of a call without its ``relax.`` prefix, such as ``"nn.conv2d"``; empty if it calls no operator."""
    if isinstance(value, Call) and isinstance(value.op, tvm.ir.Op):
        return str(value.op.name).removeprefix("relax.")
    return ""


def constant(expr: Expr) -> np.ndarray | None:
    """The numbers of a constant; None for any other expression."""
    return expr.value.numpy() if isinstance(expr, GenericConst) else None


def shape(expr: Expr) -> tuple[int, ...]:
    """The static shape of a tensor."""
    return tuple(int(extent) for extent in expr.ty.shape)


def without_pixels(extent: tuple[int, ...]) -> tuple[int, ...]:
    """``[N, C]`` for a feature map ``[N, C, 1, 1]``, which has the same memory layout; else the shape unchanged."""
    return extent[:2] if len(extent) == 4 and extent[2:] == (1, 1) else extent


def flattened_map(graph: Graph, expr: Expr) -> Var | None:
    """The feature map [N, C, H, W], of more than one pixel, whose samples are the rows of ``expr``; None if none is."""
    flatten = graph.producer(expr, "reshape")
    if flatten is None or not isinstance(flatten.args[0], Var):
        return None
    extent = shape(flatten.args[0])
    whole = len(extent) == 4 and extent[2:] != (1, 1) and shape(expr) == (extent[0], int(np.prod(extent[1:])))
    return flatten.args[0] if whole else None


def between_formats(permute: Call) -> bool:
    """Whether a ``permute_dims`` only exchanges channels first and last, two forms in which a map is stored."""
    axes = permute.attrs.axes
    return axes is not None and [int(axis) % len(axes) for axis in axes] in ([0, 2, 3, 1], [0, 3, 1, 2])


def channel_axis(extent: Sequence[int]) -> int:
    """The axis of the channels: axis 1 of a feature map [N, C, H, W], else the last axis."""
    return 1 if len(extent) == 4 else len(extent) - 1


def is_per_channel(values: np.ndarray, extent: Sequence[int]) -> bool:
    """Whether a constant is one number, or one number per channel of a tensor of shape ``extent``."""
    if values.size == 1:
        return values.ndim <= len(extent)
    padded = (1,) * (len(extent) - values.ndim) + values.shape
    axis = channel_axis(extent)
    return len(padded) == len(extent) and values.size == extent[axis] == padded[axis]


def is_per_pixel(of: Sequence[int], extent: Sequence[int]) -> bool:
    """Whether the shape ``of`` has one value per pixel, for example [N, 1, H, W] beside ``extent`` [N, C, H, W]."""
    axis = channel_axis(extent)
    return tuple(of) == tuple(1 if i == axis else size for i, size in enumerate(extent))


def is_per_sample(of: Sequence[int], extent: Sequence[int]) -> bool:
    """Whether the shape ``of`` has one value per sample: [N, 1, 1, 1] beside ``extent`` [N, C, H, W]."""
    return len(extent) == 4 and tuple(of) == (extent[0], 1, 1, 1)


def is_per_sample_channel(of: Sequence[int], extent: Sequence[int]) -> bool:
    """Whether the shape ``of`` has one value per sample and channel: [N, C, 1, 1] beside ``extent`` [N, C, H, W]."""
    return len(extent) == 4 and tuple(of) == (*extent[:2], 1, 1)


def broadcasts_to(of: Sequence[int], extent: Sequence[int]) -> bool:
    """Whether an epilogue of shape ``extent`` can read a tensor of shape ``of``.

    They are equal, or it is one of the three above, or one number without dimensions.
    """
    return tuple(of) in ((), tuple(extent)) or any(
        fits(of, extent) for fits in (is_per_pixel, is_per_sample, is_per_sample_channel)
    )


def channels_last(extent: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that kernels read: [N, H, W, C] for a feature map [N, C, H, W], a matrix [rows, C] for [..., C]."""
    if len(extent) == 4:
        batch, channels, height, width = extent
        return (batch, height, width, channels)
    if not extent:
        return (1, 1)
    return (int(np.prod(extent[:-1])), extent[-1])


def drop_dead(mod: IRModule) -> IRModule:
    """Remove bindings that no result depends on."""
    graph = Graph(mod["main"])
    live = graph.live()
    writer = Writer(graph)
    for var, value in graph.bindings:
        if var in live:
            writer.keep(var, value)
    return writer.module(mod)
