"""Random kernels against numpy, without ONNX: one number gives a kernel, its data and how it runs.

The number decides the family, shape, layout, register tile or cut of lists, density, result, instruction set and number
of threads. ``kernel_execution.run`` has guards behind every output, which is garbage before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import tvm_ffi

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain, Levels
from sbnn_tvm.deploy.targets import CpuTarget, resolve
from sbnn_tvm.schedules.bits.channel_selection import select_channels_bits
from sbnn_tvm.schedules.bits.max_pooling import max_pool2d_bits
from sbnn_tvm.schedules.bits.packing import regroup, unpack, window_sum
from sbnn_tvm.schedules.bits.shifts import shift_bits
from sbnn_tvm.schedules.counters import conv2d as counters
from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.direct.dense import float_dense, popcount_dense
from sbnn_tvm.schedules.direct.tiles import tiles
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import STORE, Border, Channel, Program, WindowThreshold
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.kernel import Kernel
from sbnn_tvm.schedules.layouts.bit_planes import PlaneLayout, plane_layout
from sbnn_tvm.schedules.layouts.words import pack_channels, pack_codes
from sbnn_tvm.schedules.selection import Selection
from sbnn_tvm.schedules.shapes import Conv2dShape, dense_shape
from sbnn_tvm.schedules.sparse_float.kernel import sparse_float_conv2d, sparse_float_dense
from sbnn_tvm.schedules.tir import loops
from sbnn_tvm.schedules.windows.depthwise import depthwise_conv2d
from sbnn_tvm.schedules.windows.pooling import avg_pool2d, global_avg_pool2d, max_pool2d
from sbnn_tvm.schedules.windows.template import window_tiles
from tests.support.epilogues import border_program, integer_threshold, integer_thresholds, rich_program
from tests.support.kernel_execution import run
from tests.support.packing import pack_groups
from tests.support.plane_layouts import layouts_of
from tests.support.random_arrays import codes_and_levels, random_bits
from tests.support.reference import elementwise, windows
from tests.support.reference.bits import shift_pixels
from tests.support.reference.convolution import conv2d

TARGETS = tuple(name for name in ("native", "x86-64-v3", "x86-64") if resolve(name).native)
CHANNELS = (1, 2, 3, 5, 8, 9, 16, 17, 24, 31, 32, 33, 48, 63, 64, 65, 70, 100, 128, 130)
MOST_MACS = 1 << 19
FEW_DOMAINS = (None, SIGN, BinaryDomain(0.0, 0.75), Levels((-1.5, -0.5, 0.5, 1.5)))

_THREADS_FOR_ALL = -(1 << 40)  # in place of the amount of work that several threads need
_SHARE_CORES = -3  # TVM's mode in which threads are not bound to cores


@dataclass(frozen=True, eq=False)
class RandomKernel:
    """A kernel, what it reads, and what it must store.

    Attributes:
        kernel: The kernel.
        arrays: Data and tensor operands.
        expected: Its outputs.
        tolerance: The difference that floats may have.
    """

    kernel: Kernel
    arrays: Sequence[np.ndarray]
    expected: Sequence[np.ndarray]
    tolerance: float = 0.0


class Draw:
    """Random decisions of one kernel, which remembers them for the report of a failure."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.made: list[object] = []

    def choose(self, *options: Any) -> Any:
        """One of the options."""
        self.made.append(options[self.rng.integers(len(options))])
        return self.made[-1]

    def shape(self, *, depthwise: bool = False) -> Conv2dShape:
        """A small convolution, often with odd sizes, sometimes with a wide image; each side has an output pixel."""
        while True:
            rng, (kh, kw) = self.rng, self.rng.integers(1, 6, 2)
            channels = int(rng.choice(CHANNELS))
            groups = int(rng.choice([g for g in (1, 1, 1, 2, 3, 4, channels) if channels % g == 0]))
            outputs = groups * max(int(rng.choice(CHANNELS)) // groups, 1)
            if depthwise:
                outputs, groups = channels, 1
            height, width = (int(rng.choice([1, 2, 3, 5, 8, 11, 14])) for _ in range(2))
            width = int(rng.choice([width] * 5 + [33, 64, 70]))
            strides, dilation = (tuple(rng.choice(each, 2).tolist()) for each in ((1, 1, 2, 3), (1, 1, 1, 2)))
            padding = tuple(int(rng.integers(0, size)) for size in (kh, kw, kh, kw))
            reach = [dilation[i] * (size - 1) + 1 - padding[i] - padding[i + 2] for i, size in enumerate((kh, kw))]
            if height < reach[0] or width < reach[1]:
                continue
            batch = int(rng.choice([1, 1, 2, 3]))
            shape = Conv2dShape(
                batch, height, width, channels, outputs, (int(kh), int(kw)), strides, padding, dilation, groups
            )
            if shape.macs <= MOST_MACS:
                self.made.append(shape)
                return shape

    def densities(self, *shape: int) -> np.ndarray:
        """Bits whose density differs from one output channel to the next, from none to all."""
        density = self.choose(0.0, 0.02, 0.1, 0.3, 0.5, 1.0)
        column = np.linspace(0, 2 * density, shape[0]).reshape(-1, *[1] * (len(shape) - 1))
        return self.rng.random(shape) < column


def input_of(shape: Conv2dShape) -> tuple[int, int, int, int]:
    return shape.batch, shape.height, shape.width, shape.in_channels


def output_of(shape: Conv2dShape) -> tuple[int, int, int, int]:
    return shape.batch, shape.out_height, shape.out_width, shape.out_channels


def counting(draw: Draw, cpu: CpuTarget) -> RandomKernel:
    """A convolution by counters: any layouts and cuts; bits by one or two sums, or several outputs."""
    shape, isa, rng, domain = draw.shape(), cpu.isa, draw.rng, draw.choose(SIGN, BIT)
    pad_value = draw.choose(-1, 0, 1)
    bits = draw.densities(shape.out_channels, shape.group_in_channels, *shape.kernel)
    x_bits = random_bits(rng, *input_of(shape))
    x = np.where(x_bits, 1, -1)
    sums = conv2d(x, np.where(bits, 1, -1 if domain == SIGN else 0), shape, pad_value)
    source, target = plane_layout(*input_of(shape), isa), plane_layout(*output_of(shape), isa)
    if draw.choose(True, False):
        source, target = _layouts(draw, input_of(shape), output_of(shape), isa.vector_bits) or (source, target)
    cut = draw.choose(None, *counters.cuts(shape, bits, isa, domain))
    what = draw.choose("threshold", "threshold", "program", "two sums")
    tensors: list[np.ndarray] = []
    epilogue: Any
    if what == "program":
        epilogue, tensors = rich_program(rng, shape)
        expected = evaluate(epilogue, sums, tensors, isa, shape.border_classes())
    elif what == "two sums" and domain == BIT:
        of_all = conv2d(x, np.ones(bits.shape, np.int64), shape, pad_value)
        shift, factor = int(rng.integers(1, 11)), int(rng.integers(-700, 700))
        both = sums.astype(np.int64) * (1 << shift) + of_all.astype(np.int64) * factor
        least = np.median(both, axis=(0, 1, 2)).astype(np.int64)
        epilogue = WindowThreshold(shift, factor, least, random_bits(rng, shape.out_channels))
        expected = [target.encode((both >= least) ^ epilogue.inverted)]
    else:
        epilogue, result = integer_threshold(rng, sums)
        expected = [target.encode(result)]
    kernel = counters.sparse_conv2d(
        shape, bits, pad_value, epilogue, isa, weight_domain=domain, source=source, target=target, cut=cut
    )
    return RandomKernel(kernel, [source.encode(x_bits), *tensors], expected)


def _layouts(
    draw: Draw, of_input: tuple[int, ...], of_output: tuple[int, ...], bits: int
) -> tuple[PlaneLayout, PlaneLayout] | None:
    """Any layouts of input and output whose vectors are equally wide and fit a register; None if there are none."""
    sources, targets = (
        [layout for layout in layouts_of(*each) if layout.vector_bits <= bits] for each in (of_input, of_output)
    )
    pairs = [(s, t) for s in sources for t in targets if s.row_bits == t.row_bits]
    return draw.choose(*pairs) if pairs else None


def popcounts(draw: Draw, cpu: CpuTarget) -> RandomKernel:
    """A convolution or dense layer by popcounts: codes of one to three bits, any register tile."""
    isa, rng, bits, domain = cpu.isa, draw.rng, draw.choose(1, 1, 1, 2, 3), draw.choose(SIGN, SIGN, BIT)
    dense = draw.choose(False, False, True)
    shape = _dense(draw) if dense else draw.shape()
    w_bits = draw.densities(shape.out_channels, shape.group_in_channels, *shape.kernel)
    w = np.where(w_bits, 1, -1 if domain == SIGN else 0)
    codes, x = codes_and_levels(rng, bits, *input_of(shape))
    pad_value = 0 if dense else draw.choose(0, 0, -1, 1)
    sums = conv2d(x, w, shape, pad_value)
    tile = draw.choose(None, *tiles(shape, isa, "popcount"))
    if dense:
        codes, sums = codes.reshape(shape.width, -1), sums.reshape(shape.width, -1)
    data = pack_groups(codes, shape.groups, isa, bits)
    what = draw.choose("threshold", "store", "program")
    tensors: list[np.ndarray] = []
    epilogue: Any
    if what == "threshold":
        epilogue, result = integer_thresholds(rng, sums, bits)
        expected = [pack_codes(result, bits, isa)]
    else:
        epilogue, tensors = _program(draw, shape, dense) if what == "program" else (STORE, [])
        expected = evaluate(epilogue, sums, tensors, isa, None if dense else shape.border_classes())
    if dense:
        kernel = popcount_dense(
            shape.width, w_bits[:, :, 0, 0], epilogue, isa, tile=tile, bits=bits, weight_domain=domain
        )
    else:
        kernel = popcount_conv2d(shape, w_bits, pad_value, epilogue, isa, tile=tile, bits=bits, weight_domain=domain)
    return RandomKernel(kernel, [data, *tensors], expected)


def _program(draw: Draw, shape: Conv2dShape, dense: bool) -> tuple[Program, list[np.ndarray]]:
    """An epilogue with several outputs, and its tensor operands; the rows of a dense layer have no border."""
    program, tensors = rich_program(draw.rng, shape)
    if not dense:
        return program, tensors
    steps = tuple(
        replace(step, b=Channel(step.b.values[0])) if isinstance(step.b, Border) else step for step in program.steps
    )
    return replace(program, steps=steps), [tensor.reshape(shape.width, -1) for tensor in tensors]


def _dense(draw: Draw) -> Conv2dShape:
    shape = dense_shape(draw.choose(1, 1, 2, 5, 17), draw.choose(*CHANNELS, 300), draw.choose(*CHANNELS))
    draw.made.append(shape)
    return shape


def floats(draw: Draw, cpu: CpuTarget) -> RandomKernel:
    """A convolution or dense layer of floats, whose sums are exact in any order; any register tile."""
    isa, rng, dense = cpu.isa, draw.rng, draw.choose(False, False, True)
    shape = _dense(draw) if dense else draw.shape()
    x = rng.integers(-8, 9, input_of(shape)).astype(np.float32)
    w = rng.integers(-8, 9, (shape.out_channels, shape.group_in_channels, *shape.kernel)).astype(np.float32)
    program, tensors = _program(draw, shape, dense) if draw.choose(True, False) else (STORE, [])
    tile = draw.choose(None, *tiles(shape, isa, "float32"))
    if dense:
        kernel = float_dense(shape.width, w[:, :, 0, 0], program, isa, tile)
    else:
        kernel = float_conv2d(shape, w, program, isa, tile)
    sums = conv2d(x, w, shape).astype(np.float32)
    return _summed(kernel, [x, *tensors], sums, program, shape, dense, isa)


def few_floats(draw: Draw, cpu: CpuTarget) -> RandomKernel:
    """A convolution or dense layer of few float weights, on floats, bits or codes."""
    isa, rng, dense = cpu.isa, draw.rng, draw.choose(False, False, True)
    shape, domain = (_dense(draw) if dense else draw.shape()), draw.choose(*FEW_DOMAINS)
    chosen = draw.densities(shape.out_channels, shape.group_in_channels, *shape.kernel)
    w = np.where(chosen, rng.integers(-24, 25, chosen.shape) / 8, 0).astype(np.float32)
    extent = (shape.width, shape.in_channels) if dense else input_of(shape)
    data = x = (rng.integers(-8, 9, extent) / 4).astype(np.float32)
    if domain is not None:
        codes = rng.integers(0, 1 << domain.bits, extent)
        data, x = pack_codes(codes, domain.bits, isa), domain.values[codes]
    program, tensors = _program(draw, shape, dense) if draw.choose(True, False) else (STORE, [])
    if dense:
        kernel = sparse_float_dense(shape.width, w[:, :, 0, 0], program, isa, domain)
    else:
        kernel = sparse_float_conv2d(shape, w, program, isa, domain)
    sums = conv2d(x.reshape(input_of(shape)), w, shape).astype(np.float32)
    return _summed(kernel, [data, *tensors], sums, program, shape, dense, isa)


def _summed(
    kernel: Kernel,
    arrays: list[np.ndarray],
    sums: np.ndarray,
    program: Program,
    shape: Conv2dShape,
    dense: bool,
    isa: Isa,
) -> RandomKernel:
    if dense:
        rows = [array.reshape(shape.width, *array.shape[1:]) if array.ndim < 4 else array[0, 0] for array in arrays]
        return RandomKernel(kernel, rows, evaluate(program, sums[0, 0], rows[1:], isa))
    return RandomKernel(kernel, arrays, evaluate(program, sums, arrays[1:], isa, shape.border_classes()))


def pooling(draw: Draw, cpu: CpuTarget) -> RandomKernel:
    """A pooling of floats or a depthwise convolution; any window tile."""
    isa, rng, shape = cpu.isa, draw.rng, draw.shape(depthwise=True)
    x = np.round(rng.standard_normal(input_of(shape)) * 4).astype(np.float32)
    what = draw.choose("depthwise", "maximum", "mean", "whole")
    if what == "whole":
        kernel = global_avg_pool2d(input_of(shape), STORE, isa)
        return RandomKernel(kernel, [x], [x.mean((1, 2), keepdims=True, dtype=np.float64)], 1e-5)
    layer = replace(shape, groups=shape.in_channels) if what == "depthwise" else shape
    program = STORE if what == "mean" else draw.choose(STORE, border_program(rng, layer))
    tile = draw.choose(None, *window_tiles(layer, isa, program.packed))
    if what == "mean":
        counted = draw.choose((0, 0, 0, 0), shape.padding)
        with np.errstate(all="ignore"):  # a window that lies in the padding altogether is 0 / 0
            means = windows.mean(x, shape, counted)
        if not np.isfinite(means).all():
            counted, means = shape.padding, windows.mean(x, shape, shape.padding)
        return RandomKernel(avg_pool2d(shape, STORE, isa, counted, tile), [x], [means], 1e-5)
    tensors = [] if program is STORE else [rng.standard_normal(output_of(shape)).astype(np.float32)]
    if what == "maximum":
        kernel, result = max_pool2d(shape, program, isa, tile), windows.windows(x, shape, -np.inf).max(0)
    else:
        weight = np.round(rng.standard_normal((shape.in_channels, 1, *shape.kernel)) * 4).astype(np.float32)
        kernel, result = (
            depthwise_conv2d(layer, weight, program, isa, tile),
            windows.depthwise_conv2d(x, weight, shape),
        )
    expected = evaluate(program, result.astype(np.float32), tensors, isa, layer.border_classes())
    return RandomKernel(kernel, [x, *tensors], expected)


def words(draw: Draw, cpu: CpuTarget) -> RandomKernel:
    """A kernel on packed bits without weights."""
    isa, rng, shape = cpu.isa, draw.rng, draw.shape(depthwise=True)
    extent, channels = input_of(shape), shape.in_channels
    bits = random_bits(rng, *extent)
    data = pack_channels(bits, isa)
    what = draw.choose("maximum", "codes", "window sum", "unpack", "regroup", "shift", "select")
    match what:
        case "maximum" | "codes":
            digits, minima = (1 if what == "maximum" else draw.choose(2, 3)), draw.choose(None, True)
            minima = minima and random_bits(rng, channels)
            codes = rng.integers(0, 1 << digits, extent)
            largest = windows.windows(codes, shape, 0).max(0)
            if minima is not None:
                least = windows.windows(codes, shape, (1 << digits) - 1).min(0)
                largest = np.where(minima, least, largest)
            kernel = max_pool2d_bits(shape, isa, minima, digits)
            return RandomKernel(kernel, [pack_codes(codes, digits, isa)], [pack_codes(largest, digits, isa)])
        case "window sum":
            pad_value = draw.choose(-1, 0, 1)
            sums = windows.windows(np.where(bits, 1, -1), shape, pad_value).sum((0, -1))[..., None]
            return RandomKernel(window_sum(shape, pad_value, isa), [data], [sums])
        case "unpack":
            kernel = unpack(extent, BinaryDomain(-0.5, 0.25), isa)
            return RandomKernel(kernel, [data], [np.where(bits, 0.25, -0.5)])
        case "regroup":
            groups = draw.choose(*(g for g in (1, 2, 3, 5, 7, channels) if channels % g == 0))
            return RandomKernel(regroup(extent, channels, groups, isa), [data], [pack_groups(bits, groups, isa)])
        case "shift":
            shifts = rng.integers(-3, 4, (channels, 2))
            return RandomKernel(
                shift_bits(extent, shifts, isa), [data], [pack_channels(shift_pixels(bits, shifts), isa)]
            )
    selection = Selection.concatenation([channels]).take(rng.integers(0, channels, draw.choose(*CHANNELS)).tolist())
    expected = pack_channels(elementwise.selected([bits], selection), isa)
    return RandomKernel(select_channels_bits(extent[:-1], selection, isa), [data], [expected])


FAMILIES: tuple[Callable[[Draw, CpuTarget], RandomKernel], ...] = (
    counting, popcounts, floats, few_floats, pooling, pooling, words, words,
)  # fmt: skip


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Kernels that are built within this context run on one or two threads, whatever their amount of work."""
    if number == 1:
        with loops.one_thread():
            yield
        return
    tvm_ffi.get_global_func("runtime.config_threadpool")(_SHARE_CORES, 2, ["0", "1"])
    with patch.object(loops, "GRAIN", _THREADS_FOR_ALL), patch.object(counters, "GRAIN", _THREADS_FOR_ALL):
        yield


def check(seed: int) -> str:
    """Build, run and compare kernel number ``seed``.

    Returns:
        The name of its family.

    Raises:
        AssertionError: If an output differs, or the kernel writes beyond one; says how to repeat it.
    """
    draw = Draw(seed)
    family, target, number = draw.choose(*FAMILIES), resolve(draw.choose(*TARGETS)), draw.choose(1, 2)
    try:
        with threads(number):
            made = family(draw, target)
            outputs = run(made.kernel, target, *made.arrays)
        for output, expected in zip(outputs, made.expected, strict=True):
            np.testing.assert_allclose(output, expected, rtol=made.tolerance, atol=made.tolerance)
    except Exception as error:
        decisions = ", ".join(getattr(each, "__name__", str(each)) for each in draw.made)
        raise AssertionError(f"kernel {seed} ({decisions}): {type(error).__name__}: {error}") from error
    return family.__name__
