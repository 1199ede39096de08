"""Read a composite function as a layer: the anchor, its shape and weights, and the epilogue after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var

from sbnn_tvm.algebra.domain import BinaryDomain, Domain
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Channel,
    CodesOutput,
    FloatOutput,
    LevelsOutput,
    Number,
    Op,
    Operand,
    Pixel,
    Program,
    Ref,
    RowOutput,
    Sample,
    SampleChannel,
    Scalar,
    Step,
    Tensor,
)
from sbnn_tvm.schedules.selection import PixelSelection, Selection
from sbnn_tvm.schedules.shapes import Conv2dShape, ProductShape, dense_shape

from ..relax.codes import codes, reads_integers
from ..relax.comparisons import COMPARISONS, comparison
from ..relax.copies import copied_view
from ..relax.domains import signed_max_pool
from ..relax.functions import FUNCTIONS, REDUCTIONS
from ..relax.graph import Graph, channels_last, constant, is_per_pixel, is_per_sample, op_name, shape, without_pixels
from ..relax.integer_sums import integer_sums_of
from ..relax.interleavings import interleaved
from ..relax.quantisation_ranges import quantisation_ranges
from ..relax.quantisers import quantisers
from ..relax.resampling import resampled
from ..relax.selections import chosen_of
from ..relax.shifts import shift_of
from ..relax.weights import linear_weight
from .facts import LayerFacts
from .kinds import (
    AvgPool2d,
    BatchedProduct,
    BinaryConvolution,
    BinaryDense,
    BitInterleaving,
    BitMaxPool2d,
    BitSelection,
    BitShift,
    ChannelSelection,
    Concatenation,
    Copy,
    Elementwise,
    FloatConvolution,
    FloatDense,
    GlobalAvgPool2d,
    IntegerConvolution,
    IntegerDense,
    Layer,
    MaxPool2d,
    PhaseInterleaving,
    QuantisationRange,
    Recurrent,
    Resampling,
    Rows,
    SampleMean,
    WindowSum,
)

_BINARY_OPS: dict[str, Op] = {
    "add": "add", "subtract": "subtract", "multiply": "multiply",
    "divide": "divide", "maximum": "maximum", "minimum": "minimum",
}  # fmt: skip


def read_layer(func: relax.Function) -> Layer:
    """The layer that a composite function computes."""
    return _Reader(func).layer()


@dataclass(frozen=True, eq=False)
class _Anchor:
    """The part of a composite before its epilogue.

    Attributes:
        result: The variable that the epilogue starts from.
        kind: The class of the layer.
        own: The fields of this class that Layer does not have.
        used: Number of bindings of the function that belong to the anchor.
    """

    result: Var
    kind: type[Layer]
    own: dict[str, Any]
    used: int = 1


class _Reader:
    def __init__(self, func: relax.Function) -> None:
        self.graph = Graph(func)
        self.facts = LayerFacts.of(func)
        self.composite = str(func.attrs["Composite"]).removeprefix("sbnn.")
        self.env: dict[Var, Operand] = {}
        self.steps: list[Step] = []
        self.step_names: list[str] = []
        self.stored: dict[Var, tuple[BitsOutput | LevelsOutput | CodesOutput, Domain | None]] = {}
        self.quantisers = quantisers(self.graph)
        self.codes = codes(self.graph)
        self.in_chains = {var for each in self.quantisers.values() for var in each.chain}
        self.in_chains |= {var for each in self.codes.values() for var in each.chain}
        # integers become floats as they are read: a cast of a parameter is the parameter
        self.casts = {var: value.args[0] for var, value in self.graph.bindings if reads_integers(value)}
        self.bindings = [each for each in self.graph.bindings if each[0] not in self.casts]

    def layer(self) -> Layer:
        facts, params = self.facts, self.graph.params
        anchor = self._anchor()
        extent = shape(anchor.result)
        channels = _channels(extent)
        self.env[anchor.result] = Ref(0)
        for i, param in enumerate(params[facts.data_inputs :]):
            kind = _tensor_operand(shape(param), extent)
            dtype = str(param.ty.dtype)
            self.env[param] = kind(i, dtype) if kind in (Tensor, Number) else kind(i)  # type: ignore[call-arg, arg-type]
        self.env |= {cast: self.env[param] for cast, param in self.casts.items() if param in self.env}
        for var, value in self.bindings[anchor.used :]:
            self._step(var, value, channels)
            self.step_names += [var.name] * (len(self.steps) - len(self.step_names))
        results = [result for result in self.graph.results if isinstance(result, Var)]
        outputs = tuple(
            self.stored[var][0] if var in self.stored else self._float_output(var, extent) for var in results
        )
        members = self._members() if facts.members is None else facts.members
        return anchor.kind(
            name=facts.name,
            extent=extent,
            in_channels=_channels(shape(params[0])),
            data_inputs=facts.data_inputs,
            input_domain=facts.input_domain,
            data_dtype=str(params[0].ty.dtype),  # type: ignore[arg-type]
            program=Program(tuple(self.steps), outputs),
            members=members,
            step_names=tuple(self.step_names),
            outputs=tuple(self.stored[var][1] if var in self.stored else None for var in results),
            **anchor.own,
        )

    def _members(self) -> tuple[str, ...]:
        """The names of the values, without those that only make floats of the integers that the layer reads."""
        read = set(self.casts)
        for var, value in self.graph.bindings:
            scaled = op_name(value) in ("subtract", "multiply") and constant(value.args[1]) is not None
            if scaled and value.args[0] in read and var not in self.graph.results:
                read.add(var)
        own = tuple(var.name for var, _ in self.graph.bindings if var not in read)
        return own or tuple(var.name for var, _ in self.graph.bindings)

    def _anchor(self) -> _Anchor:
        """Read the first bindings of the function; the name of the composite determines their form."""
        graph, bindings = self.graph, self.bindings
        everything = len(bindings)
        match self.composite:
            case Elementwise.kind:
                return _Anchor(graph.params[0], Elementwise, {}, 0)
            case Rows.kind:
                return _Anchor(graph.params[0], Rows, {}, 0)
            case PhaseInterleaving.kind | BitInterleaving.kind:
                return self._interleaving(
                    PhaseInterleaving if self.composite == PhaseInterleaving.kind else BitInterleaving
                )
            case Copy.kind:
                return _Anchor(bindings[0][0], Copy, {"view": copied_view(bindings[0][1], shape(bindings[0][0]))})
            case Concatenation.kind:
                return self._concatenation()
            case Resampling.kind:
                found = resampled(bindings[0][1])
                if found is None:
                    raise _unreadable(self.facts)
                own = {"source": shape(found.source), "rows": found.rows, "columns": found.columns}
                return _Anchor(bindings[0][0], Resampling, own)
            case BatchedProduct.kind:
                return self._product()
            case SampleMean.kind:
                of_sample = int(np.prod(shape(graph.params[0])[1:]))
                return _Anchor(bindings[0][0], SampleMean, {"values": of_sample})
            case ChannelSelection.kind:
                return self._selection(ChannelSelection)
            case BitSelection.kind:
                return self._selection(BitSelection)
            case Recurrent.kind:
                return self._recurrent(everything)
            case QuantisationRange.kind:
                return self._quantisation_range(everything)
            case BitShift.kind:
                result, moved = bindings[-1]
                shift = shift_of(graph, moved)
                if shift is None:
                    raise _unreadable(self.facts)
                return _Anchor(result, BitShift, {"shifts": shift.shifts}, everything)
            case BitMaxPool2d.kind if everything > 1:
                result, signed = bindings[-1]
                pooled = signed_max_pool(graph, signed)
                if pooled is None:
                    raise _unreadable(self.facts)
                own = {"shape": self._windows(bindings[1][1], None, shape(result)), "minima": pooled[1] < 0}
                return _Anchor(result, BitMaxPool2d, own, everything)
        if self.composite in (IntegerConvolution.kind, IntegerDense.kind):
            return self._integer()
        zero_point = 0
        if op_name(bindings[0][1]) == "subtract":  # the mean of integers
            point = constant(bindings[0][1].args[1])
            zero_point, bindings = 0 if point is None else int(point.item()), bindings[1:]
        pad = bindings[0][1] if op_name(bindings[0][1]) == "nn.pad" else None
        used = 1 if pad is None else 2
        result, call = bindings[used - 1]
        extent = shape(result)
        match self.composite:
            case BitMaxPool2d.kind:
                return _Anchor(result, BitMaxPool2d, {"shape": self._windows(call, pad, extent), "minima": None})
            case MaxPool2d.kind:
                return _Anchor(result, MaxPool2d, {"shape": self._windows(call, pad, extent)})
            case AvgPool2d.kind:
                # The padding that ceil_mode adds at the end is never counted.
                counted = _padding(call) if call.attrs.count_include_pad else None
                own = {"shape": self._windows(call, pad, extent), "counted_padding": counted, "zero_point": zero_point}
                return _Anchor(result, AvgPool2d, own, self._up_to(result))
            case GlobalAvgPool2d.kind:
                own = {"shape": self._whole_image(), "zero_point": zero_point}
                return _Anchor(result, GlobalAvgPool2d, own, self._up_to(result))
            case WindowSum.kind:
                rows = Conv2dShape(int(np.prod(extent[:-1])), 1, 1, _channels(shape(graph.params[0])), 1)
                windows = rows if op_name(call) == "matmul" else self._windows(call, pad, extent)
                return _Anchor(result, WindowSum, {"shape": windows, "pad_value": _pad_value(pad)}, used)
        return self._linear(result, call, pad, used)

    def _up_to(self, result: Var) -> int:
        """The number of bindings up to that of a variable."""
        return next(i for i, (var, _) in enumerate(self.bindings, 1) if var == result)

    def _integer(self) -> _Anchor:
        """Read a convolution or dense layer of integers."""
        result, total = next(iter(integer_sums_of(self.graph).items()))
        kind = IntegerConvolution if self.composite == IntegerConvolution.kind else IntegerDense
        own = {
            "shape": self._linear_shape(total.call, None, shape(result)),
            "weight": total.weight,
            "integer_sum_of": self.facts.integer_sum_of,
            "zero_point": self._zero_point(total.zero_point),
            "bias": total.bias,
        }
        return _Anchor(result, kind, own, self._up_to(result))

    def _zero_point(self, point: int | Var) -> int | Number:
        if isinstance(point, int):
            return point
        return Number(self.graph.params.index(point) - self.facts.data_inputs, str(point.ty.dtype))  # type: ignore[arg-type]

    def _linear(self, result: Var, call: Call, pad: Call | None, used: int) -> _Anchor:
        facts = self.facts
        own: dict[str, Any] = {
            "shape": self._linear_shape(call, pad, shape(result)),
            "weight": linear_weight(call),
            "integer_sum_of": facts.integer_sum_of,
            "weight_change": facts.weight_change,
            "plane_of": facts.plane_of,
        }
        binary = {"window_sum": facts.window_sum, "window_test": facts.window_test, "factors": facts.factors}
        match self.composite:
            case FloatConvolution.kind:
                return _Anchor(result, FloatConvolution, {**own, "why_float": facts.why_float}, used)
            case FloatDense.kind:
                return _Anchor(result, FloatDense, {**own, "why_float": facts.why_float}, used)
            case BinaryConvolution.kind:
                return _Anchor(result, BinaryConvolution, {**own, **binary, "pad_value": _pad_value(pad)}, used)
            case BinaryDense.kind:
                return _Anchor(result, BinaryDense, {**own, **binary}, used)
        raise _unreadable(facts)

    def _product(self) -> _Anchor:
        """Read a product of two activations; the right one may be transposed before."""
        used = 2 if op_name(self.graph.bindings[0][1]) == "permute_dims" else 1
        result = self.graph.bindings[used - 1][0]
        batch, rows, columns = shape(result)
        depth = shape(self.graph.params[0])[-1]
        return _Anchor(result, BatchedProduct, {"shape": ProductShape(batch, rows, depth, columns, used == 2)}, used)

    def _concatenation(self) -> _Anchor:
        """Read a concatenation of parameters and constants."""
        (result, value), params = self.graph.bindings[0], self.graph.params
        axis = int(value.attrs.axis) % len(shape(result))
        parts = []
        for field in value.args[0].fields:
            numbers = constant(field)
            parts.append(params.index(field) if numbers is None else numbers)
        lengths = tuple(int(np.prod(shape(param)[axis:])) for param in params)
        own = {"outer": int(np.prod(shape(result)[:axis])), "lengths": lengths, "parts": tuple(parts)}
        return _Anchor(result, Concatenation, own)

    def _float_output(self, var: Var, extent: tuple[int, ...]) -> FloatOutput | RowOutput:
        of_rows = self.composite == Rows.kind and without_pixels(shape(var)) != without_pixels(extent)
        return RowOutput(self.env[var]) if of_rows else FloatOutput(self.env[var])

    def _recurrent(self, used: int) -> _Anchor:
        recurrence = self.facts.recurrence
        if recurrence is None:
            raise _unreadable(self.facts)
        for result in self.graph.results:  # each is stored as it is
            self.env[result] = Ref(0)
        steps, batch, _ = shape(self.graph.params[0])
        own = {"recurrence": recurrence, "steps": steps, "batch": batch}
        return _Anchor(self.graph.results[0], Recurrent, own, used)

    def _quantisation_range(self, used: int) -> _Anchor:
        (found,) = quantisation_ranges(self.graph)
        self.env[found.scale] = Ref(0)
        self.stored[found.zero_point] = (CodesOutput(Ref(0), "uint8"), None)
        own = {"values": int(np.prod(shape(found.x)))}
        return _Anchor(found.scale, QuantisationRange, own, used)

    def _selection(self, kind: type[ChannelSelection | BitSelection]) -> _Anchor:
        """Read the one form of selections (relax/selections.py)."""
        result = next(var for var, _ in self.graph.bindings if var.name == self.facts.name)
        chosen = chosen_of(self.graph, result, lambda _: True)
        if chosen is None:
            raise _unreadable(self.facts)
        # The data are the distinct sources in order of their first use, which is the order of the parameters.
        sizes = tuple(_channels(shape(source)) for source in chosen.sources)
        every = Selection.concatenation(sizes).sources
        selection = Selection(sizes, tuple(every[c] if c >= 0 else None for c in chosen.channels.tolist()))
        pixels = None
        if chosen.moves_pixels:
            height, width = shape(chosen.sources[0])[2:]
            pixels = PixelSelection(height, width, tuple(chosen.rows.tolist()), tuple(chosen.columns.tolist()))
        own = {"selection": selection, "pixels": pixels, "fill": chosen.fill}
        return _Anchor(result, kind, own, self._up_to(result))

    def _interleaving(self, kind: type[PhaseInterleaving | BitInterleaving]) -> _Anchor:
        """Read phases that become pixels: all bindings."""
        result = self.bindings[-1][0]
        found = interleaved(self.graph, result)
        if found is None:
            raise _unreadable(self.facts)
        batch, _, height, width = shape(found.parts[0])
        parts = tuple(shape(part)[1] for part in found.parts)
        own = {"small": (batch, height, width), "parts": parts, "interleaving": found.interleaving}
        return _Anchor(result, kind, own, len(self.bindings))

    def _whole_image(self) -> Conv2dShape:
        batch, channels, height, width = shape(self.graph.params[0])
        return Conv2dShape(batch, height, width, channels, channels, (height, width), groups=channels)

    def _linear_shape(self, call: Call, pad: Call | None, extent: tuple[int, ...]) -> Conv2dShape:
        if op_name(call) == "matmul":
            depth, channels = shape(call.args[1])
            return dense_shape(int(np.prod(extent[:-1])), depth, channels)
        return self._windows(call, pad, extent)

    def _windows(self, call: Call, pad: Call | None, extent: tuple[int, ...]) -> Conv2dShape:
        """The shape of a convolution or pooling of a feature map, with all the padding that its windows read."""
        batch, channels, height, width = shape(self.graph.params[0])
        attrs, padding = call.attrs, _padding(call)
        if pad is not None:
            top, bottom, left, right = (int(extent) for extent in pad.attrs.pad_width[4:])
            padding = (top, left, bottom, right)
        strides = (int(attrs.strides[0]), int(attrs.strides[1]))
        dilation = (int(attrs.dilation[0]), int(attrs.dilation[1]))
        if op_name(call) == "nn.conv2d":
            taps, out, groups = shape(call.args[1])[2:], extent[1], int(attrs.groups)
        else:
            taps, out, groups = tuple(int(k) for k in attrs.pool_size), channels, channels
        kernel = (taps[0], taps[1])
        conv = Conv2dShape(batch, height, width, channels, out, kernel, strides, padding, dilation, groups)
        # ceil_mode reads beyond the padded image. More padding at the end expresses the same.
        missing = [
            max(0, (o - 1) * s + d * (k - 1) + 1 - p)
            for o, s, d, k, p in zip(
                extent[2:], strides, dilation, kernel, (conv.padded_height, conv.padded_width), strict=True
            )
        ]
        return conv.with_padding((padding[0], padding[1], padding[2] + missing[0], padding[3] + missing[1]))

    def _operand(self, expr: Expr, channels: int) -> Operand:
        values = constant(expr)
        if values is None:
            return self.env[expr]
        if values.size == 1:
            return Scalar(float(values.item()))
        return Channel(np.ascontiguousarray(values.reshape(channels), dtype=np.float32))

    def _emit(self, op: Op, a: Operand, b: Operand) -> Operand:
        self.steps.append(Step(op, a, b))
        return Ref(len(self.steps))

    def _step(self, var: Var, value: Expr, channels: int) -> None:
        if var in self.in_chains:
            return
        if (found := self.codes.get(var)) is not None:
            point = self._zero_point(found.zero_point)
            output = CodesOutput(self._operand(found.x, channels), found.dtype, point)
            self.stored[var] = (output, None)
            return
        if (quantised := self.quantisers.get(var)) is not None:
            thresholds = [self._operand(relax.const(row), channels) for row in quantised.thresholds]
            levels = LevelsOutput(self._operand(quantised.x, channels), tuple(thresholds))
            self.stored[var] = (levels, quantised.levels)
            return
        name = op_name(value)
        if name in COMPARISONS or name == "logical_not":
            return
        if name == "where":
            compared = comparison(self.graph, value.args[0])
            hi, lo = constant(value.args[1]), constant(value.args[2])
            if compared is None or hi is None or lo is None:
                raise _unreadable(self.facts)
            bits = BitsOutput(
                self._operand(compared.x, channels),
                self._operand(compared.threshold, channels),
                compared.inclusive,
                compared.of_nan,
            )
            self.stored[var] = (bits, BinaryDomain(lo.item(), hi.item()))
            return
        a = self._operand(value.args[0], channels)
        if name == "reshape":
            self.env[var] = a
        elif name in _BINARY_OPS:
            self.env[var] = self._emit(_BINARY_OPS[name], a, self._operand(value.args[1], channels))
        elif name == "nn.relu":
            self.env[var] = self._emit("maximum", a, Scalar(0.0))
        elif name == "nn.leakyrelu":
            self.env[var] = self._emit("prelu", a, Scalar(float(value.attrs.alpha)))
        elif name == "nn.prelu":
            self.env[var] = self._emit("prelu", a, self._operand(value.args[1], channels))
        elif name == "negative":
            self.env[var] = self._emit("multiply", a, Scalar(-1.0))
        elif name == "clip":
            above = self._emit("maximum", a, Scalar(float(value.args[1].value)))
            self.env[var] = self._emit("minimum", above, Scalar(float(value.args[2].value)))
        elif name in FUNCTIONS:
            self.env[var] = self._emit(FUNCTIONS[name], a, a)
        elif name in REDUCTIONS:
            self.env[var] = self._emit(REDUCTIONS[name], a, a)
        else:
            raise AssertionError(f"{name} is not a step of an epilogue")


def _unreadable(facts: LayerFacts) -> AssertionError:
    return AssertionError(f"the composite of '{facts.name}' does not have the form that fuse_layers writes")


def _pad_value(pad: Call | None) -> float:
    return 0.0 if pad is None else float(pad.attrs.pad_value)


def _padding(call: Call) -> tuple[int, int, int, int]:
    padding = tuple(int(p) for p in call.attrs.padding)
    top, left, bottom, right = padding if len(padding) == 4 else (*padding, *padding)
    return top, left, bottom, right


def _tensor_operand(
    of: tuple[int, ...], extent: tuple[int, ...]
) -> type[Tensor | Pixel | Sample | SampleChannel | Number]:
    """The class of a tensor operand of shape ``of``: how it is broadcast to a result of shape ``extent``."""
    if not of:
        return Number
    extent = without_pixels(extent)
    if len(extent) == 2:  # [N, C] or [N, C, 1, 1]: after a reshape the operand may have two axes, or four
        of = without_pixels(of)
    if without_pixels(of) == extent:
        return Tensor
    return Pixel if is_per_pixel(of, extent) else Sample if is_per_sample(of, extent) else SampleChannel


def _channels(extent: tuple[int, ...]) -> int:
    return channels_last(extent)[-1]
