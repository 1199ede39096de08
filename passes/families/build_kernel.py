"""Build the kernel that a candidate stands for, with the layer's weights and epilogue."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from enum import Enum

from sbnn_tvm.schedules.bits.packing import window_sum
from sbnn_tvm.schedules.bits.shifts import shift_bits
from sbnn_tvm.schedules.counters.conv2d import sparse_conv2d
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.direct.dense import float_dense, popcount_dense
from sbnn_tvm.schedules.direct.pooled_conv2d import can_pool, pooled_conv2d
from sbnn_tvm.schedules.elementwise.channel_selection import select_channels, select_channels_bits
from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.elementwise.sample_mean import sample_mean
from sbnn_tvm.schedules.epilogue.program import WindowThreshold
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.shapes import Conv2dShape
from sbnn_tvm.schedules.sparse_float.kernel import sparse_float_conv2d, sparse_float_dense
from sbnn_tvm.schedules.tir.loops import one_thread
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d, max_pool2d_bits

from ..layers.fit_epilogue import fit_counters, fit_epilogue
from ..layers.layer import Layer
from ..relax.graph import channels_last
from .candidates import Candidate, Family, Tuned

# Of the map between a convolution and its pooling, from which on one kernel computes both.
_POOLED_BYTES = 512 * 1024


class DataForm(Enum):
    """How a kernel reads its data."""

    FLOAT = "float32, channels last"
    BITS = "packed bits"
    PLANES = "bit planes"


@dataclass(frozen=True, eq=False)
class Choice:
    """A kernel for a layer, and who chose it.

    Attributes:
        candidate: What the kernel was built from.
        kernel: The kernel.
        data: What it reads.
        groups: With packed data, in how many groups of channels it is packed.
        folded: Whether the whole epilogue became an integer threshold.
        reads_operands: Whether it reads what the layer reads beside its data.
        forced: Whether the user chose the family.
        tuned: What tuning found, where that decided.
    """

    candidate: Candidate
    kernel: Kernel
    data: DataForm = DataForm.FLOAT
    groups: int = 1
    folded: bool = False
    reads_operands: bool = True
    forced: bool = False
    tuned: Tuned | None = None

    @property
    def stores_planes(self) -> bool:
        """Whether its packed output is in bit planes too."""
        return self.data == DataForm.PLANES and self.folded


def build(layer: Layer, candidate: Candidate, isa: Isa) -> Choice:
    """The kernel of one of ``candidates(layer, isa)``."""
    if candidate.serial:
        with one_thread():
            choice = _build(layer, candidate, isa)
        return replace(choice, kernel=replace(choice.kernel, name=f"{choice.kernel.name} serial"))
    return _build(layer, candidate, isa)


def can_build_pooled(conv: Layer, chosen: Choice, pool: Layer, pool_choice: Choice) -> bool:
    """Whether one kernel should compute a convolution and the pooling that alone reads it.

    Args:
        conv: The convolution.
        chosen: Its kernel by itself.
        pool: The pooling.
        pool_choice: Its kernel by itself.
    """
    if conv.kind != "conv2d" or pool.kind != "max_pool2d" or conv.shape is None or pool.shape is None:
        return False
    if chosen.candidate.family != Family.FLOAT or chosen.candidate.serial != pool_choice.candidate.serial:
        return False
    # A smaller map stays in the cache between two kernels, which share their work among more threads.
    large = pool.shape.height * pool.shape.width * pool.shape.in_channels * 4 > _POOLED_BYTES
    return large and can_pool(conv.shape, conv.program, pool.shape)


def build_pooled(conv: Layer, chosen: Choice, pool: Layer, isa: Isa) -> Choice:
    """That kernel, with the convolution's own tile; direct sums if the user forced the convolution's family."""
    assert conv.shape is not None and conv.weight is not None and pool.shape is not None
    serial, tile = chosen.candidate.serial, chosen.candidate.tile
    with one_thread() if serial else nullcontext():
        layers = conv.shape, conv.weight, conv.program, pool.shape, pool.program
        kernel = pooled_conv2d(*layers, isa, tile, filtered=not chosen.forced)
    return replace(chosen, kernel=replace(kernel, name=kernel.name + " serial" * serial))


def _build(layer: Layer, candidate: Candidate, isa: Isa) -> Choice:
    match candidate.family:
        case Family.FLOAT:
            return Choice(candidate, _float(layer, candidate, isa))
        case Family.SPARSE_FLOAT:
            return _sparse_float(layer, candidate, isa)
        case Family.POPCOUNT:
            return _popcount(layer, candidate, isa)
        case Family.COUNTERS:
            return _counters(layer, candidate, isa)
        case Family.WORDS:
            return Choice(candidate, _words(layer, isa), DataForm.BITS)


def _popcount(layer: Layer, candidate: Candidate, isa: Isa) -> Choice:
    fitted, conv = fit_epilogue(layer, isa), layer.shape
    assert layer.weight is not None and layer.input_domain is not None
    signs, tile, bits = layer.weight > 0, candidate.tile, layer.input_domain.bits
    if conv is None:
        kernel = popcount_dense(layer.rows, signs, fitted.epilogue, isa, tile, bits, layer.weight_domain)
        return Choice(candidate, kernel, DataForm.BITS, folded=fitted.folded)
    kernel = popcount_conv2d(conv, signs, fitted.padding, fitted.epilogue, isa, tile, bits, layer.weight_domain)
    return Choice(candidate, kernel, DataForm.BITS, conv.groups, fitted.folded)


def _counters(layer: Layer, candidate: Candidate, isa: Isa) -> Choice:
    fitted = fit_counters(layer, isa)
    assert layer.shape is not None
    kernel = sparse_conv2d(
        layer.shape, fitted.counted, fitted.padding, fitted.epilogue, isa, fitted.domain, cut=candidate.cut
    )
    own_sums = isinstance(fitted.epilogue, WindowThreshold)
    return Choice(candidate, kernel, DataForm.PLANES, folded=fitted.folded, reads_operands=not own_sums)


def _float(layer: Layer, candidate: Candidate, isa: Isa) -> Kernel:
    conv, program = layer.shape, layer.program
    match layer.kind:
        case "elementwise":
            return elementwise(channels_last(layer.extent), program, isa)
        case "select_channels":
            assert layer.selection is not None
            return select_channels(channels_last(layer.extent)[:-1], layer.selection, program, isa)
        case "sample_mean":
            values = layer.inputs if conv is None else conv.height * conv.width * conv.in_channels
            return sample_mean(layer.extent[0], values, isa)
        case "dense" | "binary_dense":
            assert layer.weight is not None
            return float_dense(layer.rows, layer.weight, program, isa, candidate.tile)
    assert conv is not None
    match layer.kind:
        case "global_avg_pool2d":
            return global_avg_pool2d((conv.batch, conv.height, conv.width, conv.in_channels), program, isa)
        case "avg_pool2d":
            return avg_pool2d(conv, program, isa, layer.counted_padding or False, candidate.window_tile)
        case "max_pool2d":
            return max_pool2d(conv, program, isa, candidate.window_tile)
    assert layer.weight is not None
    if conv.depthwise:
        return depthwise_conv2d(conv, layer.weight, program, isa, candidate.window_tile)
    return float_conv2d(conv, layer.weight, program, isa, candidate.tile)


def _sparse_float(layer: Layer, candidate: Candidate, isa: Isa) -> Choice:
    assert layer.weight is not None
    domain, program = layer.input_domain, layer.program
    if domain is not None and domain.bits > 1 and layer.shape is None and len(layer.extent) > 2:
        domain = None  # the planes of codes lie behind the first axis, not behind the rows
    data = DataForm.FLOAT if domain is None else DataForm.BITS
    if layer.shape is None:
        return Choice(candidate, sparse_float_dense(layer.rows, layer.weight, program, isa, domain), data)
    return Choice(candidate, sparse_float_conv2d(layer.shape, layer.weight, program, isa, domain), data)


def _words(layer: Layer, isa: Isa) -> Kernel:
    match layer.kind:
        case "select_channels_bits":
            assert layer.selection is not None and layer.input_domain is not None
            batch, *pixel = channels_last(layer.extent)[:-1]  # the planes of codes are maps of their own
            return select_channels_bits((batch * layer.input_domain.bits, *pixel), layer.selection, isa)
        case "shift_bits":
            assert layer.shifts is not None and layer.input_domain is not None
            batch, channels, height, width = layer.extent
            return shift_bits((batch * layer.input_domain.bits, height, width, channels), layer.shifts, isa)
        case "max_pool2d_bits":
            assert layer.shape is not None and layer.input_domain is not None
            return max_pool2d_bits(layer.shape, isa, layer.minima, layer.input_domain.bits)
    windows = layer.shape or Conv2dShape(layer.rows, 1, 1, layer.inputs, 1)
    return window_sum(windows, int(layer.pad_value), isa)
