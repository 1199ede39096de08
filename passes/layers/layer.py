"""Read a composite function back as data: what is computed, over which shape, and the epilogue after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import numpy as np
from tvm import relax
from tvm.ir import Call
from tvm.relax import Expr, Var

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain, Domain, Levels
from sbnn_tvm.schedules.elementwise.channel_selection import Selection
from sbnn_tvm.schedules.epilogue.program import (
    BitsOutput,
    Channel,
    FloatOutput,
    LevelsOutput,
    Op,
    Operand,
    Pixel,
    Program,
    Ref,
    Sample,
    SampleChannel,
    Scalar,
    Step,
    Tensor,
    WindowThreshold,
)
from sbnn_tvm.schedules.shapes import Conv2dShape

from ..phases.rearrange_channels import concatenated_channels
from ..phases.recognise import REWRITTEN, signed_max_pool
from ..phases.shift_pixels import Shift, shift_of
from ..relax.graph import Graph, channel_axis, constant, is_a_pixel, is_a_sample, op_name, shape, without_pixels
from ..relax.quantisers import quantisers

Kind = Literal[
    "binary_conv2d", "binary_dense", "conv2d", "dense", "window_sum",
    "max_pool2d", "max_pool2d_bits", "avg_pool2d", "global_avg_pool2d", "elementwise",
    "select_channels", "select_channels_bits", "shift_bits", "sample_mean",
]  # fmt: skip

_BINARY_OPS: dict[str, Op] = {
    "add": "add", "subtract": "subtract", "multiply": "multiply",
    "divide": "divide", "maximum": "maximum", "minimum": "minimum",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class WindowTest:
    """That a layer's bits compare integers: the sum over its set weights, or over the others, and that over its window.

    Attributes:
        operand: Which operand is the sum over the window, which a kernel that makes the comparison need not read.
        of_set: Whether the first sum is that over the weights of the larger value.
        threshold: The comparison.
    """

    operand: int
    of_set: bool
    threshold: WindowThreshold

    @property
    def attributes(self) -> dict[str, list[float]]:
        """What a composite says about it."""
        test = self.threshold
        numbers = (self.operand, self.of_set, test.shift, test.factor)
        return {
            "sbnn.window_test": [float(number) for number in numbers],
            "sbnn.window_least": test.least.astype(float).tolist(),
            "sbnn.window_inverted": test.inverted.astype(float).tolist(),
        }

    @classmethod
    def read(cls, attrs: Mapping[str, Sequence[float]]) -> WindowTest | None:
        """The reverse of ``attributes``."""
        if "sbnn.window_test" not in attrs:
            return None
        operand, of_set, shift, factor = (int(float(number)) for number in attrs["sbnn.window_test"])
        least, inverted = (
            np.array([float(number) for number in attrs[f"sbnn.window_{name}"]]) for name in ("least", "inverted")
        )
        threshold = WindowThreshold(shift, factor, least.astype(np.int64), inverted.astype(bool))
        return cls(operand, bool(of_set), threshold)


@dataclass(frozen=True, eq=False)
class Layer:
    """One composite.

    Attributes:
        kind: What the anchor is.
        name: Name of the variable that the anchor computes, which traces back to the ONNX value.
        shape: The anchor as a convolution or pooling over a feature map; None for dense and elementwise layers.
        selection: Which channels of which data; None for other layers, which have one input.
        inputs: Channels of the data.
        extent: Logical shape (NCHW, or [..., C]) of what the anchor computes.
        weight: float32, output channels first (OIHW, or [out, in]); None without weights.
        pad_value: What a binary convolution reads beyond the border.
        minima: bool [C], in which channels a max pooling of bits takes the minimum; None if in none.
        shifts: Rows and columns by which a shift moves each channel down and right, int64 [C, 2]; None for others.
        counted_padding: The padding (top, left, bottom, right) that average pooling counts; None if it counts none.
        input_domain: The two values or the levels of the activations, where they are known.
        program: The epilogue; the indices of its tensor operands count the operands behind the data.
        members: Names of the variables that the layer computes, in order.
        step_names: Name of the variable behind each step of the program.
        outputs: Domain of each output if it is stored as bits, else None.
        why_float: Why a linear layer is not binary.
        window_sum: Which operand is the sum over the layer's own window, if there is one.
        window_test: How two sums say the layer's bits, if they do (fold_window_sums.py).
        factors: Scale and offset of the weights [OC], where the program does not show them (fold_window_sums.py).
    """

    kind: Kind
    name: str
    shape: Conv2dShape | None
    selection: Selection | None
    inputs: int
    extent: tuple[int, ...]
    weight: np.ndarray | None
    pad_value: float
    minima: np.ndarray | None
    shifts: np.ndarray | None
    counted_padding: tuple[int, int, int, int] | None
    input_domain: Domain | None
    program: Program
    members: tuple[str, ...]
    step_names: tuple[str, ...]
    outputs: tuple[Domain | None, ...]
    why_float: str | None
    window_sum: int | None = None
    window_test: WindowTest | None = None
    factors: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def weight_domain(self) -> BinaryDomain:
        """What a binary layer multiplies with: -1 and +1, or where only set weights count 0 and 1."""
        return BIT if self.weight is not None and bool((self.weight == 0).any()) else SIGN

    @property
    def sums_windows(self) -> bool:
        """Whether the layer has no weights of its own: it sums what the offset of other weights multiplies."""
        return self.kind == "window_sum" or (self.binary and self.weight is not None and bool((self.weight > 0).all()))

    @property
    def exact(self) -> bool:
        """Whether the reference computes the same integers and rounds the same steps behind them: bits are equal."""
        if not self.binary or self.input_domain is None or self.weight is None or self.name.endswith(REWRITTEN):
            return False
        # Sums of other values than, say, -1 and +1 are rounded by the reference, and in another order here.
        values = [Fraction(value) for value in self.input_domain.values.tolist()]
        units = max(value.denominator for value in values)
        return self.weight[0].size * max(map(abs, values)) * units < 2**23

    @property
    def rows(self) -> int:
        """Rows of a dense layer: pixels, where there are some, times the batch."""
        return int(np.prod(self.extent[:-1]))

    def node(self, nodes: Mapping[str, str]) -> str:
        """The name that users know: that of the first ONNX node that the layer computes.

        Args:
            nodes: The ONNX node behind each variable.
        """
        return next((nodes[member] for member in self.members if member in nodes), self.name)

    @property
    def binary(self) -> bool:
        """Whether both weights and activations are two-valued."""
        return self.kind in ("binary_conv2d", "binary_dense")


def domain_attribute(domain: Domain) -> list[float]:
    """A domain as an attribute of a composite; :func:`read_layer` reads it."""
    return list(domain.levels) if isinstance(domain, Levels) else [domain.lo, domain.hi]


def read_layer(func: relax.Function) -> Layer:
    """The layer that a composite function computes."""
    return _Reader(func).layer()


class _Reader:
    def __init__(self, func: relax.Function) -> None:
        self.func = func
        self.graph = Graph(func)
        self.kind: Kind = str(func.attrs["Composite"]).removeprefix("sbnn.")  # type: ignore[assignment]
        self.env: dict[Var, Operand] = {}
        self.steps: list[Step] = []
        self.step_names: list[str] = []
        self.bits: dict[Var, tuple[BitsOutput | LevelsOutput, Domain]] = {}
        self.quantisers = quantisers(self.graph)
        self.in_quantisers = {var for each in self.quantisers.values() for var in each.chain}

    def layer(self) -> Layer:
        bindings = list(self.graph.bindings)
        pad_value = 0.0
        conv_shape: Conv2dShape | None = None
        weight: np.ndarray | None = None
        anchor: Call | None = None
        selection: Selection | None = None
        minima: np.ndarray | None = None
        shift: Shift | None = None
        sources = int(self.func.attrs.get("sbnn.inputs", 1))
        if self.kind in ("select_channels", "select_channels_bits"):
            data, selection = self._selection(bindings, self.graph.params[:sources])
            extent = shape(data)
        elif self.kind == "shift_bits":
            data, moved = bindings[-1]
            shift, bindings, extent = shift_of(self.graph, moved), [], shape(data)
        elif self.kind == "elementwise":
            data = self.graph.params[0]
            extent = shape(data)
        else:
            pad: Call | None = None
            if op_name(bindings[0][1]) == "nn.pad":
                pad = bindings.pop(0)[1]
                pad_value = float(pad.attrs.pad_value)
            data, anchor = bindings.pop(0)
            if self.kind == "max_pool2d_bits" and bindings:
                (_, anchor), (data, signed) = bindings
                pooled = signed_max_pool(self.graph, signed)
                assert pooled is not None
                minima, bindings = pooled[1] < 0, []
            extent = shape(data)
            weight = self._weight(anchor)
            conv_shape = self._shape(anchor, pad, extent)
        self.env[data] = Ref(0)
        channels = _channels(extent)
        for i, param in enumerate(self.graph.params[sources:]):
            self.env[param] = _tensor_operand(shape(param), extent)(i)
        for var, value in bindings:
            self._step(var, value, channels)
            self.step_names += [var.name] * (len(self.steps) - len(self.step_names))
        results = [result for result in self.graph.results if isinstance(result, Var)]
        outputs = tuple(self.bits[var][0] if var in self.bits else FloatOutput(self.env[var]) for var in results)
        domains = tuple(self.bits[var][1] if var in self.bits else None for var in results)
        attrs = self.func.attrs
        domain = [float(number) for number in attrs.get("sbnn.input_domain", ())]
        scale, offset = (np.array(attrs.get(f"sbnn.{name}", []), np.float32) for name in ("scale", "offset"))
        return Layer(
            kind=self.kind,
            name=str(attrs["sbnn.name"]),
            shape=conv_shape,
            selection=selection,
            inputs=_channels(shape(self.graph.params[0])),
            extent=extent,
            weight=weight if self.kind != "window_sum" else None,
            pad_value=pad_value,
            minima=minima,
            shifts=shift.shifts if shift is not None else None,
            counted_padding=_counted_padding(anchor) if self.kind == "avg_pool2d" else None,
            input_domain=_domain(domain) if domain else None,
            program=Program(tuple(self.steps), outputs),
            members=tuple(map(str, attrs.get("sbnn.members", [var.name for var, _ in self.graph.bindings]))),
            step_names=tuple(self.step_names),
            outputs=domains,
            why_float=str(attrs["sbnn.why_float"]) if "sbnn.why_float" in attrs else None,
            window_sum=int(attrs["sbnn.window_sum"]) if "sbnn.window_sum" in attrs else None,
            window_test=WindowTest.read(attrs),
            factors=(scale, offset) if scale.size else None,
        )

    def _selection(self, bindings: list[tuple[Var, Expr]], params: list[Var]) -> tuple[Var, Selection]:
        """The result and the channels of a concatenation, a ``take``, or one behind the other."""
        sizes = [shape(param)[channel_axis(shape(param))] for param in params]
        selection = Selection.concatenation(sizes)
        data, value = bindings.pop(0)
        if (fields := concatenated_channels(value, shape(data))) is not None:
            first = dict(zip(params, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True))
            indices = [first[each] + c for each in fields for c in range(sizes[params.index(each)])]
            selection = selection.take(indices)
            if not bindings or op_name(bindings[0][1]) != "take":
                return data, selection
            data, value = bindings.pop(0)
        taken = constant(value.args[1])
        assert taken is not None
        return data, selection.take(taken.tolist())

    def _weight(self, anchor: Call) -> np.ndarray | None:
        if op_name(anchor) == "nn.conv2d":
            return constant(anchor.args[1])
        if op_name(anchor) == "matmul":
            weight = constant(anchor.args[1])
            assert weight is not None
            return np.ascontiguousarray(weight.T)
        return None

    def _shape(self, anchor: Call, pad: Call | None, extent: tuple[int, ...]) -> Conv2dShape | None:
        name, attrs = op_name(anchor), anchor.attrs
        if name == "matmul" or len(shape(self.graph.params[0])) != 4:
            return None
        batch, channels, height, width = shape(self.graph.params[0])
        if name in ("nn.adaptive_avg_pool2d", "mean"):
            return Conv2dShape(batch, height, width, channels, channels, (height, width), groups=channels)
        padding = _padding(anchor)
        if pad is not None:
            top, bottom, left, right = (int(extent) for extent in pad.attrs.pad_width[4:])
            padding = (top, left, bottom, right)
        strides = (int(attrs.strides[0]), int(attrs.strides[1]))
        dilation = (int(attrs.dilation[0]), int(attrs.dilation[1]))
        if name == "nn.conv2d":
            taps, out, groups = shape(anchor.args[1])[2:], extent[1], int(attrs.groups)
        else:
            taps, out, groups = tuple(int(k) for k in attrs.pool_size), channels, channels
        kernel = (taps[0], taps[1])
        conv = Conv2dShape(batch, height, width, channels, out, kernel, strides, padding, dilation, groups)
        # ceil_mode reads beyond the padded image; more padding behind says the same.
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
        if var in self.in_quantisers:
            return
        if (quantised := self.quantisers.get(var)) is not None:
            thresholds = [self._operand(relax.const(row), channels) for row in quantised.thresholds]
            output = LevelsOutput(self._operand(quantised.x, channels), tuple(thresholds))
            self.bits[var] = (output, quantised.levels)
            return
        name = op_name(value)
        if name in ("greater", "greater_equal"):
            return
        if name == "where":
            condition = self.graph.values[value.args[0]]
            hi, lo = constant(value.args[1]), constant(value.args[2])
            assert hi is not None and lo is not None
            bits = BitsOutput(
                self._operand(condition.args[0], channels),
                self._operand(condition.args[1], channels),
                op_name(condition) == "greater_equal",
            )
            self.bits[var] = (bits, BinaryDomain(lo.item(), hi.item()))
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
        else:
            raise AssertionError(f"{name} is no step of an epilogue")


def _domain(numbers: Sequence[float]) -> Domain:
    return BinaryDomain(*numbers) if len(numbers) == 2 else Levels(tuple(numbers))


def _padding(call: Call) -> tuple[int, int, int, int]:
    padding = tuple(int(p) for p in call.attrs.padding)
    top, left, bottom, right = padding if len(padding) == 4 else (*padding, *padding)
    return top, left, bottom, right


def _counted_padding(pool: Call | None) -> tuple[int, int, int, int] | None:
    # What ceil_mode adds behind the padding is never counted.
    return _padding(pool) if pool is not None and pool.attrs.count_include_pad else None


def _tensor_operand(of: tuple[int, ...], extent: tuple[int, ...]) -> type[Tensor | Pixel | Sample | SampleChannel]:
    """How a tensor operand lies over a result."""
    if without_pixels(of) == without_pixels(extent):
        return Tensor
    return Pixel if is_a_pixel(of, extent) else Sample if is_a_sample(of, extent) else SampleChannel


def _channels(extent: tuple[int, ...]) -> int:
    return extent[1] if len(extent) == 4 else extent[-1]
