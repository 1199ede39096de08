"""The direct convolution on packed bits: computes D, the sum of sign products (sbnn_tvm.algebra.domain), by popcount.

It uses the loop nest of loop_nest.py with the step ``counter += popcount(input ^ weight)``. Instructions per vector of
multiply-accumulates:

* 3 with a vector popcount, or 8 for three of them (popcount_threes.py)
* 3 with a popcount of bytes (popcount_bytes.py)
* 4 with a byte shuffle (popcount_lookup.py)
* about 10 otherwise

Codes of n bits cost n times as much. Each binary digit is a plane, and the popcount of plane j has weight 2^j. The
epilogue is the same, for larger sums.

With {0, 1} weights (domain.BIT) the step is ``counter += popcount(input & weight)``, at the same cost. It counts the
set weights whose input bit is set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import gcd

import numpy as np
import tvm
from tvm import tirx
from tvm.tirx.script import builder as T

from sbnn_tvm.algebra.domain import BIT, SIGN, BinaryDomain

from ..epilogue.program import Epilogue, IntegerThreshold, code_bits
from ..epilogue.writer import EpilogueWriter, store_code
from ..isa import Isa, PopcountMethod
from ..kernel import Kernel
from ..layouts.words import pack_channels, pack_codes, packed_shape
from ..shapes import Conv2dShape
from ..tir.kernel_builder import KernelBuilder
from ..tir.llvm import pack
from ..tir.vectors import Index, VectorType, load
from .loop_nest import DirectConv2d, MultiplyAccumulate, ReductionLoop, Sink
from .popcount_bytes import PopcountBytes
from .popcount_lookup import PopcountLookup
from .popcount_neon import PopcountBroadcast
from .popcount_threes import PopcountThrees, join_weights
from .popcount_words import PopcountWords
from .tiles import Tile, default_tile, lanes, popcount_by_broadcast, popcount_by_lookup, popcount_by_threes

# Tables of thresholds up to this size, in bytes, are stored in the dtype that the kernel compares in.
_SMALL_TABLE = 16 * 1024


def direct_popcount(
    name: str,
    shape: Conv2dShape,
    signs: np.ndarray,
    epilogue: Epilogue,
    isa: Isa,
    *,
    data_shape: tuple[int, ...],
    pad_value: int,
    tile: Tile | None,
    bits: int,
    weight_domain: BinaryDomain,
) -> Kernel:
    """Implements conv2d.popcount_conv2d and dense.popcount_dense; see these for the other arguments.

    Args:
        name: Symbol of the function.
        data_shape: Shape of the packed activations: rank 4 (5 with planes), or rank 2 (3 with planes) for a dense
            layer.
    """
    highest = (1 << bits) - 1
    if not -highest <= pad_value <= highest or (pad_value and pad_value % 2 == 0):
        raise ValueError(
            f"a binary convolution of {bits}-bit codes pads with 0 or an odd number up to {highest}, not {pad_value}"
        )
    if weight_domain not in (SIGN, BIT):
        raise ValueError(f"the weights of a binary convolution are in {SIGN} or {BIT}, not {weight_domain}")
    signed = weight_domain == SIGN
    if isinstance(epilogue, IntegerThreshold):
        for kind, array in (("threshold", epilogue.threshold), ("flip", epilogue.flip)):
            if array.shape[-1:] != (shape.out_channels,):
                raise ValueError(f"the {kind} of an integer threshold is {array.shape}, not ({shape.out_channels},)")
        if signed:
            # Negate the weights of flipped channels: D <= t becomes D >= -t, and all channels compare the same way.
            signs = signs ^ epilogue.flip[:, None, None, None]
    words, largest = pack_channels(np.moveaxis(signs, 1, -1), isa), highest * signs[0].size
    arithmetic: MultiplyAccumulate
    loops: tuple[ReductionLoop, ...]
    if popcount_by_lookup(shape, isa):
        arithmetic = PopcountLookup(isa.word, _counter("uint16", largest), lanes(shape, isa, "popcount"), signed)
        # With several words, all bytes of each; with one word, only the bytes in use.
        used = isa.word_bits // 8 if words.shape[-1] > 1 else -(-shape.group_in_channels // 8)
        loops = (ReductionLoop(words.shape[-1], 16), ReductionLoop(used, 1))
        weights = words.view(np.uint8)[..., : words.shape[-1] * used]
    elif signed and popcount_by_threes(shape, isa):
        arithmetic = PopcountThrees(isa.word, _counter(isa.word, largest), lanes(shape, isa, "popcount"))
        loops, weights = (ReductionLoop(words.shape[-1], 1),), join_weights(words)
    elif isa.popcount == PopcountMethod.BYTES:
        arithmetic = PopcountBytes(isa.word, _counter(isa.word, largest), lanes(shape, isa, "popcount"), signed)
        loops, weights = (ReductionLoop(words.shape[-1], 1),), words
    elif popcount_by_broadcast(shape, isa):
        count = lanes(shape, isa, "popcount")
        arithmetic = PopcountBroadcast(isa.word, _counter(isa.word, largest), count, signed)
        loops, weights = (ReductionLoop(words.shape[-1], count),), words
    else:
        arithmetic = PopcountWords(isa.word, _counter(isa.word, largest), lanes(shape, isa, "popcount"), signed)
        loops, weights = (ReductionLoop(words.shape[-1], 1),), words
    padding_code = np.full((1, shape.group_in_channels), (pad_value + highest) // 2 if pad_value else 0)
    outside = pack_codes(padding_code, bits, isa).reshape(bits, -1)
    conv = DirectConv2d(
        name=name,
        shape=shape,
        data_shape=data_shape,
        arithmetic=arithmetic,
        tile=tile or default_tile(shape, isa, "popcount"),
        weights=weights.reshape(shape.groups, shape.group_out_channels, *weights.shape[1:]),
        loops=loops,
        border=np.tile(outside, shape.groups),
        planes=bits,
        skippable=pad_value == 0,
    )
    sink: Sink
    if isinstance(epilogue, IntegerThreshold):
        if signed:
            limits, inverted = _limits(highest * _base(conv, signs, pad_value), epilogue, largest), None
        else:
            limits, inverted = _least_counts(highest * _set(shape, signs, pad_value), epilogue, largest), epilogue.flip
        joined = not conv.collected and _joins(arithmetic.accumulator, arithmetic.lanes, conv.tile.vectors, isa)
        compared = "int32" if joined else arithmetic.accumulator
        table = _Table(conv, limits, compared, fill=0 if signed else largest + 1)
        sink = _PopcountThreshold(conv, isa, table, inverted)
    else:
        classes = None if conv.dense else shape.border_classes()
        writer = EpilogueWriter(epilogue, conv.out_shape, isa, classes, conv.run)
        factor = -2 if signed else 2
        base = highest * (_base(conv, signs, pad_value) if signed else -_set(shape, signs, pad_value))
        sink = _PopcountFloats(writer, _Table(conv, base[None], "int32"), factor)
    return conv.build(sink)


def _counter(dtype: str, largest: int) -> str:
    """``dtype`` if it can hold ``largest + 1``, otherwise uint32."""
    return dtype if largest + 1 < 1 << tvm.DataType(dtype).bits else "uint32"


def _base(conv: DirectConv2d, signs: np.ndarray, pad_value: int) -> np.ndarray:
    """The base in ``D = base - 2 * P``, for a window with P differing bits in a plane: int64 [border classes, OC].

    Bits outside the image are 0. A weight +1 there is counted in P but adds nothing to D, so the base corrects for it.
    Rows and columns of taps that are skipped need no correction.
    """
    shape = conv.shape
    if pad_value != 0 or not any(shape.padding):
        return np.full((1, shape.out_channels), signs[0].size)
    classes = shape.border_classes()
    valid, outside = classes.valid, ~classes.valid
    inside = shape.group_in_channels * np.count_nonzero(valid, axis=(1, 2))
    taps = shape.kernel
    if conv.skips_rows:
        outside &= _taps_of_kinds(classes.row_class, shape.height, taps[0], 0, shape).repeat(classes.columns, 0)[
            :, :, None
        ]
    if conv.skips_columns:
        kinds = classes.count // classes.columns
        outside &= np.tile(_taps_of_kinds(classes.col_class, shape.width, taps[1], 1, shape), (kinds, 1))[:, None]
    counted = np.einsum("kyx,oyx->ko", outside, np.count_nonzero(signs, axis=1))
    return inside[:, None] + 2 * counted


def _taps_of_kinds(kind: np.ndarray, size: int, taps: int, axis: int, shape: Conv2dShape) -> np.ndarray:
    """Whether each tap of an axis is inside the image, for every kind of row (or column): bool [kinds, taps]."""
    _, pixels = np.unique(kind, return_index=True)  # one of each kind
    at = pixels[:, None] * shape.strides[axis] + np.arange(taps) * shape.dilation[axis] - shape.padding[axis]
    return (at >= 0) & (at < size)


def _set(shape: Conv2dShape, bits: np.ndarray, pad_value: int) -> np.ndarray:
    """n in ``E = 2 * P - n``, where P set weights of a window have a set input bit: int64 [border classes, OC]."""
    if pad_value != 0 or not any(shape.padding):
        return np.count_nonzero(bits, axis=(1, 2, 3))[None]
    return np.einsum("kyx,oyx->ko", shape.border_classes().valid, np.count_nonzero(bits, axis=1))


def _limits(base: np.ndarray, epilogue: IntegerThreshold, largest: int) -> np.ndarray:
    """The thresholds on D as limits on P, ``P < limit``.

    Args:
        base: The base of the sum over all planes: int64 [border classes, OC].
        epilogue: The thresholds on D.
        largest: Upper bound of |D| and of P.

    Returns:
        [thresholds, border classes, OC], from 0 (never true) to largest + 1 (always true).
    """
    # Clip to the range of D first: thresholds may be as large as int64 allows.
    reachable = np.clip(np.atleast_2d(epilogue.threshold), -largest - 1, largest + 1)
    least = np.where(epilogue.flip, -reachable, reachable)
    return np.clip((base - least[:, None]) // 2 + 1, 0, largest + 1)


def _least_counts(inside: np.ndarray, epilogue: IntegerThreshold, largest: int) -> np.ndarray:
    """The thresholds on E as least counts, ``P >= least``; the kernel inverts the bits of flipped channels.

    Args:
        inside: n of the sum over all planes: int64 [border classes, OC].
        epilogue: The thresholds on E.
        largest: Upper bound of |E| and of P.

    Returns:
        [thresholds, border classes, OC], from 0 (always true) to largest + 1 (never true).
    """
    reachable = np.clip(np.atleast_2d(epilogue.threshold), -largest - 1, largest + 1) + epilogue.flip
    return np.clip(-((-inside - reachable[:, None]) // 2), 0, largest + 1)


class _Table:
    """A table of integers [rows, border classes, OC], stored as a constant of the kernel.

    It is stored in the smallest dtype that holds its values. A small table is stored as ``preferred`` instead, which
    saves a conversion. Channels are padded with ``fill`` to a multiple of the run length.
    """

    def __init__(self, conv: DirectConv2d, values: np.ndarray, preferred: str, fill: int = 0) -> None:
        self.largest = max(int(values.max()), fill)
        lowest = int(values.min())
        narrow = next(
            each
            for each in ("int16", "uint16", "int32")
            if np.iinfo(each).min <= lowest and self.largest <= np.iinfo(each).max
        )
        dtype = preferred if values.astype(preferred).nbytes <= _SMALL_TABLE else narrow
        self.rows, self.classes, channels = values.shape
        table = values.astype(dtype).reshape(-1, channels)
        self._arrays = [np.pad(table, [(0, 0), (0, -channels % conv.run)], constant_values=fill)]
        if self.classes > 1:
            classes = conv.shape.border_classes()
            self._arrays += [classes.row_class * np.int32(classes.columns), classes.col_class]
        self._buffers: list[tirx.Buffer] = []

    def declare(self, builder: KernelBuilder) -> None:
        """Declare the table and, with several border classes, the classes of rows and columns."""
        for name, array in zip(("table", "row_class", "column_class"), self._arrays, strict=False):
            self._buffers.append(builder.constant(f"count_{name}", array))

    def load(
        self, position: Sequence[Index], first: Index, lanes: int, count: int, dtype: str
    ) -> list[list[tirx.Expr]]:
        """For every row of the table, the values for ``count`` vectors of channels of the pixel at ``position``."""
        table, border = self._buffers[0], tirx.const(0, "int32")
        if len(self._buffers) > 1:
            border = T.bind(self._buffers[1][position[-2]] + self._buffers[2][position[-1]])
        return [
            [_cast(load(table, (row * self.classes + border,), first + i * lanes, lanes), dtype) for i in range(count)]
            for row in range(self.rows)
        ]


def _cast(value: tirx.Expr, dtype: str) -> tirx.Expr:
    """Convert to another element type, with the same number of lanes."""
    return VectorType(dtype, value.ty.dtype.lanes).cast(value)


def _joins(counter: str, lanes: int, vectors: int, isa: Isa) -> bool:
    """Whether two vectors of 64-bit counters fit exactly into one int32 vector."""
    return tvm.DataType(counter).bits == 64 and 2 * lanes == isa.float_lanes and vectors % 2 == 0


def _joined(values: Sequence[tirx.Expr], isa: Isa) -> list[tirx.Expr]:
    """The counters unchanged, or the low halves of each two vectors joined into one int32 vector."""
    dtype = values[0].ty.dtype
    if not _joins(str(dtype), dtype.lanes, len(values), isa):
        return list(values)
    halves = [T.bind(VectorType("int32", 2 * dtype.lanes).reinterpret(value)) for value in values]
    low = list(range(0, 4 * dtype.lanes, 2))
    return [T.bind(tirx.Shuffle(halves[i : i + 2], low)) for i in range(0, len(halves), 2)]


@dataclass(eq=False)
class _PopcountFloats:
    """Passes D or E, ``base + factor * counter`` as float32, to an epilogue program."""

    writer: EpilogueWriter
    base: _Table
    factor: int

    def declare(self, builder: KernelBuilder) -> None:
        self.base.declare(builder)
        self.writer.declare(builder)

    def store(self, values: Sequence[tirx.Expr], position: Sequence[Index], first_channel: Index) -> None:
        counts = [_cast(count, "int32") for count in _joined(values, self.writer.isa)]
        lanes = counts[0].ty.dtype.lanes
        (bases,) = self.base.load(position, first_channel, lanes, len(counts), "int32")
        factor = VectorType("int32", lanes).constant(self.factor)
        sums = [base + count * factor for base, count in zip(bases, counts, strict=True)]
        self.writer.store([_cast(value, "float32") for value in sums], position, first_channel)


@dataclass(eq=False)
class _PopcountThreshold:
    """Compares counters with integer limits and stores the packed bits.

    Attributes:
        inverted: None if bits are ``counter < limit``. Otherwise bool [OC]: bits are ``counter >= limit``, negated
            where ``inverted`` is True.
    """

    conv: DirectConv2d
    isa: Isa
    limits: _Table
    inverted: np.ndarray | None
    _flip_words: tirx.Buffer | None = field(default=None, init=False)
    _out: tirx.Buffer = field(init=False)

    def declare(self, builder: KernelBuilder) -> None:
        self.limits.declare(builder)
        if (flips := self._flips) is not None:
            self._flip_words = builder.constant("inverted", flips)
        shape = packed_shape(self.conv.out_shape, code_bits(self.limits.rows), self.isa)
        self._out = builder.output(shape, self.isa.word, "out0")

    @property
    def _flips(self) -> np.ndarray | None:
        """The mask of inverted channels, in the word parts that are stored at once; None if no channel is inverted."""
        if self.inverted is None or not self.inverted.any():
            return None
        part = gcd(self.conv.run, self.isa.word_bits)
        return pack_channels(self.inverted[None], self.isa).view(f"uint{part}").reshape(-1)

    def store(self, values: Sequence[tirx.Expr], position: Sequence[Index], first_channel: Index) -> None:
        values = _joined(values, self.isa)
        dtype = values[0].ty.dtype
        limits = self.limits.load(position, first_channel, dtype.lanes, len(values), str(dtype.with_lanes(1)))
        # A run may be a part of a word or several words. Memory is little-endian, so a part needs no shift.
        run, channels = len(values) * dtype.lanes, self.conv.shape.out_channels
        bits = gcd(run, self.isa.word_bits)
        total = self.isa.words(channels) * self.isa.word_bits // bits
        parts = T.decl_buffer((*self._out.shape[:-1], total), f"uint{bits}", data=self._out.data)
        # Compare as signed if all limits fit: AVX2 has no unsigned comparison.
        sign = "s" if self.limits.largest < 1 << (dtype.bits - 1) else "u"
        predicate = sign + ("lt" if self.inverted is None else "ge")
        vector, words = VectorType.of(values[0]), self.isa.masks_are_words
        compare = pack(predicate, vector, bits // dtype.lanes, words)  # type: ignore[arg-type]

        def store_part(part: int, compared: list[tirx.Expr]) -> None:
            at = tirx.floordiv(first_channel, bits) + part
            if self._flip_words is not None:
                compared = [word ^ self._flip_words[at] for word in compared]
            store_code(parts, compared, position, at)

        # The last run may end before or after the end of the last word.
        left = total - -(-channels // run) * (run // bits)
        for part in range(run // bits):
            vectors = slice(part * bits // dtype.lanes, (part + 1) * bits // dtype.lanes)
            compared = [compare(*values[vectors], *row[vectors]) for row in limits]
            if part < run // bits + left:
                store_part(part, compared)
            else:
                with T.If(first_channel + part * bits < channels), T.Then():
                    store_part(part, compared)
        if left > 0:
            with T.If(first_channel + run >= channels), T.Then():
                for part in range(run // bits, run // bits + left):
                    store_part(part, [tirx.const(0, f"uint{bits}")] * len(limits))
