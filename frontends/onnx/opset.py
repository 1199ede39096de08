"""The ai.sbnn operator set, version 1: its operators as ONNX functions, and the packing of binary weights.

Each operator has a body of standard ONNX operators, so a file that carries these functions runs unchanged in stock
onnxruntime; docs/ai.sbnn.md is the specification. The bodies keep the integer part of a layer separate: they convolve
signs first, which is exact in float32 as long as a sum has fewer than 2**24 terms, and scale afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
from onnx import FunctionProto, ModelProto, helper, parser

from . import decoder_operators

DOMAIN = "ai.sbnn"
VERSION = 1
ONNX_OPSET = 21  # version for the bodies, and for models that the exporter writes
IR_VERSION = 10  # the default of onnx is newer, and released onnxruntimes reject it
SOURCE = "sbnn_tvm.source"  # the property of a file that says how its model was traced, if not by torch.export alone

_BINARIZE = """
Binarize <lo: float = -1.0, hi: float = 1.0> (x, threshold) => (y)
{
    low = Constant <value_float: float = @lo> ()
    high = Constant <value_float: float = @hi> ()
    above = Greater (x, threshold)
    y = Where (above, high, low)
}
"""

_QUANTIZE = """
Quantize <lo: float = 0.0, step: float = 1.0> (x, thresholds) => (y)
{
    last_axis = Constant <value_ints = [-1]> ()
    column = Unsqueeze (x, last_axis)
    above = Greater (column, thresholds)
    counted = Cast <to = 1> (above)
    code = ReduceSum <keepdims = 0> (counted, last_axis)
    distance = Constant <value_float: float = @step> ()
    low = Constant <value_float: float = @lo> ()
    scaled = Mul (code, distance)
    y = Add (scaled, low)
}
"""

# weight: uint8 [rows, ceil(taps / 8)], taps: int64 [1] -> signs: float32 [rows, taps]
_UNPACK = """
    shifts = Constant <value = uint8[8] {0, 1, 2, 3, 4, 5, 6, 7}> ()
    lowest_bit = Constant <value = uint8[1] {1}> ()
    axis_0 = Constant <value_ints = [0]> ()
    axis_1 = Constant <value_ints = [1]> ()
    axis_2 = Constant <value_ints = [2]> ()
    one_row_each = Constant <value_ints = [0, -1]> ()
    one = Constant <value_float = 1.0> ()
    two = Constant <value_float = 2.0> ()
    byte = Unsqueeze (weight, axis_2)
    shifted = BitShift <direction = "RIGHT"> (byte, shifts)
    bit = BitwiseAnd (shifted, lowest_bit)
    row = Reshape (bit, one_row_each)
    without_tail = Slice (row, axis_0, taps, axis_1)
    bit_value = Cast <to = 1> (without_tail)
    doubled = Mul (bit_value, two)
    signs = Sub (doubled, one)
"""

_BINARY_CONV2D = f"""
BinaryConv2d <weight_shape, strides: ints = [1, 1], pads: ints = [0, 0, 0, 0], dilations: ints = [1, 1],
              group: int = 1, pad_value: int = 0> (x, weight, scale, offset) => (y)
{{
    shape = Constant <value_ints: ints = @weight_shape> ()
    begin = Constant <value_ints = [1]> ()
    end = Constant <value_ints = [4]> ()
    filter_shape = Slice (shape, begin, end)
    taps = ReduceProd <keepdims = 1> (filter_shape)
    {_UNPACK}
    kernel = Reshape (signs, shape)

    amounts = Constant <value_ints: ints = @pads> ()
    border = Constant <value_int: int = @pad_value> ()
    border_value = Cast <to = 1> (border)
    image_axes = Constant <value_ints = [2, 3]> ()
    padded = Pad (x, amounts, border_value, image_axes)

    d = Conv <strides: ints = @strides, dilations: ints = @dilations, group: int = @group> (padded, kernel)
    channel_shape = Constant <value_ints = [-1, 1, 1]> ()
    channel_scale = Reshape (scale, channel_shape)
    d_scaled = Mul (d, channel_scale)

    group_scalar = Constant <value_int: int = @group> ()
    groups = Reshape (group_scalar, begin)
    ones_shape = Concat <axis = 0> (groups, filter_shape)
    ones = ConstantOfShape <value = float[1] {{1.0}}> (ones_shape)
    t = Conv <strides: ints = @strides, dilations: ints = @dilations, group: int = @group> (padded, ones)
    t_of_group = Unsqueeze (t, axis_2)
    offset_shape = Concat <axis = 0> (groups, channel_shape)
    offset_of_group = Reshape (offset, offset_shape)
    t_by_group = Mul (t_of_group, offset_of_group)
    d_shape = Shape (d)
    t_scaled = Reshape (t_by_group, d_shape)
    y = Add (d_scaled, t_scaled)
}}
"""

_BINARY_LINEAR = f"""
BinaryLinear <in_features> (x, weight, scale, offset) => (y)
{{
    features = Constant <value_int: int = @in_features> ()
    vector_shape = Constant <value_ints = [1]> ()
    taps = Reshape (features, vector_shape)
    {_UNPACK}
    matrix = Transpose <perm = [1, 0]> (signs)
    d = MatMul (x, matrix)
    d_scaled = Mul (d, scale)
    last_axis = Constant <value_ints = [-1]> ()
    t = ReduceSum <keepdims = 1> (x, last_axis)
    t_scaled = Mul (t, offset)
    y = Add (d_scaled, t_scaled)
}}
"""


@cache
def _functions() -> dict[str, FunctionProto]:
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {ONNX_OPSET}]>'
    parsed = (
        parser.parse_function(header + text)
        for text in (_BINARIZE, _QUANTIZE, _BINARY_CONV2D, _BINARY_LINEAR, *decoder_operators.BODIES)
    )
    return {function.name: function for function in parsed}


OPERATORS = ("Binarize", "Quantize", "BinaryConv2d", "BinaryLinear", *decoder_operators.DECODER_OPERATORS)


def function(operator: str) -> FunctionProto:
    """The body of one operator.

    Args:
        operator: One of ``OPERATORS``.

    Returns:
        A new FunctionProto of domain ai.sbnn.

    Raises:
        KeyError: If ai.sbnn version 1 has no such operator.
    """
    copy = FunctionProto()
    copy.CopyFrom(_functions()[operator])
    return copy


def has_other_body(other: FunctionProto) -> bool:
    """Whether a function of domain ai.sbnn computes anything else than version 1 says, or is no operator of it.

    Names and descriptions of nodes, and declared types, do not count.
    """
    known = _functions().get(other.name)
    return known is None or _computation(known) != _computation(other)


def _computation(function: FunctionProto) -> FunctionProto:
    copy = FunctionProto(input=function.input, output=function.output)
    copy.attribute.extend(sorted((*function.attribute, *(default.name for default in function.attribute_proto))))
    copy.attribute_proto.extend(sorted(function.attribute_proto, key=lambda default: default.name))
    for node in function.node:
        kept = copy.node.add(op_type=node.op_type, domain=node.domain, input=node.input, output=node.output)
        kept.attribute.extend(sorted(node.attribute, key=lambda attribute: attribute.name))
    return copy


def add_functions(model: ModelProto) -> ModelProto:
    """Adds to a model the bodies and opset imports of the ai.sbnn operators that it uses, in place.

    Also sets an IR version that released onnxruntimes read.

    Args:
        model: A model whose ai.sbnn nodes have no bodies yet; its default opset is ``ONNX_OPSET``.

    Returns:
        The same model.

    Raises:
        ValueError: If it uses an operator that ai.sbnn version 1 does not have.
    """
    used = sorted({node.op_type for node in model.graph.node if node.domain == DOMAIN})
    if unknown := [name for name in used if name not in OPERATORS]:
        raise ValueError(f"{DOMAIN} version {VERSION} has no operator {unknown[0]}, only {', '.join(OPERATORS)}")
    present = {proto.name for proto in model.functions if proto.domain == DOMAIN}
    model.functions.extend(function(name) for name in used if name not in present)
    if used and all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, VERSION))
    model.ir_version = min(model.ir_version or IR_VERSION, IR_VERSION)
    return model


def pack_bits(bits: np.ndarray) -> np.ndarray:
    """Packs bits row by row, the first of eight in the lowest bit of a byte.

    Args:
        bits: [rows, ...], nonzero is bit 1; the other axes are packed in row-major order.

    Returns:
        uint8 [rows, ceil(K / 8)] for K bits per row; the unused high bits of a row's last byte are 0.

    Examples:
        >>> pack_bits(np.array([[1, 0, 0, 0, 0, 0, 0, 0, 1]]))
        array([[1, 1]], dtype=uint8)
    """
    rows = np.asarray(bits).astype(bool)
    return np.packbits(rows.reshape(len(rows), -1), axis=1, bitorder="little")


def unpack_bits(packed: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """The inverse of pack_bits.

    Args:
        packed: uint8 [rows, ceil(K / 8)].
        shape: [rows, ...], the shape of the bits, with K bits per row.

    Returns:
        bool [rows, ...] of the given shape.

    Raises:
        ValueError: If ``packed`` is not uint8 of the size that the shape needs.
    """
    taps = math.prod(shape[1:])
    expected = (shape[0], -(-taps // 8))
    if packed.dtype != np.uint8 or packed.shape != expected:
        raise ValueError(
            f"packed weights of shape {tuple(shape)} are uint8 {list(expected)}, "
            f"but got {packed.dtype} {list(packed.shape)}"
        )
    return np.unpackbits(packed, axis=1, count=taps, bitorder="little").astype(bool).reshape(tuple(shape))
