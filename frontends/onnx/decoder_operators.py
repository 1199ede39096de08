"""The decoder operators of ai.sbnn: the codings of weights (sbnn_tvm.algebra.coding) in an ONNX file.

A decoder reads constants. Its output is the weight tensor of another operator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto

from sbnn_tvm.algebra.coding import Codebook, Coding, Gaps, Rice, SparseArray

# bits: uint8 [rows, columns] of 0 and 1 -> packed: uint8 [rows, ceil(columns / 8)]
_PACK = """
    eight = Constant <value_int = 8> ()
    seven = Constant <value_int = 7> ()
    axis_1 = Constant <value_ints = [1]> ()
    axis_2 = Constant <value_ints = [2]> ()
    zero_bit = Constant <value = uint8 {0}> ()
    width = Constant <value_int: int = @columns> ()
    widened = Add (width, seven)
    bytes_of_row = Div (widened, eight)
    bits_of_row = Mul (bytes_of_row, eight)
    tail = Sub (bits_of_row, width)
    no_head = Constant <value_ints = [0]> ()
    tail_1d = Reshape (tail, axis_1)
    amounts = Concat <axis = 0> (no_head, tail_1d)
    padded = Pad (bits, amounts, zero_bit, axis_1)
    as_bytes = Constant <value_ints = [0, -1, 8]> ()
    octets = Reshape (padded, as_bytes)
    places_of_byte = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    placed = BitShift <direction = "LEFT"> (octets, places_of_byte)
    placed_wide = Cast <to = 6> (placed)
    sums = ReduceSum <keepdims = 0> (placed_wide, axis_2)
    packed = Cast <to = 2> (sums)
"""

# positions: int64 [n], size: int64 [1], update: value of each position -> flat: [size]
_SCATTER_BITS = """
    height = Constant <value_int: int = @rows> ()
    cells = Mul (height, width_of_matrix)
    size = Reshape (cells, one_number)
    cleared = ConstantOfShape <value = uint8[1] {0}> (size)
    count = Shape (positions)
    set_bits = ConstantOfShape <value = uint8[1] {1}> (count)
    scattered = ScatterElements <axis = 0> (cleared, positions, set_bits)
    matrix_height = Reshape (height, one_number)
    matrix_width = Reshape (width_of_matrix, one_number)
    matrix_shape = Concat <axis = 0> (matrix_height, matrix_width)
    minority = Reshape (scattered, matrix_shape)
    column_shape = Constant <value_ints = [-1, 1]> ()
    inverted_rows = Reshape (inverted, column_shape)
    bits = BitwiseXor (minority, inverted_rows)
"""

# gaps: uint8 [m] -> positions: int64 [n]
_POSITIONS = """
    gap = Cast <to = 7> (gaps)
    escape = Constant <value_int = 255> ()
    is_position = Less (gap, escape)
    own_place = Cast <to = 7> (is_position)
    steps = Add (gap, own_place)
    first_axis = Constant <value_int = 0> ()
    behind = CumSum (steps, first_axis)
    behind_positions = Compress <axis = 0> (behind, is_position)
    one_place = Constant <value_int = 1> ()
    positions = Sub (behind_positions, one_place)
"""


def _fields(packed: str, width: str, count: str, values: str) -> str:
    """ONNX text that reads the first ``count`` (int64 [1]) fields of ``width`` (int64) bits, as int64 [count]."""
    return f"""
    {values}_axis = Constant <value_ints = [1]> ()
    {values}_bytes = Unsqueeze ({packed}, {values}_axis)
    {values}_shifts = Constant <value = uint8[8] {{0, 1, 2, 3, 4, 5, 6, 7}}> ()
    {values}_shifted = BitShift <direction = "RIGHT"> ({values}_bytes, {values}_shifts)
    {values}_lowest = Constant <value = uint8[1] {{1}}> ()
    {values}_bit = BitwiseAnd ({values}_shifted, {values}_lowest)
    {values}_flat_shape = Constant <value_ints = [-1]> ()
    {values}_flat = Reshape ({values}_bit, {values}_flat_shape)
    {values}_width = Reshape ({width}, {values}_axis)
    {values}_bits = Mul ({count}, {values}_width)
    {values}_begin = Constant <value_ints = [0]> ()
    {values}_used = Slice ({values}_flat, {values}_begin, {values}_bits)
    {values}_shape = Concat <axis = 0> ({count}, {values}_width)
    {values}_rows = Reshape <allowzero = 1> ({values}_used, {values}_shape)
    {values}_wide = Cast <to = 7> ({values}_rows)
    {values}_zero = Constant <value_int = 0> ()
    {values}_step = Constant <value_int = 1> ()
    {values}_exponents = Range ({values}_zero, {width}, {values}_step)
    {values}_unsigned = Cast <to = 13> ({values}_exponents)
    {values}_one = Constant <value = uint64 {{1}}> ()
    {values}_powers = BitShift <direction = "LEFT"> ({values}_one, {values}_unsigned)
    {values}_weights = Cast <to = 7> ({values}_powers)
    {values}_products = Mul ({values}_wide, {values}_weights)
    {values} = ReduceSum <keepdims = 0> ({values}_products, {values}_axis)
    """


_DECODE_GAPS = f"""
DecodeGaps <rows, columns> (gaps, inverted) => (packed)
{{
    one_number = Constant <value_ints = [1]> ()
    width_of_matrix = Constant <value_int: int = @columns> ()
    {_POSITIONS}
    {_SCATTER_BITS}
    {_PACK}
}}
"""

_DECODE_RICE = f"""
DecodeRice <rows, columns, remainder_bits> (quotients, remainders, inverted) => (packed)
{{
    one_number = Constant <value_ints = [1]> ()
    width_of_matrix = Constant <value_int: int = @columns> ()
    unary_bytes = Unsqueeze (quotients, one_number)
    unary_shifts = Constant <value = uint8[8] {{0, 1, 2, 3, 4, 5, 6, 7}}> ()
    unary_shifted = BitShift <direction = "RIGHT"> (unary_bytes, unary_shifts)
    unary_lowest = Constant <value = uint8[1] {{1}}> ()
    unary_bit = BitwiseAnd (unary_shifted, unary_lowest)
    flat_shape = Constant <value_ints = [-1]> ()
    unary = Reshape (unary_bit, flat_shape)
    unary_true = Cast <to = 9> (unary)
    ends_2d = NonZero (unary_true)
    first_axis = Constant <value_int = 0> ()
    first_axes = Constant <value_ints = [0]> ()
    ends = Squeeze (ends_2d, first_axes)
    gaps = Shape (ends)
    gaps_scalar = Squeeze (gaps, first_axes)
    one_place = Constant <value_int = 1> ()
    places = Range (first_axis, gaps_scalar, one_place)
    k = Constant <value_int: int = @remainder_bits> ()
    {_fields("remainders", "k", "gaps", "remainder")}
    k_unsigned = Cast <to = 13> (k)
    one_unsigned = Constant <value = uint64 {{1}}> ()
    divisor_unsigned = BitShift <direction = "LEFT"> (one_unsigned, k_unsigned)
    divisor = Cast <to = 7> (divisor_unsigned)
    quotient_sums = Sub (ends, places)
    high = Mul (quotient_sums, divisor)
    low = CumSum (remainder, first_axis)
    skipped = Add (high, low)
    positions = Add (skipped, places)
    {_SCATTER_BITS}
    {_PACK}
}}
"""

_DECODE_CODEBOOK = f"""
DecodeCodebook <rows, columns, index_bits, pattern_bits> (indices, patterns) => (packed)
{{
    one_number = Constant <value_ints = [1]> ()
    width_of_matrix = Constant <value_int: int = @columns> ()
    height = Constant <value_int: int = @rows> ()
    cells = Mul (height, width_of_matrix)
    kernel_bits = Constant <value_int: int = @pattern_bits> ()
    kernels_scalar = Div (cells, kernel_bits)
    kernels = Reshape (kernels_scalar, one_number)
    t = Constant <value_int: int = @index_bits> ()
    {_fields("indices", "t", "kernels", "index")}
    last_axis = Constant <value_ints = [2]> ()
    pattern_bytes = Unsqueeze (patterns, last_axis)
    pattern_shifted = BitShift <direction = "RIGHT"> (pattern_bytes, index_shifts)
    pattern_bit = BitwiseAnd (pattern_shifted, index_lowest)
    one_row_each = Constant <value_ints = [0, -1]> ()
    pattern_row = Reshape (pattern_bit, one_row_each)
    table_width = Reshape (kernel_bits, one_number)
    table = Slice (pattern_row, index_begin, table_width, one_number)
    looked_up = Gather <axis = 0> (table, index)
    matrix_height = Reshape (height, one_number)
    matrix_width = Reshape (width_of_matrix, one_number)
    matrix_shape = Concat <axis = 0> (matrix_height, matrix_width)
    bits = Reshape (looked_up, matrix_shape)
    {_PACK}
}}
"""

_DECODE_SPARSE = f"""
DecodeSparse <shape> (gaps, values) => (y)
{{
    {_POSITIONS}
    extents = Constant <value_ints: ints = @shape> ()
    size = ReduceProd <keepdims = 1> (extents)
    cleared = ConstantOfShape <value = float[1] {{0.0}}> (size)
    scattered = ScatterElements <axis = 0> (cleared, positions, values)
    y = Reshape (scattered, extents)
}}
"""

BODIES = (_DECODE_GAPS, _DECODE_RICE, _DECODE_CODEBOOK, _DECODE_SPARSE)
"""The bodies of the operators in ONNX's text syntax, in the order of ``DECODER_OPERATORS``."""

DECODER_OPERATORS = ("DecodeGaps", "DecodeRice", "DecodeCodebook", "DecodeSparse")


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder node.

    Attributes:
        operator: One of ``DECODER_OPERATORS``.
        inputs: Its constants in order, by the names of the operator's inputs.
        attributes: Its attributes by name.
    """

    operator: str
    inputs: Mapping[str, np.ndarray]
    attributes: Mapping[str, Any]


def decoder_of(coding: Coding | SparseArray) -> Decoder:
    """The decoder node that computes the values of a coding.

    Raises:
        TypeError: For a bitmap, which needs no decoder.
    """
    match coding:
        case Gaps(shape=(rows, columns)):
            arrays = {"gaps": coding.gaps, "inverted": coding.inverted}
            return Decoder("DecodeGaps", arrays, {"rows": rows, "columns": columns})
        case Rice(shape=(rows, columns)):
            arrays = {"quotients": coding.quotients, "remainders": coding.remainders, "inverted": coding.inverted}
            attributes = {"rows": rows, "columns": columns, "remainder_bits": coding.remainder_bits}
            return Decoder("DecodeRice", arrays, attributes)
        case Codebook(shape=(rows, columns)):
            attributes = {
                "rows": rows,
                "columns": columns,
                "index_bits": coding.index_bits,
                "pattern_bits": coding.pattern_bits,
            }
            return Decoder("DecodeCodebook", {"indices": coding.indices, "patterns": coding.patterns}, attributes)
        case SparseArray():
            return Decoder("DecodeSparse", {"gaps": coding.gaps, "values": coding.values}, {"shape": coding.shape})
    raise TypeError(f"a {coding.name} has no decoder")


def coding_of(operator: str, inputs: Sequence[np.ndarray], attributes: Mapping[str, Any]) -> Coding | SparseArray:
    """The coding in a decoder node: the inverse of :func:`decoder_of`.

    Raises:
        KeyError: If an attribute is missing; the key is its name.
        ValueError: If an attribute is out of range.
    """
    if operator == "DecodeSparse":
        shape = tuple(attributes["shape"])
        if min(shape, default=1) < 1:
            raise ValueError(f"shape is {list(shape)}; expected positive numbers")
        return SparseArray(shape, inputs[0], inputs[1])
    rows, columns = (_positive(attributes, name, 2**31) for name in ("rows", "columns"))
    match operator:
        case "DecodeGaps":
            return Gaps((rows, columns), inputs[0], inputs[1])
        case "DecodeRice":
            return Rice((rows, columns), inputs[0], inputs[1], _positive(attributes, "remainder_bits", 31), inputs[2])
        case "DecodeCodebook":
            index_bits = _positive(attributes, "index_bits", 31)
            pattern_bits = _positive(attributes, "pattern_bits", 2**31)
            return Codebook((rows, columns), inputs[0], inputs[1], index_bits, pattern_bits)
    raise KeyError(operator)


def decoded_shape(node: NodeProto) -> tuple[int, ...]:
    """The shape of the weights that a decoder node makes, as far as its attributes say; checked by ``coding_of``."""
    sizes = {attribute.name: attribute for attribute in node.attribute}
    if "shape" in sizes:
        return tuple(max(0, size) for size in sizes["shape"].ints)
    return tuple(max(0, sizes[name].i) for name in ("rows", "columns") if name in sizes)


def _positive(attributes: Mapping[str, Any], name: str, most: int) -> int:
    value = attributes[name]
    if not isinstance(value, int) or not 1 <= value <= most:
        raise ValueError(f"{name} is {value}; expected a number from 1 to {most}")
    return value
