"""Choose the kernel of a layer, and fit the epilogue to what that kernel computes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from sbnn_tvm.domain import SIGN, BinaryDomain
from sbnn_tvm.schedules.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.dense import float_dense, popcount_dense
from sbnn_tvm.schedules.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.elementwise import elementwise
from sbnn_tvm.schedules.epilogue import (
    Border,
    Channel,
    Epilogue,
    Operand,
    Program,
    Ref,
    Scalar,
    Step,
)
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.pack import window_sum
from sbnn_tvm.schedules.pool import avg_pool2d, global_avg_pool2d, max_pool2d, max_pool2d_bits
from sbnn_tvm.schedules.select_channels import select_channels, select_channels_bits
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.sparse_conv2d import sparse_conv2d

from .cost_model import sparse_pays
from .fold_thresholds import fold_threshold
from .graph import channels_last
from .layer import Layer


class DataForm(Enum):
    """How a kernel reads its data."""

    FLOAT = "float32, channels last"
    BITS = "packed bits"
    PLANES = "bit planes"


@dataclass(frozen=True, eq=False)
class Choice:
    """A kernel for a layer.

    Attributes:
        kernel: The kernel.
        data: What it reads.
        groups: With packed data, in how many groups of channels it is packed.
        folded: Whether the whole epilogue became an integer threshold.
    """

    kernel: Kernel
    data: DataForm = DataForm.FLOAT
    groups: int = 1
    folded: bool = False

    @property
    def stores_planes(self) -> bool:
        """Whether its packed output is in bit planes too."""
        return self.data == DataForm.PLANES and self.folded


def choose_kernel(layer: Layer, isa: Isa) -> Choice:
    """The kernel that computes a layer."""
    conv = layer.shape
    program = layer.program
    match layer.kind:
        case "elementwise":
            return Choice(elementwise(channels_last(layer.extent), program, isa))
        case "select_channels":
            assert layer.selection is not None
            return Choice(select_channels(channels_last(layer.extent)[:-1], layer.selection, program, isa))
        case "select_channels_bits":
            assert layer.selection is not None
            kernel = select_channels_bits(channels_last(layer.extent)[:-1], layer.selection, isa)
            return Choice(kernel, DataForm.BITS)
        case "global_avg_pool2d":
            assert conv is not None
            return Choice(global_avg_pool2d((conv.batch, conv.height, conv.width, conv.in_channels), program, isa))
        case "avg_pool2d":
            assert conv is not None
            return Choice(avg_pool2d(conv, program, isa, count_include_pad=layer.counted_padding or False))
        case "max_pool2d":
            assert conv is not None
            return Choice(max_pool2d(conv, program, isa))
        case "max_pool2d_bits":
            assert conv is not None
            return Choice(max_pool2d_bits(conv, isa, layer.minima), DataForm.BITS)
        case "window_sum":
            windows = layer.shape or Conv2dShape(_rows(layer), 1, 1, layer.inputs, 1)
            return Choice(window_sum(windows, int(layer.pad_value), isa), DataForm.BITS)
        case "conv2d":
            assert conv is not None and layer.weight is not None
            return Choice(_float_conv2d(conv, layer.weight, program, isa))
        case "dense":
            assert layer.weight is not None
            return Choice(float_dense(_rows(layer), layer.weight, program, isa))
        case "binary_dense":
            assert layer.weight is not None and layer.input_domain is not None
            inputs = layer.weight.shape[1]
            fitted = _from_signs(program, layer.input_domain, Channel(layer.weight.sum(axis=1)))
            epilogue = _folded(fitted, inputs, len(layer.weight), isa)
            kernel = popcount_dense(_rows(layer), layer.weight > 0, epilogue, isa)
            return Choice(kernel, DataForm.BITS, folded=epilogue is not fitted)
        case "binary_conv2d":
            return _binary_conv2d(layer, isa)


def popcount_pays(conv: Conv2dShape, isa: Isa) -> bool:
    """Whether a popcount convolution beats a float one: a word must hold enough channels of a group.

    A word costs three vector operations for ``word_lanes`` outputs, a float32 channel one for ``float_lanes``.
    """
    channels = conv.group_in_channels
    return 3 * isa.words(channels) * isa.float_lanes < channels * isa.word_lanes


def _binary_conv2d(layer: Layer, isa: Isa) -> Choice:
    conv, weight, domain = layer.shape, layer.weight, layer.input_domain
    assert conv is not None and weight is not None and domain is not None
    if not layer.pad_value and not popcount_pays(conv, isa):
        return Choice(_float_conv2d(conv, weight, layer.program, isa))
    if layer.pad_value in (domain.lo, domain.hi):
        # What lies beyond the border is one of the two values: no pixel is special.
        padding_bit = 1 if layer.pad_value == domain.hi else -1
        sums: Operand = Channel(weight.sum(axis=(1, 2, 3)))
    else:
        padding_bit = 0
        valid = conv.border_classes().valid
        sums = Border(np.einsum("oihw,chw->co", weight, valid.astype(np.float32)).astype(np.float32))
    fitted = _from_signs(layer.program, domain, sums)
    taps = conv.group_in_channels * conv.kernel[0] * conv.kernel[1]
    epilogue = _folded(fitted, taps, conv.out_channels, isa)
    folded = epilogue is not fitted
    if sparse_pays(conv, weight > 0, isa, floats=not folded):
        kernel = sparse_conv2d(conv, weight > 0, padding_bit, epilogue, isa)
        return Choice(kernel, DataForm.PLANES, folded=folded)
    kernel = popcount_conv2d(conv, weight > 0, padding_bit, epilogue, isa)
    return Choice(kernel, DataForm.BITS, conv.groups, folded)


def _float_conv2d(conv: Conv2dShape, weight: np.ndarray, program: Program, isa: Isa) -> Kernel:
    if conv.groups == conv.in_channels == conv.out_channels > 1:
        return depthwise_conv2d(conv, weight, program, isa)
    return float_conv2d(conv, weight, program, isa)


def _folded(program: Program, taps: int, channels: int, isa: Isa) -> Epilogue:
    threshold = fold_threshold(program, taps, channels, isa)
    return program if threshold is None else threshold


def _rows(layer: Layer) -> int:
    return int(np.prod(layer.extent[:-1]))


def _from_signs(program: Program, domain: BinaryDomain, sums: Operand) -> Program:
    """Let a program that expects ``sum(S * x)`` start from ``D = sum(S * X)``, where ``x = tau * X + phi``.

    Args:
        program: The epilogue.
        domain: The values of x.
        sums: The sum of the signs of the weights that see the image.
    """
    if domain == SIGN:
        return program
    steps = (Step("multiply", Ref(0), Scalar(domain.tau)), Step("multiply", sums, Scalar(domain.phi)))
    return _behind((*steps, Step("add", Ref(1), Ref(2))), program)


def _behind(steps: tuple[Step, ...], program: Program) -> Program:
    """The program with its anchor replaced by the result of the last of some steps."""

    def moved(operand: Operand) -> Operand:
        return Ref(operand.index + len(steps)) if isinstance(operand, Ref) else operand

    rest = tuple(Step(step.op, moved(step.a), moved(step.b)) for step in program.steps)
    return Program((*steps, *rest), tuple(replace(output, value=moved(output.value)) for output in program.outputs))
