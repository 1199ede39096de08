"""Random networks: whatever graph comes, the compiled model must agree with onnxruntime, layer by layer.

Weights, thresholds and inputs are multiples of powers of two and batch norms have variances with exact square roots, so
that sums mostly are exact and values often lie on a threshold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import sbnn_tvm
from sbnn_tvm.deploy.targets import resolve
from sbnn_tvm.frontends.onnx import opset
from tests.support.small_models import grid_inputs, run_reference

Shape = tuple[int, ...]

ELEMENTWISE = (
    "bias",
    "scale",
    "batch norm",
    "relu",
    "leaky relu",
    "prelu",
    "clip",
    "negate",
    "divide",
    "add",
    "multiply",
)
ON_MAPS = (
    "conv", "conv", "conv", "binary conv", "binary conv", "binary conv", "max pool", "average pool", "global pool",
    "pad", "concat", "flatten", "head", "head", "head", "transpose", "split", "slice", "gather", "shuffle",
    "roll",
)  # fmt: skip
ON_ROWS = ("dense", "dense", "unflatten", "sum")
BINARIZE = ("binarize", "binarize", "binarize")
LEFT_TO_TVM = ("sigmoid", "softmax", "square")


@dataclass
class Network:
    """An ONNX graph that grows node by node.

    Attributes:
        draw: Decides.
        shapes: Of the values so far.
    """

    draw: Any
    rng: np.random.Generator
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    inputs: list[onnx.ValueInfoProto] = field(default_factory=list)

    def choose(self, *options: Any) -> Any:
        return self.draw(st.sampled_from(options))

    def input(self, shape: Shape) -> str:
        name = f"input_{len(self.inputs)}"
        self.inputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
        self.shapes[name] = shape
        return name

    def constant(self, array: Any) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def node(self, operator: str, *inputs: str, shape: Sequence[int], **attributes: Any) -> str:
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self.shapes[name] = tuple(shape)
        return name

    def steps(self, *shape: int, step: float = 0.25, bound: float = 2) -> np.ndarray:
        """Multiples of ``step``."""
        return self.rng.integers(-bound / step, bound / step + 1, shape) * step

    def channel(self, x: str, scalar: bool = True) -> Shape:
        """The shape of a constant a channel, or of one for all of them."""
        rank, channels = len(self.shapes[x]), self.channels(x)
        ones = (1,) * max(rank - 2, 0) if rank == 4 else ()
        options: list[Shape] = [(channels, *ones), (1,) * (rank == 4) + (channels, *ones)]
        return self.choose(*options, *([(), (1,)] if scalar else []))

    def channels(self, x: str) -> int:
        shape = self.shapes[x]
        return shape[1] if len(shape) == 4 else shape[-1]

    def weights(self, *shape: int) -> np.ndarray:
        """Output channels first."""
        column = (shape[0],) + (1,) * (len(shape) - 1)
        bits = self.rng.random(shape) < self.choose(0.1, 0.5, 1.0)
        kind = self.choose("signs", "signs", "per channel", "two values", "sparse", "float")
        if kind == "float":
            return self.choose(self.steps(*shape, step=0.125, bound=1), self.rng.standard_normal(shape))
        if kind == "signs":
            return np.where(bits, 1.0, -1.0)
        if kind == "per channel":
            high = np.abs(self.steps(*column))
            return np.where(bits, high, -high)
        if kind == "two values":
            return np.where(bits, self.steps(*column), self.steps(*column))
        return np.where(bits, 0.5, 0.0)

    def binarize(self, x: str) -> str:
        """Two values, or the levels of a few bits."""
        if self.choose(False, False, False, True):
            return self.quantize(x)
        if self.choose(*[False] * 5, True):
            return self.foreign_sign(x)
        lo, hi = self.choose((-1.0, 1.0), (-1.0, 1.0), (-1.0, 1.0), (0.0, 1.0), (-0.5, 2.0), (-0.3, 0.7))
        if self.choose(False, False, True):
            lo, hi = hi, lo
        threshold = self.constant(self.choose(0.0, 0.0, self.steps(*self.channel(x), step=0.5)))
        if self.choose(*[False] * 9, True):
            threshold = self.choose(*(name for name in self.values if self.shapes[name] == self.shapes[x]))
        if len(self.shapes[x]) in (2, 4) and self.choose(*[False] * 7, True):
            threshold = self.mean(x, tuple(range(1, len(self.shapes[x]))))
            if len(self.shapes[x]) == 4 and self.choose(False, True):
                threshold = self.mean(x, (2, 3))
            if self.choose(False, True):
                x, threshold = self.node("Sub", x, threshold, shape=self.shapes[x]), self.constant(0.0)
        operator = self.choose("Greater", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
        sides = (x, threshold) if self.choose(True, True, False) else (threshold, x)
        condition = self.node(operator, *sides, shape=self.shapes[x])
        if self.choose(False, False, False, True):
            number = self.node("Cast", condition, shape=self.shapes[x], to=TensorProto.FLOAT)
            scaled = self.node("Mul", self.constant(hi - lo), number, shape=self.shapes[x])
            return self.node("Add", scaled, self.constant(lo), shape=self.shapes[x])
        return self.node("Where", condition, self.constant(hi), self.constant(lo), shape=self.shapes[x])

    def foreign_sign(self, x: str) -> str:
        """Signs as exporters and straight-through estimators write them: two or three values."""
        shape, zero = self.shapes[x], self.constant(0.0)
        if self.choose(False, False, True):
            x = self.node("Relu", x, shape=shape)
        sign = self.node("Sign", x, shape=shape)
        kind = self.choose("exact", "mask", "shift", "where")
        if kind == "mask":
            mask = self.node("Cast", self.node("Equal", x, zero, shape=shape), shape=shape, to=TensorProto.FLOAT)
            sign = self.node("Add", sign, mask, shape=shape)
        elif kind == "shift":
            shifted = self.node("Add", sign, self.constant(self.choose(0.1, -0.5)), shape=shape)
            sign = self.node("Sign", shifted, shape=shape)
        elif kind == "where":
            below = self.node("Less", x, self.constant(self.steps(*self.channel(x), step=0.5)), shape=shape)
            sign = self.node("Where", below, self.constant(-1.0), sign, shape=shape)
        if self.choose(False, True):
            through = self.node("Clip", x, self.constant(-1.0), self.constant(1.0), shape=shape)
            sign = self.node("Sub", sign, through, shape=shape)
            sign = self.node("Add", sign, through, shape=shape)
        return self.node("Mul", sign, self.constant(0.5), shape=shape) if self.choose(False, False, True) else sign

    def mean(self, x: str, axes: Sequence[int]) -> str:
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(self.shapes[x]))
        return self.node("ReduceMean", x, self.constant(np.array(axes)), shape=shape, keepdims=1)

    def quantize(self, x: str) -> str:
        """ai.sbnn::Quantize, or a rounding of standard operators."""
        shape = self.shapes[x]
        if self.choose(False, False, True):
            low, high = self.choose((0.0, 3.0), (0.0, 1.0), (-1.0, 1.0), (-2.0, 5.0), (0.0, 15.0))
            scale = self.constant(self.choose(0.5, 1.0, 0.3))
            scaled = self.node("Div", x, scale, shape=shape)
            clip, rest = ("Clip", self.constant(low), self.constant(high)), ("Round",)
            for operator, *bounds in (clip, rest) if self.choose(True, False) else (rest, clip):
                scaled = self.node(operator, scaled, *bounds, shape=shape)
            return self.node("Mul", scaled, scale, shape=shape)
        lo, step = self.choose((0.0, 1.0), (0.0, 1.0), (-3.0, 2.0), (-0.5, 0.25), (0.25, 0.1))
        count = self.choose(1, 3, 3, 3, 7, 15)
        leading = self.choose((), self.channel(x, scalar=False))
        thresholds = np.sort(self.steps(*leading, count, step=0.5), axis=-1)
        return self.node("Quantize", x, self.constant(thresholds), shape=shape, domain=opset.DOMAIN, lo=lo, step=step)

    def window(self, x: str, largest: int = 4) -> tuple[dict[str, Any], Shape] | None:
        """Attributes of a sliding window and the size of its result; None if the image is too small."""
        kernel = [self.draw(st.integers(1, self.choose(largest, largest, largest, 7))) for _ in range(2)]
        strides = [self.choose(1, 1, 2, 3) for _ in range(2)]
        dilations = [self.choose(1, 1, 1, 2) for _ in range(2)]
        pads = [self.draw(st.integers(0, kernel[i % 2] - 1)) for i in range(4)]
        size = [
            (n + pads[i] + pads[i + 2] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
            for i, n in enumerate(self.shapes[x][2:])
        ]
        if min(size) < 1:
            return None
        return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}, tuple(size)

    def conv(self, x: str) -> str | None:
        batch, channels, *_ = self.shapes[x]
        if (window := self.window(x)) is None:
            return None
        attributes, size = window
        groups = self.choose(*(g for g in (1, 1, 1, 2, 3, channels) if channels % g == 0))
        outputs = groups * self.draw(st.integers(1, 2 if groups > 4 else 40 // groups))
        weight = self.constant(self.weights(outputs, channels // groups, *attributes["kernel_shape"]))
        bias = [self.constant(self.steps(outputs))] if self.choose(False, False, True) else []
        return self.node("Conv", x, weight, *bias, shape=(batch, outputs, *size), group=groups, **attributes)

    def custom_conv(self, x: str) -> str | None:
        """ai.sbnn::BinaryConv2d."""
        batch, channels, *_ = self.shapes[x]
        if (window := self.window(x)) is None:
            return None
        attributes, size = window
        groups = self.choose(*(g for g in (1, 1, 2, channels) if channels % g == 0))
        shape = (groups * self.draw(st.integers(1, 2 if groups > 4 else 40 // groups)), channels // groups)
        shape += tuple(attributes.pop("kernel_shape"))
        value = self.choose(-1, 0, 0, 1)
        return self.node(
            "BinaryConv2d", x, *self.packed(shape), shape=(batch, shape[0], *size), domain=opset.DOMAIN,
            weight_shape=list(shape), group=groups, pad_value=value, **attributes,
        )  # fmt: skip

    def packed(self, shape: Shape) -> tuple[str, str, str]:
        """Bits, scale and offset of weights."""
        bits = self.rng.random(shape) < self.choose(0.1, 0.5)
        a, b = self.steps(shape[0]), self.steps(shape[0])
        tau, phi = self.choose((1.0, 0.0), (a, 0.0), (a, b), (a, a))
        scale, offset = (self.constant(np.broadcast_to(np.float32(each), shape[:1])) for each in (tau, phi))
        return self.constant(opset.pack_bits(bits)), scale, offset

    def dense(self, x: str) -> str:
        shape = self.shapes[x]
        outputs = self.draw(st.integers(1, 70))
        if self.choose(False, False, True):
            return self.binary_linear(x, outputs)
        weight = self.weights(outputs, shape[-1])
        out = (*shape[:-1], outputs)
        if len(shape) == 2 and self.choose(False, True):
            bias = self.constant(self.steps(*self.choose((outputs,), (1, outputs), (1,))))
            return self.node("Gemm", x, self.constant(weight), bias, shape=out, transB=1)
        return self.node("MatMul", x, self.constant(np.ascontiguousarray(weight.T)), shape=out)

    def binary_linear(self, x: str, outputs: int) -> str:
        """ai.sbnn::BinaryLinear."""
        shape = self.shapes[x]
        packed = self.packed((outputs, shape[-1]))
        out = (*shape[:-1], outputs)
        return self.node("BinaryLinear", x, *packed, shape=out, domain=opset.DOMAIN, in_features=shape[-1])

    def flatten(self, x: str) -> str:
        """The samples of a map as rows, in one of the ways that exporters write it."""
        shape = (self.shapes[x][0], int(np.prod(self.shapes[x][1:])))
        if self.choose(True, False):
            return self.node("Flatten", x, shape=shape)
        to = self.choose(shape, (-1, shape[1]), (0, -1))
        return self.node("Reshape", x, self.constant(np.array(to)), shape=shape)

    def head(self, x: str) -> str | None:
        """One or two dense layers that read the same flattened map, often one of bits; some results are maps again."""
        if int(np.prod(self.shapes[x][1:])) > 400:
            return None
        if self.choose(True, True, False):
            x = self.binarize(x)
        if self.choose(False, False, False, True) and (pooled := self.pool(x, "MaxPool")) is not None:
            x = pooled
        rows = self.flatten(x)
        for _ in range(self.choose(1, 1, 2)):
            outputs = self.draw(st.integers(1, 70))
            y = self.binary_linear(rows, outputs) if self.choose(True, True, False) else self.dense(rows)
        if self.choose(False, False, True):
            axis = self.constant(np.array([-1]))
            total = self.node("ReduceSum", rows, axis, shape=(self.shapes[rows][0], 1), keepdims=1)
            y = self.node(self.choose("Add", "Mul"), y, total, shape=self.shapes[y])
        if self.choose(False, False, True):
            batch, channels = self.shapes[y]
            if self.choose(True, False):
                axes = self.constant(np.array([2, 3]))
                y = self.node("Unsqueeze", y, axes, shape=(batch, channels, 1, 1))
            else:
                to = (batch, channels, 1, 1)
                y = self.node("Reshape", y, self.constant(np.array(to)), shape=to)
        return y

    def pool(self, x: str, operator: str) -> str | None:
        if (window := self.window(x, 3)) is None:
            return None
        attributes, size = window
        if operator == "AveragePool":
            attributes = {**attributes, "dilations": [1, 1], "count_include_pad": self.choose(0, 1)}
            size = tuple(
                (n + attributes["pads"][i] + attributes["pads"][i + 2] - attributes["kernel_shape"][i])
                // attributes["strides"][i]
                + 1
                for i, n in enumerate(self.shapes[x][2:])
            )
        elif any(d > 1 for d in attributes["dilations"]):
            attributes["pads"] = [0] * 4  # a window may lie in the padding altogether
            size = tuple(
                (n - attributes["dilations"][i] * (attributes["kernel_shape"][i] - 1) - 1) // attributes["strides"][i]
                + 1
                for i, n in enumerate(self.shapes[x][2:])
            )
            if min(size) < 1:
                return None
        return self.node(operator, x, shape=(*self.shapes[x][:2], *size), **attributes)

    def batch_norm(self, x: str) -> str:
        channels = self.channels(x)
        scale, bias, mean = (self.constant(self.steps(channels)) for _ in range(3))
        variance = self.constant(self.rng.choice([0.25, 1.0, 4.0, 16.0], channels))
        return self.node("BatchNormalization", x, scale, bias, mean, variance, shape=self.shapes[x], epsilon=0.0)

    def elementwise(self, operator: str, x: str) -> str | None:
        shape = self.shapes[x]
        others = [name for name, other in self.shapes.items() if other == shape and name in self.values]
        match operator:
            case "bias":
                sides = [x, self.constant(self.steps(*self.channel(x)))]
                return self.node(self.choose("Add", "Sub"), *(sides if self.choose(1, 0) else sides[::-1]), shape=shape)
            case "scale":
                sides = [x, self.constant(self.steps(*self.channel(x)))]
                return self.node("Mul", *(sides if self.choose(1, 0) else sides[::-1]), shape=shape)
            case "divide":
                return self.node("Div", x, self.constant(self.rng.choice([-2.0, 0.5, 4], self.channel(x))), shape=shape)
            case "batch norm":
                return self.batch_norm(x) if len(shape) in (2, 4) else None
            case "relu":
                return self.node("Relu", x, shape=shape)
            case "negate":
                return self.node("Neg", x, shape=shape)
            case "leaky relu":
                return self.node("LeakyRelu", x, shape=shape, alpha=self.choose(0.25, -0.5))
            case "prelu":
                if len(shape) not in (2, 4):
                    return None
                slope = self.constant(self.steps(self.channels(x), *((1, 1) if len(shape) == 4 else ())))
                return self.node("PRelu", x, slope, shape=shape)
            case "clip":
                return self.node("Clip", x, self.constant(self.choose(-1.0, 0.0)), self.constant(1.0), shape=shape)
            case "add":
                return self.node("Add", x, self.choose(*others), shape=shape)
            case "multiply":
                # a product of products would grow beyond what float32 holds
                return self.node(
                    "Mul",
                    x,
                    self.node("Clip", self.choose(*others), self.constant(-2.0), self.constant(2.0), shape=shape),
                    shape=shape,
                )
        raise AssertionError(operator)

    @property
    def values(self) -> list[str]:
        """What a layer may read: no conditions, nothing in the middle of a shuffle."""
        return [
            name for name, shape in self.shapes.items() if not name.startswith(("greater", "less")) and len(shape) < 5
        ]

    def on_map(self, operator: str, x: str) -> str | None:
        batch, channels, height, width = self.shapes[x]
        match operator:
            case "conv":
                return self.conv(x)
            case "binary conv":
                x = self.binarize(x)
                return self.custom_conv(x) if self.choose(False, False, True) else self.conv(x)
            case "max pool":
                return self.pool(x, "MaxPool")
            case "average pool":
                return self.pool(x, "AveragePool")
            case "global pool":
                return self.node("GlobalAveragePool", x, shape=(batch, channels, 1, 1))
            case "pad":
                amounts = [0, 0, *(self.draw(st.integers(0, 2)) for _ in range(2))] * 2
                value = self.constant(self.choose(0.0, 1.0, -1.0))
                shape = (batch, channels, height + 2 * amounts[2], width + 2 * amounts[3])
                return self.node("Pad", x, self.constant(np.array(amounts)), value, shape=shape)
            case "concat":
                others = [
                    n
                    for n in self.values
                    if len(s := self.shapes[n]) == 4 and (s[0], s[2:]) == (batch, (height, width))
                ]
                other = self.choose(*others)
                shape = (batch, channels + self.shapes[other][1], height, width)
                return self.node("Concat", x, other, shape=shape, axis=1)
            case "flatten":
                if channels * height * width > 400:
                    return None
                return self.flatten(x)
            case "head":
                return self.head(x)
            case "transpose":
                return self.node("Transpose", x, shape=(batch, channels, width, height), perm=[0, 1, 3, 2])
            case "slice":
                size = self.draw(st.integers(1, channels))
                first = self.draw(st.integers(0, channels - size))
                bounds = [self.constant(np.array([each])) for each in (first, first + size, 1)]
                return self.node("Slice", x, *bounds, shape=(batch, size, height, width))
            case "gather":
                picks = self.rng.integers(0, channels, self.draw(st.integers(1, 20)))
                return self.node("Gather", x, self.constant(picks), shape=(batch, len(picks), height, width), axis=1)
            case "shuffle":
                groups = self.choose(*(g for g in (2, 3, 4) if channels % g == 0), 1)
                split, back = (batch, groups, channels // groups, height, width), self.shapes[x]
                y = self.node("Reshape", x, self.constant(np.array(split)), shape=split)
                swapped = (batch, channels // groups, groups, height, width)
                y = self.node("Transpose", y, shape=swapped, perm=[0, 2, 1, 3, 4])
                return self.node("Reshape", y, self.constant(np.array(back)), shape=back)
            case "roll":
                # the first channels in one direction, the others in another
                first = self.draw(st.integers(1, channels))
                bounds = [(0, first), (first, channels)][: 1 + (first < channels)]
                parts = [self.slice(x, 1, *each) if len(bounds) > 1 else x for each in bounds]
                rolled = [self.rolled(part, self.choose(2, 3), self.draw(st.integers(0, 3))) for part in parts]
                return self.node("Concat", *rolled, shape=self.shapes[x], axis=1)
            case "split":
                if channels % 2:
                    return None
                name = f"half_{len(self.nodes)}"
                self.nodes.append(helper.make_node("Split", [x], [name, f"{name}b"], name=name, axis=1, num_outputs=2))
                self.shapes |= dict.fromkeys((name, f"{name}b"), (batch, channels // 2, height, width))
                return name
        raise AssertionError(operator)

    def slice(self, x: str, axis: int, begin: int, end: int) -> str:
        shape = tuple(end - begin if i == axis else size for i, size in enumerate(self.shapes[x]))
        bounds = [self.constant(np.array([each])) for each in (begin, end, axis)]
        return self.node("Slice", x, *bounds, shape=shape)

    def rolled(self, x: str, axis: int, by: int) -> str:
        size = self.shapes[x][axis]
        if not 0 < by < size:
            return x
        parts = self.slice(x, axis, size - by, size), self.slice(x, axis, 0, size - by)
        return self.node("Concat", *parts, shape=self.shapes[x], axis=axis)

    def on_rows(self, operator: str, x: str) -> str | None:
        shape = self.shapes[x]
        match operator:
            case "dense":
                return self.dense(self.binarize(x) if self.choose(True, True, False) else x)
            case "sum":
                axes = self.constant(np.array([-1]))
                return self.node("ReduceSum", x, axes, shape=(*shape[:-1], 1), keepdims=1)
            case "unflatten":
                if len(shape) == 2:
                    to = self.choose((*shape, 1, 1), (shape[0], 1, shape[1]), (shape[0], shape[1], 1), (1, *shape))
                else:
                    to = self.choose((shape[0], shape[1] * shape[2]), (shape[0] * shape[1], shape[2]), (1, *shape))
                return self.node("Reshape", x, self.constant(np.array(to)), shape=to)
        raise AssertionError(operator)

    def grow(self) -> None:
        """Add a layer after the newest value, or sometimes after an older one."""
        x = self.values[-1] if self.choose(True, True, True, False) else self.choose(*self.values)
        rank = len(self.shapes[x])
        options = (*BINARIZE, *ELEMENTWISE, *LEFT_TO_TVM[: self.choose(0, 0, 3)])
        options += ON_MAPS * 2 if rank == 4 else ON_ROWS * 3
        operator = self.choose(*options)
        if operator in BINARIZE:
            self.binarize(x)
        elif operator in ELEMENTWISE:
            self.elementwise(operator, x)
        elif operator in LEFT_TO_TVM:
            attributes = {"axis": -1} if operator == "softmax" else {}
            inputs = (x, x) if operator == "square" else (x,)
            name = {"sigmoid": "Sigmoid", "softmax": "Softmax", "square": "Mul"}[operator]
            self.node(name, *inputs, shape=self.shapes[x], **attributes)
        elif rank == 4:
            self.on_map(operator, x)
        else:
            self.on_rows(operator, x)

    def model(self) -> onnx.ModelProto:
        """The graph; what nothing reads is an output, and a few other values are too."""
        read = {name for node in self.nodes for name in node.input}
        ends = [name for node in self.nodes for name in node.output if name not in read]
        inner = [name for node in self.nodes for name in node.output if name in read]
        more = self.draw(st.lists(st.sampled_from(inner), max_size=2, unique=True)) if inner else []
        names = [*ends, *more]
        domains = [helper.make_opsetid("", 21), helper.make_opsetid(opset.DOMAIN, opset.VERSION)]
        graph = helper.make_graph(
            self.nodes, "random", self.inputs, [onnx.ValueInfoProto(name=name) for name in names], self.constants
        )
        model = helper.make_model(graph, opset_imports=domains, ir_version=10)
        return onnx.shape_inference.infer_shapes(opset.add_functions(model), strict_mode=True)


@st.composite
def networks(draw: Any) -> onnx.ModelProto:
    """Networks of 1 to 12 layers over maps, rows, or rows of rows."""
    network = Network(draw, np.random.default_rng(draw(st.integers(0, 2**16))))
    batch = draw(st.sampled_from([1, 1, 2, 3, 5]))
    kind = draw(st.sampled_from(["map", "map", "map", "map", "rows", "rows of rows"]))
    channels = draw(st.sampled_from([1, 2, 3, 4, 7, 8, 12, 16, 17, 33, 64, 66]))
    if kind == "map":
        largest = draw(st.sampled_from([9, 9, 9, 40]))  # a large image is worth several threads
        pixel = draw(st.sampled_from([False, False, False, False, True]))
        size = (1, 1) if pixel else (draw(st.integers(1, largest)), draw(st.integers(1, largest)))
        shape: Shape = (batch, channels, *size)
    else:
        shape = (batch, channels) if kind == "rows" else (batch, 5, channels)
    network.input(shape)
    if draw(st.sampled_from([False, False, True])):
        network.input(shape)
    for _ in range(draw(st.integers(1, 12))):
        network.grow()
    if not network.nodes:
        network.elementwise("relu", "input_0")
    return network.model()


def check(model: onnx.ModelProto, target: str) -> None:
    feeds = grid_inputs(model)
    expected = run_reference(model, feeds)
    module = sbnn_tvm.compile(model, target)
    verification = module.verify(feeds)
    outputs = module.run(feeds) if module.target.native else module.emulate(feeds)
    for (name, want), got in zip(expected.items(), outputs if isinstance(outputs, tuple) else (outputs,), strict=True):
        assert (got.shape, got.dtype) == (want.shape, want.dtype), name
    assert {out.name for out in verification.outputs} == set(expected)


RELAXED = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example]
TARGETS = st.sampled_from(["native", *(name for name in ("x86-64-v3", "x86-64", "x86-64-v4") if resolve(name).native)])


@given(networks(), TARGETS)
@settings(max_examples=25, deadline=None, derandomize=True, database=None, suppress_health_check=RELAXED)
def test_random_network(model: onnx.ModelProto, target: str) -> None:
    check(model, target)


@pytest.mark.fuzz
@given(networks(), TARGETS)
@settings(max_examples=2000, deadline=None, database=None, suppress_health_check=RELAXED)
def test_many_random_networks(model: onnx.ModelProto, target: str) -> None:
    check(model, target)
