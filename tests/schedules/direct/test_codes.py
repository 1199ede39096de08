"""The popcount kernels on codes of several bits, and codes as outputs, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from sbnn_tvm.schedules.direct.conv2d import float_conv2d, popcount_conv2d
from sbnn_tvm.schedules.direct.dense import popcount_dense
from sbnn_tvm.schedules.elementwise.maps import elementwise
from sbnn_tvm.schedules.epilogue.interpreter import evaluate
from sbnn_tvm.schedules.epilogue.program import (
    STORE,
    Channel,
    FloatOutput,
    IntegerThreshold,
    LevelsOutput,
    Program,
    Ref,
    Scalar,
    Step,
)
from sbnn_tvm.schedules.isa import Isa
from sbnn_tvm.schedules.layouts.words import pack_codes, unpack_codes
from sbnn_tvm.schedules.shapes import Conv2dShape
from tests.schedules.direct.test_conv2d import FEWER, SHAPES, TARGETS, convolve, rich_program, signs_of
from tests.support.kernel_execution import run, target_for

TAILS = SHAPES["channel tails"]


def codes_of(rng: np.random.Generator, bits: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random codes, and the odd numbers that they stand for."""
    codes = rng.integers(0, 1 << bits, shape)
    return codes, 2 * codes - (1 << bits) + 1


def pack_groups(codes: np.ndarray, bits: int, groups: int, isa: Isa) -> np.ndarray:
    split = np.split(codes, groups, axis=-1)
    return np.concatenate([pack_codes(group, bits, isa) for group in split], axis=-1)


def integer_thresholds(rng: np.random.Generator, sums: np.ndarray, bits: int) -> tuple[IntegerThreshold, np.ndarray]:
    """Thresholds that sums hit exactly, that are equal or out of range, in both directions; and the codes they make."""
    channels, count = sums.shape[-1], (1 << bits) - 1
    flat = sums.reshape(-1, channels)
    threshold = flat[rng.integers(0, len(flat), (count, channels)), np.arange(channels)].astype(np.int64)
    threshold[:, 1::7] += 1
    threshold[count // 2 :, 2::11] = 10**6
    threshold[0, 3::11] = -(10**6)
    flip = rng.integers(0, 2, channels).astype(bool)
    threshold = np.where(flip, -np.sort(-threshold, axis=0), np.sort(threshold, axis=0))
    exceeded = np.where(flip, sums[..., None, :] <= threshold, sums[..., None, :] >= threshold)
    return IntegerThreshold(threshold if bits > 1 else threshold[0], flip), exceeded.sum(axis=-2)


def rising(rng: np.random.Generator, bits: int, channels: int, spread: float) -> tuple[Channel, ...]:
    """Thresholds of a code a channel."""
    values = np.sort(rng.standard_normal(((1 << bits) - 1, channels)) * spread, axis=0).astype(np.float32)
    return tuple(map(Channel, values))


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
def test_codes_round_trip(bits: int) -> None:
    isa = target_for("native").isa
    codes = np.random.default_rng(0).integers(0, 1 << bits, (2, 3, 2, 67))
    packed = pack_codes(codes, bits, isa)
    assert packed.shape == ((2, 3, 2, 2) if bits == 1 else (2, bits, 3, 2, 2))
    np.testing.assert_array_equal(unpack_codes(packed, 67, bits), codes)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("shape", ["plain", "asymmetric", "dilated", "1x1", "all border", "2 groups"])
def test_popcount_conv2d_of_two_bits(shape: str, name: str) -> None:
    check_conv2d(SHAPES[shape], name, 2, 2, 0)


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize(
    "bits, out_bits, pad_value", [(3, 2, 0), (4, 1, 0), (1, 4, 1), (2, 3, -3), (2, 2, 1), (3, 3, 5)]
)
@pytest.mark.parametrize("shape", ["channel tails", "3 odd groups"])
def test_popcount_conv2d_of_codes(shape: str, bits: int, out_bits: int, pad_value: int, name: str) -> None:
    check_conv2d(SHAPES[shape], name, bits, out_bits, pad_value)


def check_conv2d(shape: Conv2dShape, name: str, bits: int, out_bits: int, pad_value: int) -> None:
    target, rng = target_for(name), np.random.default_rng(3)
    codes, x = codes_of(rng, bits, shape.batch, shape.height, shape.width, shape.in_channels)
    w_bits, w = signs_of(rng, shape.out_channels, shape.group_in_channels, *shape.kernel)
    data, sums = pack_groups(codes, bits, shape.groups, target.isa), convolve(x, w, shape, pad_value)
    threshold, expected = integer_thresholds(rng, sums, out_bits)

    (stored,) = run(popcount_conv2d(shape, w_bits, pad_value, STORE, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(stored, sums)
    (words,) = run(popcount_conv2d(shape, w_bits, pad_value, threshold, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(words, pack_codes(expected, out_bits, target.isa))


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("shape", ["channel tails", "2 groups", "depthwise"])
def test_programs_store_codes(shape: str, name: str) -> None:
    target, rng, of = target_for(name), np.random.default_rng(4), SHAPES[shape]
    codes, x = codes_of(rng, 2, of.batch, of.height, of.width, of.in_channels)
    w_bits, w = signs_of(rng, of.out_channels, of.group_in_channels, *of.kernel)
    program, tensors = rich_program(rng, of)
    outputs = (LevelsOutput(Ref(3), rising(rng, 2, of.out_channels, 9)), *program.outputs)
    outputs += (LevelsOutput(Ref(5), (Scalar(-1.0), Scalar(0.0), Scalar(0.0), *map(Scalar, (1.0, 2.0, 3.0, 5.0)))),)
    program = Program(program.steps, outputs)
    sums, classes = convolve(x, w, of), of.border_classes()
    for kernel, data in (
        (popcount_conv2d(of, w_bits, 0, program, target.isa, bits=2), pack_groups(codes, 2, of.groups, target.isa)),
        (float_conv2d(of, w.astype(np.float32), program, target.isa), x.astype(np.float32)),
    ):
        stored = run(kernel, target, data, *tensors)
        for output, reference in zip(stored, evaluate(program, sums, tensors, target.isa, classes), strict=True):
            np.testing.assert_array_equal(output, reference)


@pytest.mark.parametrize("name", FEWER)
@pytest.mark.parametrize("batch, depth, channels, bits", [(1, 300, 100, 2), (5, 130, 67, 3), (17, 33, 8, 2)])
def test_dense_of_codes(batch: int, depth: int, channels: int, bits: int, name: str) -> None:
    target, rng = target_for(name), np.random.default_rng(6)
    codes, x = codes_of(rng, bits, batch, depth)
    w_bits, w = signs_of(rng, channels, depth)
    data, sums = pack_codes(codes, bits, target.isa), x @ w.T
    threshold, expected = integer_thresholds(rng, sums, bits)
    (words,) = run(popcount_dense(batch, w_bits, threshold, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(words, pack_codes(expected, bits, target.isa))
    program = Program((Step("multiply", Ref(0), Scalar(0.5)),), (FloatOutput(Ref(1)),))
    (stored,) = run(popcount_dense(batch, w_bits, program, target.isa, bits=bits), target, data)
    np.testing.assert_array_equal(stored, sums / 2)


@pytest.mark.parametrize("name", FEWER)
def test_sums_beyond_a_narrow_counter(name: str) -> None:
    """Windows whose popcounts fit 16 bits a plane, but not their sum."""
    target, rng = target_for(name), np.random.default_rng(9)
    for depth in (21845, 21846):
        codes = rng.integers(0, 4, (1, depth))
        w_bits = np.stack([codes[0] > 1, codes[0] <= 1, rng.integers(0, 2, depth) > 0])
        sums = (2 * codes - 3) @ np.where(w_bits, 1, -1).T
        data = pack_codes(codes, 2, target.isa)
        threshold, expected = integer_thresholds(rng, sums, 2)
        (words,) = run(popcount_dense(1, w_bits, threshold, target.isa, bits=2), target, data)
        np.testing.assert_array_equal(words, pack_codes(expected, 2, target.isa))


@pytest.mark.parametrize("name", FEWER)
def test_elementwise_codes(name: str) -> None:
    target, rng = target_for(name), np.random.default_rng(8)
    for shape in ((2, 3, 5, 37), (7, 130)):
        x = rng.standard_normal(shape).astype(np.float32)
        thresholds = rising(rng, 3, shape[-1], 1)
        x[0] = thresholds[2].values  # ties
        program = Program((), (LevelsOutput(Ref(0), thresholds), FloatOutput(Ref(0))))
        words, floats = run(elementwise(shape, program, target.isa), target, x)
        np.testing.assert_array_equal(words, evaluate(program, x, (), target.isa)[0])
        np.testing.assert_array_equal(floats, x)


def test_errors_name_what_does_not_fit() -> None:
    isa = target_for("native").isa
    signs = np.ones((43, 37, 3, 3), bool)
    two = IntegerThreshold(np.zeros((2, 43), np.int64), np.zeros(43, bool))
    with pytest.raises(ValueError, match=r"2\^n - 1 thresholds, not 2"):
        popcount_conv2d(TAILS, signs, 0, two, isa)
    with pytest.raises(ValueError, match="2-bit codes pads with 0 or an odd number up to 3, not 2"):
        popcount_conv2d(TAILS, signs, 2, STORE, isa, bits=2)
