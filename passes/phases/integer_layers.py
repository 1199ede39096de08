"""Compute convolutions and dense layers of quantised values with integer weights in integers."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from tvm import relax
from tvm.ir import Call, IRModule
from tvm.relax import Expr, Var, op

from ..relax.codes import Dequantised, codes, dequantised
from ..relax.facts import Note, integer_sums, with_integer_sums, with_notes
from ..relax.graph import (
    Graph,
    Writer,
    channel_axis,
    constant,
    drop_dead,
    flattened_map,
    is_per_channel,
    op_name,
    shape,
)
from ..relax.integer_weights import IntegerWeight
from ..relax.weights import linear_weight


def integer_layers(mod: IRModule) -> IRModule:
    """Rewrite linear layers whose data are ``(q - zero_point) * scale``, and whose weights are integers times scales.

    1. The layer becomes a sum of integers, times the product of both scales in float32::

           conv(x, w)  ->  multiply(astype(conv(q - zero_point, k), float32), scale * weight_scale)

       The reference sums products of floats, which it rounds. The module records that (relax/facts.py).
    2. A bias of integers times that product is added to the sum, before it becomes a float.
    3. If a quantisation follows, with a ReLU between at most, its scale joins the factor: ``scale * weight_scale /
       result_scale``. This is the arithmetic of ONNX's QLinearConv, and of what onnxruntime makes of such a layer.

    A note tells of each layer that reads such data and stays float.
    """
    graph = Graph(mod["main"])
    rewriter = _Rewriter(graph)
    for var, value in graph.bindings:
        rewriter.visit(var, value)
    sums = {**integer_sums(mod), **rewriter.sums}
    return with_notes(with_integer_sums(drop_dead(rewriter.writer.module(mod)), sums), rewriter.notes)


@dataclass(frozen=True, eq=False)
class _Layer:
    """A layer that becomes one of integers.

    Attributes:
        data: Its data.
        weight: Its weights.
        padding: What a padding before it adds to its own, (top, left, bottom, right).
        feature_map: The feature map that its data are the flattened samples of, if it is a dense layer on one.
    """

    data: Dequantised
    weight: IntegerWeight
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    feature_map: Var | None = None

    @property
    def factor(self) -> np.ndarray:
        """What the sum of integers is multiplied by, float32 [1] or [OC]."""
        return self.data.scale * self.weight.scale


@dataclass(frozen=True, eq=False)
class _Scaled:
    """A value ``multiply(sum, factor)`` that a divisor may join.

    Attributes:
        sum: The sum as float32, in the new function.
        factor: float32, broadcasts over the sum.
        relu: Whether a ReLU follows.
    """

    sum: Expr
    factor: np.ndarray
    relu: bool = False


class _Rewriter:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.writer = Writer(graph)
        self.codes = codes(graph)
        self.sums: dict[str, str] = {}
        self.notes: list[Note] = []
        self.biased: dict[Var, Expr] = {}
        self.scaled: dict[Var, _Scaled] = {}

    def visit(self, var: Var, value: Expr) -> None:
        """Write one binding."""
        if var in self.biased:
            return
        if (layer := self._layer(var, value)) is not None:
            self._write(var, value, layer)
        elif (merged := self._merged(var, value)) is not None:
            self.writer.bind(var, merged)
        else:
            self.writer.keep(var, value)

    def _layer(self, var: Var, call: Expr) -> _Layer | None:
        weight = linear_weight(call)
        if weight is None or weight.dtype != np.float32 or str(call.args[0].ty.dtype) != "float32":
            return None
        data = dequantised(self.graph, call.args[0])
        if data is None:
            return None
        if data.dtype not in ("int8", "uint8"):
            self._stays_float(var, f"its data are {data.dtype}, and layers of integers read 8 bits")
            return None
        integers = IntegerWeight.of(weight)
        if integers is None:
            self._stays_float(var, "its weights are not integers of 8 bits times a scale per output channel")
            return None
        if op_name(call) == "matmul":
            feature_map = flattened_map(self.graph, data.codes)
            return _Layer(data, integers, feature_map=feature_map)
        padded = self._padded(data)
        return _Layer(data, integers) if padded is None else replace(padded, weight=integers)

    def _stays_float(self, var: Var, why: str) -> None:
        self.notes.append(Note(var.name, f"a layer that reads quantised data stays float: {why}", True))

    def _padded(self, data: Dequantised) -> _Layer | None:
        """A layer that reads what a padding with zeros reads."""
        found = self.codes.get(data.codes)
        pad = None if found is None or found.zero_point != 0 else self.graph.producer(found.x, "nn.pad")
        cast = None if pad is None else self.graph.producer(pad.args[0], "astype")
        if pad is None or cast is None or str(cast.args[0].ty.dtype) != data.dtype:
            return None
        width = [int(extent) for extent in pad.attrs.pad_width]
        if len(width) != 8 or any(width[:4]) or float(pad.attrs.pad_value) != data.zero_point:
            return None
        top, bottom, left, right = width[4:]
        inner = replace(data, codes=cast.args[0])
        return _Layer(inner, IntegerWeight(np.zeros(0), np.zeros(0)), (top, left, bottom, right))

    def _write(self, var: Var, call: Call, layer: _Layer) -> None:
        """Write a layer; ``var`` or the sum with its bias becomes the product of an integer sum and the factor."""
        total = self._sum(var, call, layer)
        result, along = var, _along(shape(var))
        factor = layer.factor.reshape(along) if layer.factor.size > 1 else layer.factor.reshape(())
        bias = self._bias(var, factor)
        if bias is not None:
            result, integers = bias
            self.biased[result] = total
            along = _along(shape(total)) if integers.size > 1 else ()
            total = self.writer.emit(op.add(total, relax.const(integers.reshape(along))), f"{var.name}_biased")
        number = self.writer.emit(op.astype(total, "float32"), f"{var.name}_sum")
        self.sums[number.name] = var.name
        if shape(number) != shape(var):
            number = self.writer.emit(op.reshape(number, shape(var)), f"{var.name}_flat")
        self.scaled[result] = _Scaled(number, factor)
        self.writer.bind(result, op.multiply(number, relax.const(factor)))
        if result is not var:
            self.writer.alias(var, number)  # nobody reads it

    def _sum(self, var: Var, call: Call, layer: _Layer) -> Expr:
        """The sum of integers, int32; of a dense layer on a feature map a map of one pixel."""
        stored = self.writer[layer.data.codes if layer.feature_map is None else layer.feature_map]
        data: Expr = self.writer.emit(op.astype(stored, "int32"), f"{var.name}_data")
        if layer.data.zero_point:
            data = self.writer.emit(op.subtract(data, relax.const(np.int32(layer.data.zero_point))), data.name)
        weight = layer.weight.integers.astype(np.int32)
        name = f"{var.name}_integers"
        if op_name(call) != "matmul":
            old = [int(extent) for extent in call.attrs.padding]
            conv = op.nn.conv2d(
                data,
                relax.const(weight),
                strides=tuple(call.attrs.strides),
                padding=tuple(a + b for a, b in zip(old, layer.padding, strict=True)),
                dilation=tuple(call.attrs.dilation),
                groups=int(call.attrs.groups),
                out_dtype="int32",
            )
            return self.writer.emit(conv, name)
        if layer.feature_map is None:
            product = op.matmul(data, relax.const(np.ascontiguousarray(weight.T)), out_dtype="int32")
            return self.writer.emit(product, name)
        extent = shape(layer.feature_map)
        kernel = weight.reshape(-1, *extent[1:])
        return self.writer.emit(op.nn.conv2d(data, relax.const(kernel), out_dtype="int32"), name)

    def _bias(self, var: Var, factor: np.ndarray) -> tuple[Var, np.ndarray] | None:
        """The sum with a bias of integers times the factor, and these integers; None if it has no such bias."""
        users = self.graph.users[var]
        if len(users) != 1 or var in self.graph.results:
            return None
        add = self.graph.values[users[0]]
        if op_name(add) != "add" or shape(users[0]) != shape(var):
            return None
        numbers = constant(add.args[1] if add.args[0].same_as(var) else add.args[0])
        if numbers is None or numbers.dtype != np.float32 or not is_per_channel(numbers, shape(var)):
            return None
        with np.errstate(all="ignore"):
            integers = np.rint(numbers.astype(np.float64) / factor)
            found = np.abs(integers).max() < 2**24 and bool((integers.astype(np.float32) * factor == numbers).all())
        return (users[0], integers.astype(np.int32)) if found else None

    def _merged(self, var: Var, value: Expr) -> Expr | None:
        """The quotient of a scaled sum, with one factor; None for anything else."""
        name = op_name(value)
        if name not in ("nn.relu", "maximum", "divide") or not isinstance(value.args[0], Var):
            return None
        source = value.args[0]
        base = self.scaled.get(source)
        if base is None or len(self.graph.users[source]) != 1 or source in self.graph.results:
            return None
        if name == "nn.relu" or (name == "maximum" and _is_zero(value.args[1])):
            self.scaled[var] = replace(base, relu=True)
            return None
        divisor = constant(value.args[1])
        quantised = [self.codes[user] for user in self._readers(var) if user in self.codes]
        if name != "divide" or divisor is None or divisor.size != 1 or not divisor.item() > 0:
            return None
        if len(self._readers(var)) != 1 or not quantised:
            return None
        factor = base.factor / np.float32(divisor.item())
        product = op.multiply(base.sum, relax.const(factor.astype(np.float32)))
        (codes_of,) = quantised
        redundant = codes_of.zero_point == np.iinfo(codes_of.dtype).min
        if not base.relu or redundant:
            return product
        return op.nn.relu(self.writer.emit(product, f"{var.name}_product"))

    def _readers(self, var: Var) -> list[Var]:
        """The variables that read a value; of a quantisation its result."""
        found = []
        for user in self.graph.users[var]:
            end = next((each for each, made in self.codes.items() if user in made.chain and made.x.same_as(var)), user)
            found.append(end)
        return found


def _along(extent: tuple[int, ...]) -> tuple[int, ...]:
    axis = channel_axis(extent)
    return tuple(-1 if i == axis else 1 for i in range(len(extent)))


def _is_zero(expr: Expr) -> bool:
    values = constant(expr)
    return values is not None and not values.any()
