"""The kinds of layer that kernels compute, as data. ``read.read_layer`` reads them from composite functions.

Every kind has the fields of :class:`Layer`, and its own fields::

    Layer                               an anchor, and the epilogue after it
      FloatConvolution   FloatDense     weights float32
      IntegerConvolution IntegerDense   weights of up to 9 bits, data of 8 bits
      BinaryConvolution  BinaryDense    weights -1 and +1, or 0 and 1; data of one or a few bits
      WindowSum                         sum of signs over each window, without weights
      MaxPool2d  AvgPool2d  GlobalAvgPool2d  BitMaxPool2d
      ChannelSelection  BitSelection    channels, rows and columns of other values, of floats or of bits
      BitShift                          circular shifts of channels over the image
      Elementwise  SampleMean  Recurrent
      QuantisationRange                 a scale and a zero point that the values give
      Rows                              elementwise operations and reductions over the channels
      BatchedProduct                    products of two activations
      Copy                              permutations of axes, and slices
      PhaseInterleaving BitInterleaving phases that become the pixels of a larger map, of numbers or of bits
      Concatenation                     other values and constants along any axis
      Resampling                        pixels of another map, or weighted sums of a few
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

import numpy as np

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain, Domain
from sbnn_tvm.schedules.elementwise.resampling import AxisTaps
from sbnn_tvm.schedules.elementwise.strided_copy import StridedView
from sbnn_tvm.schedules.epilogue.program import Element, Number, Program
from sbnn_tvm.schedules.layouts.interleaving import Interleaving
from sbnn_tvm.schedules.recurrent.sequence import Recurrence
from sbnn_tvm.schedules.selection import PixelSelection, Selection
from sbnn_tvm.schedules.shapes import Conv2dShape, ProductShape
from sbnn_tvm.schedules.tir.functions import EXACT, ULPS

from ..relax.node_names import node_of
from ..relax.snapped_weights import WeightChange
from .epilogues import FittedCounters, FittedEpilogue, fit_counters, fit_epilogue
from .facts import WindowTest


@dataclass(frozen=True, eq=False, kw_only=True)
class Layer:
    """A layer: an anchor, for example a convolution, and the epilogue after it. One composite function.

    Attributes:
        kind: Name of the kind; the attribute ``Composite`` of the function is ``sbnn.`` and this name.
        name: Name of the variable that the anchor computes, which identifies the ONNX value.
        extent: Logical shape (NCHW, or [..., C]) of the anchor's result.
        in_channels: Channels of the data.
        data_inputs: Number of values that the anchor reads.
        input_domain: The two values, or the levels of a few bits, of the data; None if not known.
        data_dtype: Element type of the data, unless they are packed bits.
        program: The epilogue. Index 0 of its tensor operands is the first operand after the data.
        members: Names of the values that the layer computes, in order.
        step_names: Name of the value that each step of the program computes.
        outputs: For each output its domain, if it is stored as bits; None for a float output.
    """

    kind: ClassVar[str]
    name: str
    extent: tuple[int, ...]
    in_channels: int
    data_inputs: int
    input_domain: Domain | None
    data_dtype: Element
    program: Program
    members: tuple[str, ...]
    step_names: tuple[str, ...]
    outputs: tuple[Domain | None, ...]

    @property
    def sums_windows(self) -> bool:
        """Whether the layer computes only the sum over each window."""
        return False

    def node(self, nodes: Mapping[str, str]) -> str:
        """The name in reports: that of the first ONNX node that the layer computes.

        Args:
            nodes: The ONNX node of each variable.
        """
        return next(
            (nodes[member] for member in self.members if member in nodes), node_of(self.name, nodes) or self.name
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class BitLayer(Layer):
    """A layer whose data are packed bits.

    Attributes:
        input_domain: The values that the bits stand for.
    """

    input_domain: Domain


@dataclass(frozen=True, eq=False, kw_only=True)
class LinearLayer(Layer):
    """A convolution or dense layer.

    Attributes:
        shape: The convolution; for a dense layer the 1x1 convolution that it is (schedules/shapes.py).
        weight: float32, output channels first: OIHW, or [out, in] for a dense layer.
        integer_sum_of: Name of the sum of float products that the layer's integer sum replaces, if it does.
        weight_change: How the weights differ from those of the model, if they do.
        plane_of: What the weights are called that these are one of two planes of; "" for the first plane.
    """

    shape: Conv2dShape
    weight: np.ndarray
    integer_sum_of: str | None = None
    weight_change: WeightChange | None = None
    plane_of: str | None = None

    @property
    def out_channels(self) -> int:
        """Number of output channels, over all groups."""
        return len(self.weight)

    @property
    def taps(self) -> int:
        """Number of weights of one output channel."""
        return int(self.weight[0].size)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one inference: one per weight and output pixel, padding included."""
        return self.shape.macs

    @property
    def counted_density(self) -> float:
        """Share of the weights that a sparse kernel computes with, at least one weight: those that are not 0."""
        return max(int(np.count_nonzero(self.weight)), 1) / self.weight.size


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatLinearLayer(LinearLayer):
    """A linear layer with float32 weights.

    Attributes:
        why_float: Why it is not binary, in one sentence, in which ``<x>`` stands for the ONNX node of variable x.
    """

    why_float: str


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatConvolution(FloatLinearLayer):
    """A convolution with float32 weights."""

    kind = "conv2d"


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatDense(FloatLinearLayer):
    """A dense layer with float32 weights."""

    kind = "dense"


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerLinearLayer(LinearLayer):
    """A linear layer with integer weights on data of 8 bits, whose anchor is an integer sum.

    Ref(0) of the epilogue is the sum of ``(data - zero_point) * weight``, plus the bias, as float32.

    Attributes:
        weight: int16, output channels first, of magnitude up to 255.
        zero_point: The number of the data that stands for 0, also outside the image; an operand if it is known only at
            run time.
        bias: int32 [OC]; None without a bias.
    """

    zero_point: int | Number
    bias: np.ndarray | None

    @property
    def exact(self) -> bool:
        """Whether the results equal those of the reference: it sums the same integers, and rounds the same steps."""
        return self.integer_sum_of is None and all(
            step.op not in ULPS or step.op in EXACT for step in self.program.steps
        )

    @property
    def weight_bits(self) -> int:
        """Bits of a weight."""
        return 8 if int(self.weight.min()) >= -128 and int(self.weight.max()) <= 127 else 9


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerConvolution(IntegerLinearLayer):
    """A convolution of integers."""

    kind = "integer_conv2d"


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerDense(IntegerLinearLayer):
    """A dense layer of integers."""

    kind = "integer_dense"


@dataclass(frozen=True, eq=False, kw_only=True)
class BinaryLinearLayer(BitLayer, LinearLayer):
    """A linear layer with weights -1 and +1, or 0 and 1, whose anchor is an integer sum.

    Attributes:
        window_sum: Index of the operand that is the sum over the layer's own window, if there is one.
        window_test: An integer comparison that gives the layer's bits, if there is one.
        factors: Scale and offset of the weights, float32 [OC] each, where the epilogue does not show them.
    """

    window_sum: int | None = None
    window_test: WindowTest | None = None
    factors: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def weight_domain(self) -> BinaryDomain:
        """The values of ``weight``: domain.SIGN for -1 and +1, domain.BIT for 0 and 1."""
        return BIT if bool((self.weight == 0).any()) else SIGN

    @property
    def sums_windows(self) -> bool:
        """Whether all weights are +1, so that the layer computes only the sum over each window."""
        return bool((self.weight > 0).all())

    @property
    def counted_density(self) -> float:
        """Share of the weights that counters add: the rarer sign of each output channel, or the set weights."""
        weight = self.weight.reshape(len(self.weight), -1)
        ones = np.count_nonzero(weight > 0, axis=1)
        counted = np.minimum(ones, weight.shape[1] - ones) if self.weight_domain == SIGN else ones
        return max(int(counted.sum()), 1) / weight.size

    @property
    def exact(self) -> bool:
        """Whether the bits equal those of the reference: it computes the same integers and rounds the same steps."""
        if self.integer_sum_of is not None:
            return False
        # The reference's float32 sums are exact as long as they stay below 2^23 units of the values; the unit is a
        # power of 2 for float32 values. Larger sums are rounded, in an order that differs from ours.
        values = [Fraction(value) for value in self.input_domain.values.tolist()]
        units = max(value.denominator for value in values)
        return self.taps * max(map(abs, values)) * units < 2**23

    @cached_property
    def fitted(self) -> FittedEpilogue:
        """The epilogue for kernels that compute the sum D of sign products."""
        return fit_epilogue(self.program, self.weight, self.input_domain, self._windows, self._pad_value)

    @cached_property
    def fitted_counters(self) -> FittedCounters:
        """The epilogue for kernels that count set weights."""
        return fit_counters(self.fitted, self.weight, self.weight_domain, self.window_sum, self.window_test)

    @property
    def _windows(self) -> Conv2dShape | None:
        """The shape, if windows may extend beyond the image; None for a dense layer."""
        return None

    @property
    def _pad_value(self) -> float:
        return 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class BinaryConvolution(BinaryLinearLayer):
    """A binary convolution.

    Attributes:
        pad_value: The value of the data outside the image: one of its domain, or 0.
    """

    kind = "binary_conv2d"
    pad_value: float

    @property
    def _windows(self) -> Conv2dShape | None:
        return self.shape

    @property
    def _pad_value(self) -> float:
        return self.pad_value


@dataclass(frozen=True, eq=False, kw_only=True)
class BinaryDense(BinaryLinearLayer):
    """A binary dense layer."""

    kind = "binary_dense"


@dataclass(frozen=True, eq=False, kw_only=True)
class WindowSum(Layer):
    """The sum of the signs in each window. Layers with general two-valued weights multiply it by their offset.

    Attributes:
        shape: The windows, one output channel per group. For a dense layer, a row is an image of one pixel.
        pad_value: The value outside the image.
    """

    kind = "window_sum"
    shape: Conv2dShape
    pad_value: float

    @property
    def sums_windows(self) -> bool:
        """Always: the layer has no weights."""
        return True


@dataclass(frozen=True, eq=False, kw_only=True)
class MaxPool2d(Layer):
    """Max pooling of floats."""

    kind = "max_pool2d"
    shape: Conv2dShape


@dataclass(frozen=True, eq=False, kw_only=True)
class AvgPool2d(Layer):
    """Average pooling.

    Attributes:
        counted_padding: The padding (top, left, bottom, right) that counts as elements; None if none does.
        zero_point: What is subtracted from integers.
    """

    kind = "avg_pool2d"
    shape: Conv2dShape
    counted_padding: tuple[int, int, int, int] | None
    zero_point: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class GlobalAvgPool2d(Layer):
    """The mean of each channel over the image.

    Attributes:
        zero_point: What is subtracted from integers.
    """

    kind = "global_avg_pool2d"
    shape: Conv2dShape
    zero_point: int = 0


@dataclass(frozen=True, eq=False, kw_only=True)
class BitMaxPool2d(BitLayer):
    """Max pooling of packed bits or codes.

    Attributes:
        minima: bool [C], True for the channels that take the minimum instead; None if there are none.
    """

    kind = "max_pool2d_bits"
    shape: Conv2dShape
    minima: np.ndarray | None


@dataclass(frozen=True, eq=False, kw_only=True)
class ChannelSelection(Layer):
    """A selection of channels, rows and columns of float32 values.

    Attributes:
        selection: The data and channel of each output channel.
        pixels: The row and column of the data of each output row and column; None if all are as in the data.
        fill: The value of channels, rows and columns without a source.
    """

    kind = "select_channels"
    selection: Selection
    pixels: PixelSelection | None = None
    fill: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class BitSelection(BitLayer):
    """A selection of channels, rows and columns of packed bits or codes.

    Attributes:
        selection: The data and channel of each output channel.
        pixels: The row and column of the data of each output row and column; None if all are as in the data.
        fill: The value of channels, rows and columns without a source, one of ``input_domain``.
    """

    kind = "select_channels_bits"
    selection: Selection
    pixels: PixelSelection | None = None
    fill: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class BitShift(BitLayer):
    """Circular shifts of packed channels over the image.

    Attributes:
        shifts: How many rows down and columns right each channel moves, int64 [C, 2].
    """

    kind = "shift_bits"
    shifts: np.ndarray


@dataclass(frozen=True, eq=False, kw_only=True)
class Elementwise(Layer):
    """Elementwise operations without an anchor: the data itself is Ref(0) of the epilogue."""

    kind = "elementwise"


@dataclass(frozen=True, eq=False, kw_only=True)
class SampleMean(Layer):
    """The mean over all values of each sample.

    Attributes:
        values: Number of values of a sample.
    """

    kind = "sample_mean"
    values: int


@dataclass(frozen=True, eq=False, kw_only=True)
class QuantisationRange(Layer):
    """The scale and the zero point with which the range of all values fills uint8. Two outputs, no epilogue.

    Attributes:
        values: Number of values.
    """

    kind = "quantisation_range"
    values: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows(Layer):
    """Elementwise operations and reductions over the channels; the data itself is Ref(0) of the program."""

    kind = "rows"


@dataclass(frozen=True, eq=False, kw_only=True)
class BatchedProduct(Layer):
    """The product of two activations for each matrix of a batch.

    Attributes:
        shape: The matrices.
    """

    kind = "batched_matmul"
    shape: ProductShape


@dataclass(frozen=True, eq=False, kw_only=True)
class Copy(Layer):
    """A permutation of the axes, or a slice, stored as in ONNX. It has no epilogue.

    Attributes:
        view: What is copied.
    """

    kind = "copy"
    view: StridedView


@dataclass(frozen=True, eq=False, kw_only=True)
class PhaseInterleaving(Layer):
    """Phases that become the pixels of a larger map. It has no epilogue.

    Attributes:
        small: (N, H, W) of the data.
        parts: Channels of each of the data.
        interleaving: What is read.
    """

    kind = "interleave"
    small: tuple[int, int, int]
    parts: tuple[int, ...]
    interleaving: Interleaving


@dataclass(frozen=True, eq=False, kw_only=True)
class BitInterleaving(BitLayer):
    """Phases of packed bits or codes that become the pixels of a larger map.

    Attributes:
        small: (N, H, W) of the data.
        parts: Channels of each of the data, which have equal numbers of whole phases.
        interleaving: What is read.
    """

    kind = "interleave_bits"
    small: tuple[int, int, int]
    parts: tuple[int, ...]
    interleaving: Interleaving


@dataclass(frozen=True, eq=False, kw_only=True)
class Concatenation(Layer):
    """Values and constants, one after the other along an axis, stored as in ONNX. It has no epilogue.

    Attributes:
        outer: Number of indices of the axes before it.
        lengths: Number of elements of each value for each of them.
        parts: What is concatenated: the index of a value, or a constant.
    """

    kind = "concatenate"
    outer: int
    lengths: tuple[int, ...]
    parts: tuple[int | np.ndarray, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Resampling(Layer):
    """A feature map whose pixels are pixels of another, or weighted sums of a few.

    Attributes:
        source: Shape of the other map, NCHW.
        rows, columns: What each row and column reads.
    """

    kind = "resample"
    source: tuple[int, ...]
    rows: AxisTaps
    columns: AxisTaps


@dataclass(frozen=True, eq=False, kw_only=True)
class Recurrent(Layer):
    """A recurrent layer over a whole sequence. The importer writes its composite, whose body is unrolled.

    Attributes:
        recurrence: What it computes in each step.
        steps: Length of the sequence.
        batch: Number of sequences.
    """

    kind = "recurrent"
    recurrence: Recurrence
    steps: int
    batch: int

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the states with their weights."""
        return self.steps * self.batch * self.recurrence.weight.size
