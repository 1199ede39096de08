"""Convolutions and dense layers on bytes, by the loop nest of direct/loop_nest.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from tvm import tirx
from tvm.tirx.script import builder as T

from ..direct.loop_nest import DirectConv2d, ReductionLoop
from ..direct.tiles import Tile, bytes_by_blocks, default_tile, lanes
from ..epilogue.program import Number, Program
from ..epilogue.writer import EpilogueWriter
from ..isa import Isa
from ..kernel import Kernel
from ..shapes import Conv2dShape, dense_shape
from ..tir.kernel_builder import KernelBuilder
from ..tir.vectors import Index, VectorType, load
from .neon import pack_bytes
from .products import pack_products


def int8_conv2d(
    shape: Conv2dShape,
    weight: np.ndarray,
    zero_point: int | Number,
    epilogue: Program,
    isa: Isa,
    *,
    data_dtype: str,
    bias: np.ndarray | None = None,
    tile: Tile | None = None,
) -> Kernel:
    """A convolution of bytes with integer weights; outside the image is the zero point, which stands for 0.

    Args:
        shape: Shape of the layer.
        weight: Integers from -255 to 255, [OC, Cin / groups, kh, kw].
        zero_point: A number of the data's type, which may be known only at run time: ``sum(w)`` times it is subtracted
            from the sums of ``q * w`` then.
        epilogue: Ref(0) is ``float32(sum((q - zero_point) * w) + bias)``. The sum has 32 bits: it is exact modulo 2^32.
        isa: The instruction set.
        data_dtype: int8 or uint8.
        bias: Integers of 32 bits, [OC]; None for 0.
        tile: One of direct.tiles.tiles(shape, isa, "int8"); by default the first.

    Returns:
        ``func(data [N, H, W, Cin], *tensors, *constants, *outputs)``.

    Raises:
        ValueError: If ``weight``, ``zero_point``, ``data_dtype``, ``bias``, ``tile`` or the epilogue do not fit.
    """
    data_shape = (shape.batch, shape.height, shape.width, shape.in_channels)
    expected = (shape.out_channels, shape.group_in_channels, *shape.kernel)
    if weight.shape != expected:
        raise ValueError(f"the weight of a convolution is {weight.shape}, not (OC, Cin / groups, kh, kw) = {expected}")
    conv, addend = _convolution("int8_conv2d", shape, weight, zero_point, isa, data_shape, data_dtype, bias, tile)
    return _built(conv, addend, weight, zero_point, epilogue, isa)


def int8_dense(
    rows: int,
    weight: np.ndarray,
    zero_point: int | Number,
    epilogue: Program,
    isa: Isa,
    *,
    data_dtype: str,
    bias: np.ndarray | None = None,
    tile: Tile | None = None,
) -> Kernel:
    """A dense layer on bytes: data [rows, K], outputs of rank 2.

    Args:
        rows: Rows of the data.
        weight: Integers from -255 to 255, [OC, K].
        zero_point, epilogue, isa, data_dtype, bias: As in ``int8_conv2d``.
        tile: One of direct.tiles.tiles(dense_shape(rows, K, OC), isa, "int8"); by default the first.

    Raises:
        ValueError: If ``weight``, ``zero_point``, ``data_dtype``, ``bias``, ``tile`` or the epilogue do not fit.
    """
    channels, depth = weight.shape
    shape, kernel = dense_shape(rows, depth, channels), weight[:, :, None, None]
    conv, addend = _convolution("int8_dense", shape, kernel, zero_point, isa, (rows, depth), data_dtype, bias, tile)
    return _built(conv, addend, kernel, zero_point, epilogue, isa)


def checked(
    weight: np.ndarray, zero_point: int | Number, data_dtype: str, bias: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """The weights as int16 and the bias as int64 [OC].

    Raises:
        ValueError: If a value does not fit its type.
    """
    if data_dtype not in ("int8", "uint8"):
        raise ValueError(f"an integer layer reads int8 or uint8, not {data_dtype}")
    limits = np.iinfo(data_dtype)
    if isinstance(zero_point, Number) and zero_point.dtype != data_dtype:
        raise ValueError(f"the zero point of {data_dtype} data is a number of that type, not {zero_point.dtype}")
    if isinstance(zero_point, int) and not limits.min <= zero_point <= limits.max:
        raise ValueError(f"the zero point of {data_dtype} data is from {limits.min} to {limits.max}, not {zero_point}")
    if weight.size and (weight.min() < -255 or weight.max() > 255):
        raise ValueError(f"integer weights are from -255 to 255, not from {weight.min()} to {weight.max()}")
    if bias is None:
        bias = np.zeros(len(weight), np.int64)
    if bias.shape != (len(weight),):
        raise ValueError(f"the bias of an integer layer is {bias.shape}, not ({len(weight)},)")
    return weight.astype(np.int16), bias.astype(np.int64)


def _convolution(
    name: str,
    shape: Conv2dShape,
    weight: np.ndarray,
    zero_point: int | Number,
    isa: Isa,
    data_shape: tuple[int, ...],
    data_dtype: str,
    bias: np.ndarray | None,
    tile: Tile | None,
) -> tuple[DirectConv2d, np.ndarray]:
    """The convolution without its epilogue, and what to add to its sums: int32 [OC].

    If the zero point is known only at run time, the sums are those of ``q * w``.
    """
    weight, bias = checked(weight, zero_point, data_dtype, bias)
    known = zero_point if isinstance(zero_point, int) else 0
    elements = np.moveaxis(weight, 1, -1)
    if shape.groups == 1 and (shape.dilation[1] == 1 or shape.kernel[1] == 1):
        # A row of the window is one list of elements: one row of few channels fills whole steps.
        elements = elements.reshape(shape.out_channels, shape.kernel[0], 1, -1)
    tile, vector = tile or default_tile(shape, isa, "int8"), lanes(shape, isa, "int8")
    if bytes_by_blocks(shape, isa):
        packed = pack_bytes(elements, known, data_dtype, bias, isa)
    else:
        block = vector * tile.vectors
        packed = pack_products(elements, known, data_dtype, bias, isa, vector, shape.groups, block)
    by_group = shape.groups, shape.group_out_channels, *packed.weights.shape[1:]
    conv = DirectConv2d(
        name=name,
        shape=shape,
        data_shape=data_shape,
        arithmetic=packed.arithmetic,
        tile=tile,
        weights=packed.weights.reshape(by_group),
        loops=(
            ReductionLoop(packed.summands, 0),
            ReductionLoop(packed.weights.shape[-1] // packed.summands, packed.step),
        ),
        border=np.full((1, shape.in_channels), known, np.int32),
        rare=None if packed.rare is None else packed.rare.reshape(by_group),
    )
    return conv, packed.addend


def _built(
    conv: DirectConv2d, addend: np.ndarray, weight: np.ndarray, zero_point: int | Number, epilogue: Program, isa: Isa
) -> Kernel:
    """The kernel of a convolution and an epilogue; weight [OC, ...]."""
    classes = None if conv.dense else conv.shape.border_classes()
    if isinstance(zero_point, int):
        return conv.build(_Sums(EpilogueWriter(epilogue, conv.out_shape, isa, classes, conv.run), addend))
    writer = EpilogueWriter(epilogue, conv.out_shape, isa, classes, conv.run, read=(zero_point,))
    factor = -weight.sum(axis=tuple(range(1, weight.ndim)), dtype=np.int32)
    sums = _Sums(writer, addend, zero_point, factor)
    return conv.build(sums, outside=partial(writer.number, zero_point))


@dataclass(eq=False)
class _Sums:
    """Passes ``sum + addend + factor * number`` as float32 to an epilogue program.

    Attributes:
        writer: The epilogue.
        addend: int32 [OC].
        number: A number that is known only at run time, which the writer reads; None for 0.
        factor: int32 [OC], if there is a number.
    """

    writer: EpilogueWriter
    addend: np.ndarray
    number: Number | None = None
    factor: np.ndarray | None = None
    _addend: tirx.Buffer | None = field(default=None, init=False)
    _factor: tirx.Buffer | None = field(default=None, init=False)

    def declare(self, builder: KernelBuilder) -> None:
        self._addend = self._constant(builder, "addend", self.addend)
        if self.factor is not None:
            self._factor = self._constant(builder, "factor", self.factor)
        self.writer.declare(builder)

    def _constant(self, builder: KernelBuilder, name: str, values: np.ndarray) -> tirx.Buffer | None:
        padded = np.pad(values, (0, -len(values) % self.writer.tile))
        return builder.constant(name, padded) if values.any() else None

    def store(self, values: Sequence[tirx.Expr], position: Sequence[Index], first_channel: Index) -> None:
        results, lanes = [], values[0].ty.dtype.lanes
        for i, value in enumerate(values):
            first = first_channel + i * lanes
            if self._addend is not None:
                value = value + load(self._addend, (), first, lanes)
            if self._factor is not None and self.number is not None:
                number = tirx.Cast("int32", self.writer.number(self.number))
                value = value + load(self._factor, (), first, lanes) * VectorType("int32", lanes).broadcast(number)
            results.append(VectorType("float32", lanes).cast(T.bind(value)))
        self.writer.store(results, position, first_channel)
