"""Popcount convolutions with {0, 1} weights against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.algebra.domain import BIT, BinaryDomain
from sbnn_tvm.schedules.direct.conv2d import popcount_conv2d
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import STORE
from sbnn_tvm.schedules.layouts.words import pack_codes
from tests.support.conv2d_shapes import SHAPES
from tests.support.epilogues import integer_thresholds, rich_program
from tests.support.kernel_execution import TARGETS, run, target_for
from tests.support.packing import pack_groups
from tests.support.random_arrays import codes_and_levels
from tests.support.reference.convolution import conv2d


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", ["2 groups", "channel tails"])
def test_convolution(shape: str, name: str, rng: np.random.Generator) -> None:
    check(rng, shape, name, 0, 1)


@pytest.mark.parametrize(
    "shape, pad_value, bits, flips",
    [("asymmetric", -1, 1, False), ("all border", 1, 1, True), ("dilated", 0, 2, True), ("3 odd groups", 3, 2, False)],
)
def test_paddings_and_codes(shape: str, pad_value: int, bits: int, flips: bool, rng: np.random.Generator) -> None:
    check(rng, shape, "native", pad_value, bits, flips)


def check(rng: np.random.Generator, shape_name: str, name: str, pad_value: int, bits: int, flips: bool = True) -> None:
    shape, target = SHAPES[shape_name], target_for(name)
    codes, x = codes_and_levels(rng, bits, shape.batch, shape.height, shape.width, shape.in_channels)
    w = rng.random((shape.out_channels, shape.group_in_channels, *shape.kernel)) < 0.3
    w[0], w[-1] = False, True
    data, sums = pack_groups(codes, shape.groups, target.isa, bits), conv2d(x, w.astype(np.int64), shape, pad_value)
    threshold, expected = integer_thresholds(rng, sums, 1)
    if not flips:
        threshold.flip[:] = False
        expected = sums >= threshold.threshold
    kernel = popcount_conv2d(shape, w, pad_value, threshold, target.isa, bits=bits, weight_domain=BIT)
    (words,) = run(kernel, target, data)
    np.testing.assert_array_equal(words, pack_codes(expected, 1, target.isa))
    program, tensors = rich_program(rng, shape)
    kernel = popcount_conv2d(shape, w, pad_value, program, target.isa, bits=bits, weight_domain=BIT)
    references = evaluate(program, sums, tensors, target.isa, shape.border_classes())
    for output, reference in zip(run(kernel, target, data, *tensors), references, strict=True):
        np.testing.assert_array_equal(output, reference)


def test_other_weights_are_refused() -> None:
    shape, isa = SHAPES["plain"], target_for("native").isa
    bits = np.zeros((shape.out_channels, shape.group_in_channels, *shape.kernel), bool)
    with pytest.raises(ValueError, match=r"in \{-1, 1\} or \{0, 1\}, not \{0, 2\}"):
        popcount_conv2d(shape, bits, 0, STORE, isa, weight_domain=BinaryDomain(0, 2))
