"""Popcount convolutions of codes of several bits, and codes as outputs of convolutions, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    IntegerThreshold,
    LevelsOutput,
    Program,
    Ref,
    Scalar,
)
from sbnn_tvm.schedules.layouts.words import pack_codes
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.support.conv2d_shapes import SHAPES
from tests.support.epilogues import integer_thresholds, rich_program, rising_thresholds
from tests.support.kernel_execution import FEWER, TARGETS, run, target_for
from tests.support.packing import pack_groups
from tests.support.random_arrays import bits_and_signs, codes_and_levels
from tests.support.reference.convolution import conv2d

TAILS = SHAPES["channel tails"]


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", ["plain", "asymmetric", "dilated", "1x1", "all border", "2 groups"])
def test_popcount_conv2d_of_two_bits(shape: str, name: str, rng: np.random.Generator) -> None:
    check_conv2d(rng, SHAPES[shape], name, 2, 2, 0)


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize(
    "bits, out_bits, pad_value", [(3, 2, 0), (4, 1, 0), (1, 4, 1), (2, 3, -3), (2, 2, 1), (3, 3, 5)]
)
@pytest.mark.parametrize("shape", ["channel tails", "3 odd groups"])
def test_popcount_conv2d_of_codes(
    shape: str, bits: int, out_bits: int, pad_value: int, name: str, rng: np.random.Generator
) -> None:
    check_conv2d(rng, SHAPES[shape], name, bits, out_bits, pad_value)


def check_conv2d(
    rng: np.random.Generator, shape: Conv2dShape, name: str, bits: int, out_bits: int, pad_value: int
) -> None:
    target = target_for(name)
    codes, x = codes_and_levels(rng, bits, shape.batch, shape.height, shape.width, shape.in_channels)
    w_bits, w = bits_and_signs(rng, shape.out_channels, shape.group_in_channels, *shape.kernel)
    data, sums = pack_groups(codes, shape.groups, target.isa, bits), conv2d(x, w, shape, pad_value)
    threshold, expected = integer_thresholds(rng, sums, out_bits)

    (stored,) = run(popcount_conv2d(shape, w_bits, pad_value, STORE, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(stored, sums)
    (words,) = run(popcount_conv2d(shape, w_bits, pad_value, threshold, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(words, pack_codes(expected, out_bits, target.isa))


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("shape", ["channel tails", "2 groups", "depthwise"])
def test_programs_store_codes(shape: str, name: str, rng: np.random.Generator) -> None:
    target, of = target_for(name), SHAPES[shape]
    codes, x = codes_and_levels(rng, 2, of.batch, of.height, of.width, of.in_channels)
    w_bits, w = bits_and_signs(rng, of.out_channels, of.group_in_channels, *of.kernel)
    program, tensors = rich_program(rng, of)
    outputs = (LevelsOutput(Ref(3), rising_thresholds(rng, 2, of.out_channels, 9)), *program.outputs)
    outputs += (LevelsOutput(Ref(5), (Scalar(-1.0), Scalar(0.0), Scalar(0.0), *map(Scalar, (1.0, 2.0, 3.0, 5.0)))),)
    program = Program(program.steps, outputs)
    sums, classes = conv2d(x, w, of), of.border_classes()
    for kernel, data in (
        (popcount_conv2d(of, w_bits, 0, program, target.isa, bits=2), pack_groups(codes, of.groups, target.isa, 2)),
        (float_conv2d(of, w.astype(np.float32), program, target.isa), x.astype(np.float32)),
    ):
        stored = run(kernel, target, data, *tensors)
        for output, reference in zip(stored, evaluate(program, sums, tensors, target.isa, classes), strict=True):
            np.testing.assert_array_equal(output, reference)


def test_errors_name_what_does_not_fit() -> None:
    isa = target_for("native").isa
    signs = np.ones((43, 37, 3, 3), bool)
    two = IntegerThreshold(np.zeros((2, 43), np.int64), np.zeros(43, bool))
    with pytest.raises(ValueError, match=r"2\^n - 1 thresholds, not 2"):
        popcount_conv2d(TAILS, signs, 0, two, isa)
    with pytest.raises(ValueError, match="2-bit codes pads with 0 or an odd number up to 3, not 2"):
        popcount_conv2d(TAILS, signs, 2, STORE, isa, bits=2)
